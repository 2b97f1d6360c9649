"""Deletion requests: parsing, identities, pseudonyms, deadlines, and people's decisions."""

__all__ = [
    "deadlines",
    "decisions",
    "directory",
    "identities",
    "opendsr",
    "provisions",
    "pseudonyms",
]
