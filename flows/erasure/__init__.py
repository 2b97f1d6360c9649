"""Erasing every copy of released records, with receipts: what goes is planned, each store is
erased and looked at again, and a keyed list stays by which copies that come back are found."""

__all__ = ["carry_out", "comebacks", "papers", "receipts"]
