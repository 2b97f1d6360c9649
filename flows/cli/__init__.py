"""The command `erasure-audit`, a module per group of commands."""

__all__ = ["main"]
