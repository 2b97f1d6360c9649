"""Erasing every copy of released records, with receipts: the erasure is planned, each store is
erased and searched again, and a list of keyed hashes finds copies that come back."""

__all__ = ["carry_out", "comebacks", "receipts", "report_renewal"]
