"""Measurements on a model itself: its answers, its features, and further views of the records."""

__all__ = ["answers", "feature_probes", "views"]
