"""The data set: its manifest, its images, whose records they are, and where data sets come from."""

__all__ = [
    "expectations",
    "image_pack",
    "images",
    "importers",
    "near_duplicates",
    "people",
    "records",
    "rules",
]
