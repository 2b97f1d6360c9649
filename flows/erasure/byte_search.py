"""Names in bytes of any kind: in binary files, in UTF-16, in other capitals.

A name counts where neither a letter nor a digit stands beside it, for `rec-10` is not `rec-100`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

HEAD = 6
"""Bytes by which candidates are found; shorter names are not looked for."""
_WINDOW = 2**24
"""How many bytes are looked at at once."""
_WIDTHS = (2, 4)
"""Bytes of a character in UTF-16 and UTF-32."""


class ByteSearch:
    """Looks for many names at once, in any capitals."""

    def __init__(self, names: Iterable[bytes]) -> None:
        self._by_head: dict[bytes, list[bytes]] = {}
        for name in {name.lower() for name in names if len(name) >= HEAD}:
            self._by_head.setdefault(name[:HEAD], []).append(name)
        self._pairs = np.zeros((HEAD // 2, 2**16), bool)
        for head in self._by_head:
            for number, pair in enumerate(np.frombuffer(head, "<u2")):
                self._pairs[number, pair] = True

    def within(self, content: bytes) -> bool:
        """Whether one of the names stands in bytes."""
        if not self._by_head:
            return False
        text = content.lower()
        if self._stands_in(text):
            return True
        wide = _WIDTHS if b"\0" in text else ()
        return any(self._stands_in(text[start::width]) for width in wide for start in range(width))

    def _stands_in(self, text: bytes) -> bool:
        return any(
            self._is_at(text, start + place)
            for start in range(0, len(text), _WINDOW)
            for place in self._candidates(text[start : start + _WINDOW + HEAD])
        )

    def _candidates(self, text: bytes) -> Iterator[int]:
        """Where bytes stand of which each pair is one of a name's beginning."""
        for first in (0, 1):
            pairs = np.frombuffer(text, "<u2", max(0, len(text) - first) // 2, first)
            count = len(pairs) - HEAD // 2 + 1
            if count <= 0:
                continue
            places = np.flatnonzero(self._pairs[0][pairs[:count]])
            for number in range(1, HEAD // 2):
                places = places[self._pairs[number][pairs[places + number]]]
            yield from (first + 2 * int(place) for place in places)

    def _is_at(self, text: bytes, place: int) -> bool:
        if place and text[place - 1 : place].isalnum():
            return False
        for name in self._by_head.get(text[place : place + HEAD], ()):
            end = place + len(name)
            if text.startswith(name, place) and not text[end : end + 1].isalnum():
                return True
        return False
