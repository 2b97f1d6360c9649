"""Deletion requests: their form, their pseudonyms, their deadlines, and what people decided about
them."""

__all__ = ["deadlines", "decisions", "opendsr", "pseudonyms"]
