"""What is seen by working with a model itself: its features, and further views of the records."""

__all__ = ["feature_probes", "views"]
