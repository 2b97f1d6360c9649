"""The data set: its manifest, its images, where data sets come from."""

__all__ = ["image_pack", "importers", "records"]
