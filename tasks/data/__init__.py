"""The data set: its manifest, images and people, and importers from other formats."""

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
