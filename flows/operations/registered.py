"""What the register of requests knows and a report has to say: identity checks, extensions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.register.register import EXTENDED, Register, State
from tasks.common import files
from tasks.requests import decisions


def of_batch(register: Register, batch: str) -> dict[str, dict[str, Any]]:
    """By request of a batch, as `registered` in `ledger/decisions/<batch>.json`.

    Of several identity checks the last one stands. How one was checked is kept, never whose.
    """
    facts = {
        case.request_id: _facts(register, case.request_id) for case in register.cases(batch=batch)
    }
    return {request: known for request, known in facts.items() if known}


def file(place: Path, register: Register, batch: str) -> None:
    """Write the facts into the batch's decisions, beside what else they hold."""
    path = place / decisions.FOLDER / f"{batch}.json"
    filed = files.read_json(path) if path.exists() else decisions.EMPTY
    content = {**filed, "registered": of_batch(register, batch)}
    if content != filed:
        files.write_json(path, content)


def _facts(register: Register, request_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in register.history(request_id):
        if event.kind == State.IDENTITY_VERIFIED and event.details.get("how"):
            found["identity"] = {"at": event.at, "by": event.actor, "how": event.details["how"]}
        elif event.kind == EXTENDED:
            found["extension"] = {
                "at": event.at,
                "by": event.actor,
                "reason": event.details["reason"],
                "to": event.details["to"],
            }
    return found
