"""The file of requests that a batch is audited and erased by, compared with the register."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.intake import pseudonymise
from flows.register import anchors
from flows.register.register import CORRECTED, Case, Register, RegisterError, State
from flows.workspace import shell
from tasks.common import files
from tasks.common.errors import AuditError, WorkspaceError
from tasks.requests import opendsr, pseudonyms


def entries(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """The content of `requests/<batch>.json`, in the order of receipt."""
    ordered = sorted(cases, key=lambda case: (case.submitted, case.request_id))
    return [pseudonymise.as_entry(case) for case in ordered]


def corrected(register: Register, request_id: str, batch: str) -> bool:
    """Whether a request that this batch set aside has come again since, with another content."""
    return bool(register.history(request_id, batch, CORRECTED))


def check(home: Path, register: Register, batch: str) -> None:
    """See that nobody changed whom a batch is about; call it before its release and its erasure.

    The whole chain is checked with all anchors, every request with the chain, and the file of
    requests in the tag `audit/<batch>` with the requests. A batch of which the register knows no
    request was run by hand; only the chain is checked then.

    Raises:
        RegisterError: something was changed.
    """
    anchors.check(home, register)
    cases = {case.request_id: case for case in register.bound(batch)}
    if not cases:
        return
    try:
        text = shell.git(home, "show", f"audit/{batch}:./requests/{batch}.json")
    except WorkspaceError:  # not audited yet; there is nothing to release or to erase
        return
    for entry in json.loads(text):
        request_id = str(entry["subject_request_id"]).lower()
        if corrected(register, request_id, batch):
            continue
        case = cases.get(request_id) or _case_outside_batch(register, request_id, batch)
        # a closed request has no identities any more
        if case.state is not State.CLOSED and _people_and_records(
            home, entry
        ) != _people_and_records(home, pseudonymise.as_entry(case)):
            raise RegisterError(
                f"batch {batch} was audited for somebody else, or other records, than request "
                f"{request_id} of the register names; nothing is released or erased by it. Find "
                "out who changed which"
            )


def unknown(home: Path, register: Register) -> dict[str, int]:
    """By batch, how many requests its reports tell of that the register does not know.

    A batch that was run by hand has none in the register. For any other, the register is new,
    empty or another one.

    Raises:
        RegisterError: what is on file of a batch cannot be read.
    """
    missing: dict[str, int] = {}
    in_register = {case.request_id for case in register.cases()}
    for path in sorted((home / "reports").glob("*/register.json")):
        try:
            lines = files.read_json(path)["requests"]
            in_report = {str(line["request_id"]).lower() for line in lines}
        except (AuditError, KeyError, TypeError, ValueError) as error:
            raise RegisterError(
                f"{path.relative_to(home)}: cannot be read; `git checkout` brings it back"
            ) from error
        if absent := in_report - in_register:
            missing[path.parent.name] = len(absent)
    return missing


def _people_and_records(home: Path, entry: dict[str, Any]) -> tuple[set[tuple[str, str]], set[str]]:
    """Whom and which records an entry means, as pseudonyms."""

    def name(kind: str, value: str, form: str) -> str:
        if form == opendsr.PSEUDONYM:
            return value
        return pseudonyms.at_hand(home).of(kind, value, form)

    people = {
        (
            identity["identity_type"],
            name(
                identity["identity_type"], identity["identity_value"], identity["identity_format"]
            ),
        )
        for identity in entry["subject_identities"]
    }
    wishes = entry.get("extensions", {}).get("erasure_audit", {})
    records = {name(pseudonyms.RECORD, value, "raw") for value in wishes.get("record_ids", [])}
    return people, records | set(wishes.get("record_pseudonyms", []))


def _case_outside_batch(register: Register, request_id: str, batch: str) -> Case:
    """A request that left the batch meanwhile, as one that was queued again.

    Raises:
        RegisterError: the register has no such request.
    """
    try:
        case = register.case(request_id)
    except RegisterError as error:
        raise RegisterError(
            f"batch {batch} was audited for a request that the register does not know; nothing is "
            "released or erased by it. Find out who added it"
        ) from error
    return case
