"""Runs stages on other machines."""

__all__ = ["dispatch", "host"]
