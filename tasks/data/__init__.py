"""The data set: its manifest, its images, whose records they are, and where data sets come from."""

__all__ = ["image_pack", "images", "importers", "people", "records"]
