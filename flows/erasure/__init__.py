"""Erasing every copy of released records, with receipts."""

__all__ = ["erasure", "git_history"]
