"""Erasing every copy of released records, with receipts."""
