"""Seeds of named random streams, the same on every machine."""

from __future__ import annotations

import hashlib


def derive(root: int, *names: str | int) -> int:
    """The seed of one named use, in [0, 2**63).

    It is a hash (SHA-256) of the root and the names, so streams of different names are independent:
    a new use, model or worker changes no other stream.
    """
    text = "/".join(str(part) for part in (root, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
