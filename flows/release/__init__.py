"""From an audited batch to a finished one: sign-off, release, closing."""

__all__ = ["approval", "finishing", "next_audit", "release", "standing"]
