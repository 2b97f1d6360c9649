"""Facts from the register of requests for the reports: identity checks, extensions, refusals,
letters, notices to recipients, and exceptions."""

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
"""Kinds of notes on one request: a letter was sent to the data subject; the data subject's ground
for the request."""
NOTICE, EXCEPTION = "recipient_told", "exception_claimed"
"""Kinds of notes on a request or a batch, which become entries of its decisions."""


def of_batch(register: Register, batch: str) -> dict[str, dict[str, Any]]:
    """The facts of a batch by request: `registered` in `ledger/decisions/<batch>.json`.

    The last identity check counts; how it was made is stated, never whose identity it was. For a
    request that the batch set aside and that was corrected later, only earlier events count.
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
    return {request: request_facts for request, request_facts in facts.items() if request_facts}


def of_request(history: Sequence[Event]) -> dict[str, Any]:
    """The facts of one request from its events, the oldest first."""
    facts: dict[str, Any] = {}
    for event in history:
        who_and_when = {"at": event.at, "by": event.actor}
        details = event.details
        if event.kind == State.IDENTITY_VERIFIED and details.get("how"):
            facts["identity"] = {**who_and_when, "how": details["how"]}
        elif event.kind == EXTENDED:
            facts["extension"] = {**who_and_when, "reason": details["reason"], "to": details["to"]}
        elif event.kind == State.REJECTED and details.get("reason") and "code" not in details:
            # a code means that the audit set it aside; no person refused it
            ground = {"ground": details["ground"]} if details.get("ground") else {}
            facts["refusal"] = {**who_and_when, "reason": details["reason"], **ground}
        elif event.kind == LETTER:
            letter = {**who_and_when, "how": details["how"], "kind": details["letter"]}
            facts.setdefault("letters", []).append(letter)
        elif event.kind == GROUND:
            facts["ground"] = details["ground"]
    return facts


def parties(workspace: Path) -> list[str]:
    """The recipients and processors that the settings of a workspace or a checkout name."""
    return _parties(settings.load(workspace / "params.yaml"))


def parties_at(home: Path, revision: str) -> list[str]:
    """The parties that the settings of a revision name, for the reports of a closed batch."""
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    with git.objects(home) as objects:
        content = objects.read(f"{revision}:{prefix}params.yaml")
    return _parties(settings.parse(YAML(typ="safe").load(content or b"{}"), revision))


def _parties(chosen: settings.Settings) -> list[str]:
    recipients = [party.name for party in chosen.report.recipients]
    return recipients + [party.name for party in chosen.report.processors]


def in_decisions(
    filed: Mapping[str, Any], register: Register, batch: str, known_parties: Container[str]
) -> dict[str, Any]:
    """A batch's decisions with the facts of the register; entries made by hand stay.

    Args:
        filed: the decisions so far.
        register: the register of requests.
        batch: its name.
        known_parties: the parties that the settings of its reports name; notices to others are
            omitted.
    """
    events = register.history(batch=batch)
    notices = [
        _entry(event, "to", "comment")
        for event in events
        if event.kind == NOTICE and event.details["to"] in known_parties
    ]
    claims = [_entry(event, "ground", "reason") for event in events if event.kind == EXCEPTION]
    return {
        **filed,
        "registered": of_batch(register, batch),
        "notices": _added(filed.get("notices", []), notices),
        "exceptions": _added(filed.get("exceptions", []), claims),
    }


def file(workspace: Path, register: Register, batch: str) -> None:
    """Write the facts into the batch's decisions; other entries stay."""
    path = workspace / decisions.FOLDER / f"{batch}.json"
    filed = files.read_json(path) if path.exists() else decisions.EMPTY
    content = in_decisions(filed, register, batch, parties(workspace))
    if content != filed:
        files.write_json(path, content)


def closed(home: Path, register: Register | None = None) -> set[tuple[str, str]]:
    """Batch and id of the closed requests; empty if the workspace has no register.

    Args:
        home: the workspace.
        register: its register; None: it is opened, if there is one.
    """
    if register is not None:
        return {(str(case.batch), case.request_id) for case in register.cases([State.CLOSED])}
    if not (home / database.FILE).exists() and not environment.secret(database.URL):
        return set()
    with opened(home) as opened_register:
        return closed(home, opened_register)


def _entry(event: Event, *names: str) -> dict[str, Any]:
    facts = {name: event.details[name] for name in names}
    return {"at": event.at, "by": event.actor, "request": event.request_id, **facts}


def _added(entries: list[Any], new_entries: list[Any]) -> list[Any]:
    return [*entries, *(entry for entry in new_entries if entry not in entries)]
