"""The register of requests: its database, its chain of events, its leases and status callbacks."""

__all__ = ["anchors", "chain", "database", "recorded", "register", "states"]
