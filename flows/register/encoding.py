"""Encodings that the register stores and hashes: canonical JSON, SHA-256, moments as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LONGEST = 2000
"""Maximum length of a text in an event, characters; longer ones are cut off."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces, so that equal values have equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def now() -> str:
    """The current time as text."""
    return text_of(datetime.now(UTC))


def text_of(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds; texts sort by time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def storable(value: Any) -> Any:
    """A value as an event stores it: texts are cut to `LONGEST`, and characters that a database
    cannot store (NUL, half surrogate pairs) are replaced."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode().replace("\0", "�")
        return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
    if isinstance(value, Mapping):
        return {key: storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value


def queryable(*texts: str | None) -> bool:
    """Whether texts can be used in a query; PostgreSQL refuses NUL and half surrogates."""
    return all(text is None or storable(text) == text for text in texts)
