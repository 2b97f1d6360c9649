"""The night's work: take requests in, collect those that are due into a batch, audit the current
batch.

The next night continues after a kill at any point; `batch_run` has the steps of a batch.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

from flows.intake import drop_folder
from flows.operations import notices
from flows.operations import run_batch as batches
from flows.operations.batch_run import ACTOR, Audit, BatchRun, failures
from flows.pipeline import prepare, results, stage_runner
from flows.pipeline.console import counted
from flows.register import anchors, recorded
from flows.register.register import (
    IN_BATCH,
    BusyError,
    Case,
    Lease,
    Register,
    RegisterError,
    State,
)
from flows.release import approval
from flows.reports import overview
from flows.workspace import checkouts, dvc_locks, environment, git
from tasks.common import settings
from tasks.common.errors import AuditError, without_records

LEASE = "nightly"
"""Only one process at a time prepares and audits batches."""
MANY_FAILURES = 3
"""Failed nights in a row after which a person has to look."""
_log = logging.getLogger("erasure_audit")

Outcome = Literal["nothing_due", "awaits_signoff", "waits", "set_aside", "failed"]


@dataclass(frozen=True)
class Night:
    """The outcome of a night.

    Attributes:
        outcome: `nothing_due`; `awaits_signoff`, the batch was audited; `waits`, the current batch
            waits for people or its release; `set_aside`, every request was set aside, and a person
            decides; `failed`, the next night continues.
        batch: the current batch, if there is one.
        text: the outcome in a sentence.
    """

    outcome: Outcome
    batch: str | None
    text: str

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"outcome": self.outcome, "batch": self.batch, "text": self.text}


def run(
    home: Path,
    register: Register,
    listener: stage_runner.Listener = stage_runner.nobody,
    audit: Audit | None = None,
) -> Night:
    """Do the night's work, or the part that is missing.

    A failed audit is recorded and a notice is sent; its requests stay in their batch.

    Args:
        home: the workspace.
        register: its register.
        listener: receives the events of stages.
        audit: audits a batch; None: the Prefect flow.

    Raises:
        BusyError: another process does it right now.
        WorkspaceError: the register cannot be used.
    """
    environment.prepare(home)
    with register.lease(LEASE) as lease, dvc_locks.using(home):
        unfinished = _take_in(home, register)
        _tidy(home, register)
        night = _night(home, register, lease, listener, audit or in_prefect)
        if unfinished and night.outcome == "nothing_due":
            night = replace(
                night,
                text=f"{night.text} Still being written in inbox/: {counted(unfinished, 'file')}.",
            )
        register.note("night", ACTOR, batch=night.batch, outcome=night.outcome)
        if git.commit_of(home) is not None:
            anchors.anchor(home, register)
    notices.deliver(home)
    return night


def give_up(home: Path, register: Register, batch: str, by: str, reason: str) -> list[Case]:
    """Put the requests of a batch that cannot be audited back into the queue. The batch's name is
    not used again.

    Raises:
        RegisterError: the batch is audited, or no request is in it.
        BusyError: its audit runs.
    """
    with register.lease(LEASE):
        cases = [case for case in register.cases(IN_BATCH) if case.batch == batch]
        if not cases or any(case.state != State.BATCHED for case in cases):
            status = (
                "is audited; approve or reject it"
                if cases
                else "has no request that waits for its audit"
            )
            raise RegisterError(f"batch {batch} {status}")
        requeued = register.move(
            [case.request_id for case in cases],
            State.IDENTITY_VERIFIED,
            by,
            reason=f"batch {batch} given up: {reason}",
        )
        checkouts.drop(home, batch)
    return requeued


def in_prefect(workspace: Path, batch: str, listener: stage_runner.Listener) -> None:
    """Audit a batch by the Prefect flow; without Prefect if nothing is stale."""
    prepared = prepare.prepare(workspace, batch, [])
    if prepared.stale:
        batches.audit(prepared, listener)


def _take_in(home: Path, register: Register) -> int:
    """Take files in and return how many are still being written. Errors are recorded and do not
    stop the current batch."""
    try:
        return drop_folder.take(home, register).left
    except BusyError:
        pass
    except AuditError as error:
        register.note("failed", ACTOR, reason=_message(error), step="drop folder")
        notices.send(home, "The drop folder cannot be read", _message(error))
    return 0


def _tidy(home: Path, register: Register) -> None:
    """Remove the checkouts of rejected, given-up and erased batches."""
    in_flight = {case.batch for case in register.cases(IN_BATCH)}
    for tree in sorted((home / checkouts.FOLDER).glob("*/")):
        if tree.name not in in_flight and (tree / ".git").is_file():
            checkouts.drop(home, tree.name)


def _night(
    home: Path, register: Register, lease: Lease, listener: stage_runner.Listener, audit: Audit
) -> Night:
    batch = None
    try:
        batch = register.in_flight() or _begin_batch(home, register)
        if batch is None:
            return Night("nothing_due", None, "No request is due.")
        states = {case.state for case in register.cases(IN_BATCH, batch=batch)}
        if not states & {State.BATCHED, State.AUDITED}:
            return _waits(home, register, batch)
        run = BatchRun(home, register, lease, batch, audit, listener)
        return _audited(home, register, batch) if run.to_signoff() else _set_aside(home, batch)
    except Exception as error:
        if not isinstance(error, AuditError):
            _log.exception("The night failed by an error that is not ours")
        _record_failure(home, register, batch, error)
        return Night("failed", batch, _message(error))


def _audited(home: Path, register: Register, batch: str) -> Night:
    with suppress(AuditError):  # `erasure-audit register` makes these pages again
        overview.write(home, closed=recorded.closed(home, register))
    line = approval.standing(home, register, batch).line
    text = f"{line}.{_where_reports_are(home, batch)}"
    notices.send(
        home, f"Batch {batch} awaits sign-off", f"{text} `erasure-audit status` shows the choices."
    )
    return Night("awaits_signoff", batch, text)


def _set_aside(home: Path, batch: str) -> Night:
    text = f"Batch {batch}: every request was set aside and waits for a person's decision."
    notices.send(home, f"Batch {batch}: nothing to do", f"{text} The register has the reasons.")
    return Night("set_aside", batch, text)


def _waits(home: Path, register: Register, batch: str) -> Night:
    try:
        line = approval.standing(home, register, batch).line
    except AuditError:
        line = f"Batch {batch} waits"
    text = f"{line}. The next batch begins after it.{_where_reports_are(home, batch)}"
    return Night("waits", batch, text)


def _where_reports_are(home: Path, batch: str) -> str:
    page = results.index(home, batch)
    return f" Reports: {page}" if page else ""


def _begin_batch(home: Path, register: Register) -> str | None:
    """Begin a batch if one is due, and return its name."""
    operate = settings.load(home / "params.yaml").operate
    today = datetime.now(UTC).date()
    waiting = [case for case in register.cases([State.IDENTITY_VERIFIED]) if not case.held]
    urgent = [
        case for case in waiting if case.due and (case.due - today).days <= operate.batch_days_left
    ]
    if not waiting or (len(waiting) < operate.batch_from and not urgent):
        return None
    name = _new_batch_name(home, register, today)
    anchors.check(home, register)  # the requests still are about the same people
    return name if register.collect(name, ACTOR, operate.largest_batch) else None


def _new_batch_name(home: Path, register: Register, today: date) -> str:
    """The day as a name, with a number if it was used before: names of batches are never reused."""
    for number in itertools.count(1):
        name = today.isoformat() + (f"-{number}" if number > 1 else "")
        used = git.has_tag(home, f"audit/{name}") or git.has_branch(home, f"batch/{name}")
        if (
            not used
            and not (home / "requests" / f"{name}.json").exists()
            and not register.history(batch=name)
        ):
            break
    return name


def _record_failure(home: Path, register: Register, batch: str | None, error: Exception) -> None:
    """Record a failure and send a notice, also if the register itself fails."""
    reason = _message(error)
    nights = 1
    with suppress(AuditError):
        register.note("failed", ACTOR, batch=batch, reason=reason)
        nights = failures(register, batch) if batch else 1
    text = f"{reason}\nIts requests stay in the batch, and the next night continues."
    if batch is not None and nights >= MANY_FAILURES:
        text += (
            f"\nIt failed {nights} nights in a row, so a person has to look. `erasure-audit "
            f"nightly --give-up {batch}"
            " --by NAME --reason WHY` puts its requests back into the queue."
        )
    title = f"Batch {batch} was not audited" if batch else "The night's work failed"
    notices.send(home, title, text, key=f"failed {batch} {datetime.now(UTC).date()}")


def _message(error: Exception) -> str:
    """The text of an error for the register and notices. Only our own errors are quoted: others
    could hold personal data."""
    if isinstance(error, AuditError):
        return without_records(str(error))
    return f"{type(error).__name__}: see the log on the machine"
