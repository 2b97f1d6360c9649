"""Deletion requests: their form, whose identities they name, their pseudonyms, their deadlines, and
what people decided about them."""

__all__ = ["deadlines", "decisions", "directory", "identities", "opendsr", "pseudonyms"]
