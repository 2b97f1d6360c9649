"""A pool of reference models for many batches: who is left out of which model, and the table of
their answers for every record."""

__all__ = ["folds", "renewal", "table"]
