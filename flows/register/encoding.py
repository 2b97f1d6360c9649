"""Values as the register stores and hashes them: canonical JSON, SHA-256, moments as texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

LONGEST = 2000
"""Longest text in an event, characters; a longer one, such as a reason, is cut off."""


def canonical(value: Any) -> str:
    """JSON with sorted keys and without spaces, so that equal values have equal bytes."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def sha256(text: str) -> str:
    """SHA-256 of a text in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def now() -> str:
    """The present moment as a text."""
    return text_of(datetime.now(UTC))


def text_of(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds; the order of texts is the order of time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def storable(value: Any) -> Any:
    """A value of an event: texts are cut to `LONGEST`, and lose what a database cannot store (NUL,
    half surrogate pairs)."""
    if isinstance(value, str):
        value = value.encode(errors="replace").decode().replace("\0", "�")
        return value if len(value) <= LONGEST else value[: LONGEST - 1] + "…"
    if isinstance(value, Mapping):
        return {key: storable(item) for key, item in value.items()}
    return [storable(item) for item in value] if isinstance(value, list | tuple) else value


def queryable(text: str | None) -> bool:
    """Whether a database can be asked for a text; PostgreSQL refuses NUL and half surrogates."""
    return text is None or storable(text) == text
