"""The HTTP service."""

__all__ = ["api", "auth", "connections"]
