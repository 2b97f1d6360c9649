"""Import data sets: a module per source. Each makes a whole data folder or none.

A data folder holds `manifest.csv`, `images/<record_id>.<ext>`, `dataset.json` with the names of the
classes, and `identities.csv` where one was given. File names hold record ids only. Nothing is
unpickled here.
"""

__all__ = ["classes", "digits", "folder", "idx", "npz", "torchvision", "writing"]
