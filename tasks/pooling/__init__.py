"""A pool of reference models for many batches: who is left out of which model, and the table of
what they say of every record."""

__all__ = ["answers", "folds", "renewal", "table"]
