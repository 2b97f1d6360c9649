"""Evidence, and what the reports show of it."""

__all__ = ["batch_register", "charts", "evidence"]
