"""What the register of requests knows and a report has to say: identity checks, extensions,
refusals, letters, notices to recipients, and exceptions."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows.register import database
from flows.register.register import CORRECTED, EXTENDED, Event, Register, State, opened
from flows.workspace import environment, git, shell
from tasks.common import files, settings
from tasks.requests import decisions

LETTER, GROUND = "letter_sent", "ground_stated"
"""Kinds of notes on one request: a letter to the data subject that was sent, and why the data
subject asks."""
NOTICE, EXCEPTION = "recipient_told", "exception_claimed"
"""Kinds of notes on a request or a batch, which become entries of its decisions."""


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
    facts = {request: of_request(events) for request, events in histories.items()}
    return {request: known for request, known in facts.items() if known}


def of_request(history: Sequence[Event]) -> dict[str, Any]:
    """The facts of one request from its events, the oldest first."""
    found: dict[str, Any] = {}
    for event in history:
        said = {"at": event.at, "by": event.actor}
        details = event.details
        if event.kind == State.IDENTITY_VERIFIED and details.get("how"):
            found["identity"] = {**said, "how": details["how"]}
        elif event.kind == EXTENDED:
            found["extension"] = {**said, "reason": details["reason"], "to": details["to"]}
        elif event.kind == State.REJECTED and details.get("reason") and "code" not in details:
            # with a code the audit set it aside, and no person refused it
            found["refusal"] = {**said, "reason": details["reason"]}
        elif event.kind == LETTER:
            letter = {**said, "how": details["how"], "kind": details["letter"]}
            found.setdefault("letters", []).append(letter)
        elif event.kind == GROUND:
            found["ground"] = details["ground"]
    return found


def parties(place: Path) -> list[str]:
    """The recipients and processors that the settings of a workspace or a checkout name."""
    return _parties(settings.load(place / "params.yaml"))


def parties_at(home: Path, revision: str) -> list[str]:
    """The same of the settings of a revision: the reports of a closed batch know no others."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    with git.objects(home) as objects:
        content = objects.read(f"{revision}:{prefix}params.yaml")
    return _parties(settings.parse(YAML(typ="safe").load(content or b"{}"), revision))


def _parties(chosen: settings.Settings) -> list[str]:
    recipients = [party.name for party in chosen.report.recipients]
    return recipients + [party.name for party in chosen.report.processors]


def in_decisions(
    filed: Mapping[str, Any], register: Register, batch: str, known: Container[str]
) -> dict[str, Any]:
    """A batch's decisions with what the register knows; entries made by hand stay.

    Args:
        filed: the decisions so far.
        register: the register of requests.
        batch: its name.
        known: the parties that the settings of its reports name; notices to others are left out.
    """
    events = register.history(batch=batch)
    notices = [
        _entry(event, "to", "comment")
        for event in events
        if event.kind == NOTICE and event.details["to"] in known
    ]
    claims = [_entry(event, "ground", "reason") for event in events if event.kind == EXCEPTION]
    return {
        **filed,
        "registered": of_batch(register, batch),
        "notices": _added(filed.get("notices", []), notices),
        "exceptions": _added(filed.get("exceptions", []), claims),
    }


def file(place: Path, register: Register, batch: str) -> None:
    """Write the facts into the batch's decisions, beside what else they hold."""
    path = place / decisions.FOLDER / f"{batch}.json"
    filed = files.read_json(path) if path.exists() else decisions.EMPTY
    content = in_decisions(filed, register, batch, parties(place))
    if content != filed:
        files.write_json(path, content)


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


def _entry(event: Event, *names: str) -> dict[str, Any]:
    facts = {name: event.details[name] for name in names}
    return {"at": event.at, "by": event.actor, "request": event.request_id, **facts}


def _added(entries: list[Any], more: list[Any]) -> list[Any]:
    return [*entries, *(entry for entry in more if entry not in entries)]
