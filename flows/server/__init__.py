"""The HTTP service."""

__all__ = ["app", "auth", "connections"]
