"""The data set: its manifest, its images, where data sets come from."""
