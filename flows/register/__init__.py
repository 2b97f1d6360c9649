"""The register of requests: its tables, its events, its leases."""

__all__ = ["database", "register"]
