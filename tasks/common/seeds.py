"""Random streams by name, the same on every machine."""

from __future__ import annotations

import hashlib


def derive(root: int, *names: str | int) -> int:
    """A seed for one named use, in [0, 2**63).

    Streams of different names are independent (SHA-256 of root and names), so that adding a use, a
    model or a worker changes no other stream.
    """
    text = "/".join(str(part) for part in (root, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
