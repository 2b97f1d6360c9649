"""Read the registers of batches, and what earlier batches left for a summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tasks.common import files
from tasks.common.errors import AuditError, EvidenceError
from tasks.reporting.batch_register.schema import FILE, BatchRegister, Earlier, Past, checked


def read(folder: Path) -> BatchRegister:
    """The register of a batch, from its folder of reports.

    Raises:
        AuditError: there is none, or it cannot be read.
    """
    register = checked(files.read_json(folder / FILE), f"{folder.name}/{FILE}")
    if register.batch != folder.name:
        raise EvidenceError(
            f"{folder.name}/{FILE}: it is of batch {register.batch}; restore it with git"
        )
    return register


def read_all(reports: Path) -> tuple[list[BatchRegister], dict[str, str]]:
    """The registers of all batches, the latest first, and why others cannot be read, by the name of
    their folder."""
    registers, unreadable = [], {}
    for folder in sorted(path.parent for path in reports.glob(f"*/{FILE}")):
        try:
            registers.append(read(folder))
        except AuditError as error:
            unreadable[folder.name] = str(error)
    return sorted(
        registers, key=lambda register: (register.started, register.batch), reverse=True
    ), unreadable


def past(register: BatchRegister) -> Past:
    """What a later batch's record keeps of this one."""
    due = register.deadlines
    return Past(
        batch=register.batch,
        started=register.started,
        requests=len(register.requests),
        counts={str(outcome): count for outcome, count in register.counts.items()},
        overdue=due.overdue,
        dated=due.overdue + due.soon + due.later,
        method=register.method,
        cost=register.cost,
        progress=register.progress,
    )


def earlier(record: Mapping[str, Any]) -> list[Past]:
    """The earlier batches that a batch's record names, the oldest first; a record of an earlier
    version names none.

    Raises:
        EvidenceError: they are not what they have to be.
    """
    try:
        batches = Earlier.validate_python(record.get("earlier", []))
    except ValidationError as error:
        raise EvidenceError(
            f"the batch record, earlier: {error.errors()[0]['msg']}; run again"
        ) from None
    return sorted(batches, key=lambda batch: (batch.started, batch.batch))
