"""Searches bytes of any kind for names: in binary files, in UTF-16, in any case.

A name counts only if no letter or digit is beside it: `rec-10` is not `rec-100`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

HEAD = 6
"""Number of first bytes that find candidates; shorter names are not searched for."""
_WINDOW = 2**24
"""Number of bytes that are searched at once."""
_WIDTHS = (2, 4)
"""Bytes of a character in UTF-16 and UTF-32."""


class ByteSearch:
    """Searches for many names at once, in any case."""

    def __init__(self, names: Iterable[bytes]) -> None:
        self._by_head: dict[bytes, list[bytes]] = {}
        for name in {name.lower() for name in names if len(name) >= HEAD}:
            self._by_head.setdefault(name[:HEAD], []).append(name)
        self._pairs = np.zeros((HEAD // 2, 2**16), bool)
        for head in self._by_head:
            for number, pair in enumerate(np.frombuffer(head, "<u2")):
                self._pairs[number, pair] = True

    def within(self, content: bytes) -> bool:
        """Whether bytes contain one of the names."""
        if not self._by_head:
            return False
        text = content.lower()
        if self._stands_in(text):
            return True
        wide = _WIDTHS if b"\0" in text else ()
        return any(self._stands_in(text[start::width]) for width in wide for start in range(width))

    def _stands_in(self, text: bytes) -> bool:
        return any(
            self._is_at(text, start + offset)
            for start in range(0, len(text), _WINDOW)
            for offset in self._candidates(text[start : start + _WINDOW + HEAD])
        )

    def _candidates(self, text: bytes) -> Iterator[int]:
        """Offsets at which each pair of bytes occurs at that position in the head of some name."""
        for alignment in (0, 1):
            pairs = np.frombuffer(text, "<u2", max(0, len(text) - alignment) // 2, alignment)
            count = len(pairs) - HEAD // 2 + 1
            if count <= 0:
                continue
            pair_indices = np.flatnonzero(self._pairs[0][pairs[:count]])
            for number in range(1, HEAD // 2):
                pair_indices = pair_indices[self._pairs[number][pairs[pair_indices + number]]]
            yield from (alignment + 2 * int(pair_index) for pair_index in pair_indices)

    def _is_at(self, text: bytes, offset: int) -> bool:
        if offset and text[offset - 1 : offset].isalnum():
            return False
        for name in self._by_head.get(text[offset : offset + HEAD], ()):
            end = offset + len(name)
            if text.startswith(name, offset) and not text[end : end + 1].isalnum():
                return True
        return False
