"""Reports of closed batches: signing them, checking them, the overview of all batches."""

__all__ = ["overview", "signature_checks", "signing"]
