"""What the page of requests and the summary of a batch show."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, get_args

from tasks.common.language import SENTENCES
from tasks.reporting.batch_register.schema import (
    OUTCOMES,
    SOON,
    BatchRegister,
    Past,
    Progress,
    counts,
    urgency,
)
from tasks.reporting.batch_register.stored import past

CHUNK = 50
"""Rows of one body of a page's table: the browser leaves those out of sight unpainted."""
MOST_EARLIER = 6
"""A summary shows so many earlier batches at most, to stay on its page."""


def page(registers: Sequence[BatchRegister]) -> dict[str, Any]:
    """What a page with the requests of these batches shows, the worst first; `chunks` are table
    bodies."""
    entries = [(register, line) for register in registers for line in register.requests]
    entries.sort(key=lambda entry: urgency(entry[1]))
    lines = [line for _, line in entries]
    return {
        "registers": registers,
        "counts": counts(lines),
        "rank": {outcome: rank for rank, outcome in enumerate(OUTCOMES)},
        "progresses": [
            name for name in get_args(Progress) if any(line.progress == name for line in lines)
        ],
        "soon": SOON,
        "chunks": [entries[first : first + CHUNK] for first in range(0, len(entries), CHUNK)],
        SENTENCES: {
            text: sentence
            for register in registers
            for text, sentence in register.sentences.items()
        },
        "hash": source_hash,
    }


def summary(register: BatchRegister, before: Sequence[Past]) -> dict[str, Any]:
    """What the summary of a batch shows; of the earlier batches the last ones."""
    laws = Counter((line.regulation or "–").upper() for line in register.requests)
    progress = Counter(line.progress for line in register.requests)
    this_batch = past(register)
    shown = before[-MOST_EARLIER:]
    return {
        "r": register,
        "records": sum(line.records for line in register.requests),
        "laws": laws.most_common(),
        "due": register.deadlines,
        "soon": SOON,
        "progress": {name: progress[name] for name in get_args(Progress)},
        "decided": register.progress not in ("awaiting_signoff", "set_aside"),
        "earlier": shown,
        "left_out": len(before) - len(shown),
        "own": this_batch,
        "outcomes": [
            name
            for name in OUTCOMES
            if any(batch.counts.get(name) for batch in (*shown, this_batch))
        ],
        "hash": source_hash,
    }


def source_hash(text: str) -> str:
    """A style sheet or script as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
