"""Batches that were run by hand: their requests enter the register when somebody decides on
them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.intake import pseudonymise
from flows.pipeline import close_batch
from flows.register.register import Register, State
from flows.release.standing import NOT_IN_TRAINING, Original, SignoffError
from flows.workspace import git, shell

BY_HAND = "run by hand"
"""Source of requests that were audited by `erasure-audit run` before the register knew of them."""


def adopt(home: Path, register: Register, batch: str, by: str) -> None:
    """Take the requests of a batch that was run by hand into the register, with the person who
    decides on it as actor.

    Batches of the register stay as they are.

    Raises:
        SignoffError: another batch is in flight.
    """
    if any(
        case.source != BY_HAND or case.state not in (State.BATCHED, State.AUDITED)
        for case in register.cases(batch=batch)
    ):
        return
    in_flight = register.in_flight()
    if in_flight not in (None, batch):
        raise SignoffError(
            f"batch {in_flight} is in flight; decide on it and finalize it before {batch}"
        )
    audit_commit(home, batch)
    evidence = evidence_of(home, close_batch.tag_of(batch), batch)
    ids = _receive_by_hand(home, register, batch, by, set(evidence))
    _judge_by_hand(register, batch, by, {request: evidence[request] for request in ids})


def audit_commit(home: Path, batch: str) -> str:
    """The commit of a batch's audit, which people decide on."""
    tag = close_batch.tag_of(batch)
    commit = git.commit_of(home, f"refs/tags/{tag}")
    if commit is None:
        raise SignoffError(
            f"there is no tag {tag}; a batch that is not audited cannot be decided on"
        )
    return commit


def proposed_model(home: Path, batch: str) -> Original | None:
    """The kind of the model that an audit's ladder proposes; None: none, or it has no ladder."""
    for evidence in evidence_of(home, close_batch.tag_of(batch), batch).values():
        if evidence.get("status") == "audited":  # the same in all audited requests
            model: Original | None = (evidence.get("ladder") or {}).get("model")
            return model
    return None


def evidence_of(home: Path, tag: str, batch: str) -> dict[str, dict[str, Any]]:
    """The evidence of every request of a batch at its tag, by request id."""
    listed = shell.git(home, "ls-tree", "-r", "--name-only", tag, "--", f"reports/{batch}/")
    prefix = shell.git(home, "rev-parse", "--show-prefix")
    with git.objects(home) as objects:
        all_evidence = [
            json.loads(objects.read(f"{tag}:{prefix}{path}") or b"{}")
            for path in listed.splitlines()
            if path.endswith("/evidence.json")
        ]
    return {str(evidence["request"]["id"]): evidence for evidence in all_evidence}


def _receive_by_hand(
    home: Path, register: Register, batch: str, by: str, judged: set[str]
) -> list[str]:
    """Take the requests of a batch's file into the register, except malformed and repeated entries,
    which the audit set aside by position. Returns their ids."""
    text = shell.git(home, "show", f"{close_batch.tag_of(batch)}:./requests/{batch}.json")
    ids: list[str] = []
    for value in json.loads(text):
        request_id = (
            str(value.get("subject_request_id", "")).lower() if isinstance(value, dict) else ""
        )
        if request_id not in judged or request_id in ids:
            continue
        case, _ = register.receive(pseudonymise.take_in(home, value), by, BY_HAND)
        ids.append(case.request_id)
        if case.state == State.RECEIVED:
            register.verify_identity(case.request_id, by, BY_HAND)
    return ids


def _judge_by_hand(
    register: Register, batch: str, by: str, evidence: Mapping[str, Mapping[str, Any]]
) -> None:
    """Move requests to their sign-off, and reject those that the audit set aside."""

    def in_states(*states: State) -> list[str]:
        return [request for request in evidence if register.case(request).state in states]

    register.move(in_states(State.IDENTITY_VERIFIED), State.BATCHED, by, batch=batch)
    for request in in_states(State.BATCHED, State.AUDITED):
        code = evidence[request]["request"].get("code")
        if evidence[request]["status"] == "rejected" and code != NOT_IN_TRAINING:
            register.move([request], State.REJECTED, by, reason=str(code), code=str(code))
    verdicts = {request: _verdict(evidence[request]) for request in in_states(State.BATCHED)}
    register.move(list(verdicts), State.AUDITED, by, verdicts=verdicts, how=BY_HAND)
    register.move(in_states(State.AUDITED), State.AWAITING_SIGNOFF, by, how=BY_HAND)


def _verdict(evidence: Mapping[str, Any]) -> str:
    return NOT_IN_TRAINING if evidence["status"] == "rejected" else str(evidence["verdict"])
