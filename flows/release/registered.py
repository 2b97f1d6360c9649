"""What the register of requests knows and a report has to say: identity checks, extensions."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

from flows.register import database
from flows.register.register import (
    CORRECTED,
    EXTENDED,
    Case,
    Event,
    Register,
    State,
    opened,
)
from flows.workspace import environment
from tasks.common import files, settings
from tasks.common.errors import SettingsError
from tasks.requests import decisions

TOLD = "told"
"""Kind of the events that record whom the controller told of an erasure."""


def of_batch(register: Register, batch: str) -> dict[str, dict[str, Any]]:
    """By request of a batch, as `registered` in `ledger/decisions/<batch>.json`.

    Of several identity checks the last one stands. How one was checked is kept, never whose. Of a
    request that the batch set aside, and that was corrected since, only what came before counts.
    """
    histories = {
        case.request_id: register.history(case.request_id) for case in register.cases(batch=batch)
    }
    for correction in register.history(batch=batch, kind=CORRECTED):
        request = str(correction.request_id)
        histories[request] = [
            event for event in register.history(request) if event.seq < correction.seq
        ]
    facts = {request: _facts(events) for request, events in histories.items()}
    return {request: known for request, known in facts.items() if known}


def parties(place: Path) -> list[str]:
    """The recipients and processors that the settings of a workspace or a checkout name."""
    chosen = settings.load(place / "params.yaml").report
    recipients = [party.name for party in chosen.recipients]
    return recipients + [party.name for party in chosen.processors]


def notices(register: Register, batch: str, known: Container[str]) -> list[dict[str, Any]]:
    """Who was told of the erasure of a batch's requests, as `notices` in
    `ledger/decisions/<batch>.json`.

    Args:
        register: the register of requests.
        batch: its name.
        known: the parties that the batch's settings name; its report knows no others.
    """
    members = {case.request_id for case in register.cases(batch=batch)}
    return [
        {
            "at": event.at,
            "by": event.actor,
            "request": event.request_id,
            "to": event.details["to"],
            "comment": event.details["comment"],
        }
        for event in register.history(kind=TOLD)
        if event.request_id in members and event.details["to"] in known
    ]


def note_told(
    home: Path, register: Register, case: Case, to: str, by: str, comment: str = ""
) -> None:
    """Record that a recipient or processor was told of the erasure (Art. 19 GDPR).

    Raises:
        SettingsError: the settings name nobody so.
    """
    known = parties(home)
    if to not in known:
        raise SettingsError(
            f"got {to!r}, expected a name of report.recipients or report.processors: "
            f"{', '.join(known) or 'none is set'}"
        )
    register.note(
        TOLD, by, request_id=case.request_id, batch=case.batch, to=to, comment=comment.strip()
    )


def closed(home: Path, register: Register | None = None) -> set[tuple[str, str]]:
    """Batch and id of the requests that are closed; none where the workspace has no register.

    Args:
        home: the workspace.
        register: its register; None: it is opened, if there is one.
    """
    if register is not None:
        return {(str(case.batch), case.request_id) for case in register.cases([State.CLOSED])}
    if not (home / database.FILE).exists() and not environment.secret(database.URL):
        return set()
    with opened(home) as known:
        return closed(home, known)


def file(place: Path, register: Register, batch: str) -> None:
    """Write the facts into the batch's decisions, beside what else they hold."""
    path = place / decisions.FOLDER / f"{batch}.json"
    filed = files.read_json(path) if path.exists() else decisions.EMPTY
    content = {**filed, "registered": of_batch(register, batch)}
    if content != filed:
        files.write_json(path, content)


def _facts(events: Sequence[Event]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for event in events:
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
