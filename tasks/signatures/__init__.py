"""Signatures of reports."""

__all__ = ["signing"]
