"""The file of a batch's requests, and its comparison with the register."""

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
    """Whether a request that this batch set aside was corrected later."""
    return bool(register.history(request_id, batch, CORRECTED))


def check(home: Path, register: Register, batch: str) -> None:
    """Check that nobody changed the people of a batch; call it before its release and its erasure.

    The chain is checked with all anchors, every request with the chain, and the file of requests in
    the tag `audit/<batch>` with the requests. If the register has no request of the batch, it was
    run by hand, and only the chain is checked.

    Raises:
        RegisterError: something was changed.
    """
    anchors.check(home, register)
    cases = {case.request_id: case for case in register.bound(batch)}
    if not cases:
        return
    try:
        text = shell.git(home, "show", f"audit/{batch}:./requests/{batch}.json")
    except WorkspaceError:  # not audited yet, so nothing is released or erased
        return
    for entry in json.loads(text):
        request_id = str(entry["subject_request_id"]).lower()
        if corrected(register, request_id, batch):
            continue
        case = cases.get(request_id) or _case_outside_batch(register, request_id, batch)
        # closed requests have no identities
        if case.state is not State.CLOSED and _people_and_records(
            home, entry
        ) != _people_and_records(home, pseudonymise.as_entry(case)):
            raise RegisterError(
                f"batch {batch} was audited for other people or records than request {request_id} "
                "of the register names; nothing is released or erased for it. Find out who changed "
                "which"
            )


def missing_from_register(home: Path, register: Register) -> dict[str, int]:
    """By batch, the number of reported requests that the register does not have.

    A batch that was run by hand has none in the register. For other batches, the register is new,
    empty or another one.

    Raises:
        RegisterError: the files of a batch cannot be read.
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
    """The people and records that an entry means, as pseudonyms."""

    def name(kind: str, value: str, form: str) -> str:
        if form == opendsr.PSEUDONYM:
            return value
        return pseudonyms.load_key(home).of(kind, value, form)

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
    """A request that left the batch, for example because it was queued again.

    Raises:
        RegisterError: the register has no such request.
    """
    try:
        case = register.case(request_id)
    except RegisterError as error:
        raise RegisterError(
            f"batch {batch} was audited for a request that the register does not have; nothing is "
            "released or erased for it. Find out who added it"
        ) from error
    return case
