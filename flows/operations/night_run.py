"""The night's work: requests come in, those that are due become a batch, and the batch at hand is
audited.

Each step looks at what is there and does what is missing, so a night that was killed anywhere is
continued by the next. The register says how far a batch is: batched, its audit runs; audited, its
verdicts are written down, and what is left is its commit and the tag `audit/<batch>`; awaiting
sign-off, people have their turn.
"""

from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Literal

from flows.intake import drop_folder, pseudonymise
from flows.operations import notices, signoff
from flows.operations import run_batch as batches
from flows.pipeline import cache_repair, close_batch, prepare, results, stage_runner
from flows.register.register import (
    HEADS,
    IN_BATCH,
    BusyError,
    Case,
    Lease,
    Register,
    RegisterError,
    State,
)
from flows.reports import signing
from flows.workspace import checkouts, environment, git, shell, signing_keys
from tasks.common import files, settings
from tasks.common.errors import AuditError, WorkspaceError, without_records

ACTOR = "nightly"
LEASE = "nightly"
"""What prepares and audits batches is done by one at a time."""
MANY_FAILURES = 3
"""Nights in a row after whose failure a person has to look."""
_log = logging.getLogger("erasure_audit")

Outcome = Literal["nothing_due", "awaits_signoff", "waits", "set_aside", "failed"]
Audit = Callable[[Path, str, stage_runner.Listener], None]


@dataclass(frozen=True)
class Night:
    """What a night came to.

    Attributes:
        outcome: `nothing_due`; `awaits_signoff`, the batch was audited; `waits`, the one at hand
            waits for people or its release; `set_aside`, no request of it could be acted on;
            `failed`, and the next night continues.
        batch: the batch at hand, if there is one.
        text: all of it in a sentence.
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
    """Do the night's work, or as much of it as is missing.

    A failed audit is written down and told; its requests stay in their batch.

    Args:
        home: the workspace.
        register: its register.
        listener: told what happens to stages.
        audit: how a batch is audited; None: by the Prefect flow.

    Raises:
        BusyError: another process does it right now.
        WorkspaceError: the register cannot be used.
    """
    environment.prepare(home)
    with register.lease(LEASE) as lease:
        left = _take_in(home, register)
        _tidy(home, register)
        night = _night(home, register, lease, listener, audit or in_prefect)
        if left and night.outcome == "nothing_due":
            night = replace(
                night, text=f"{night.text} {left} files of the drop folder are still being written."
            )
        register.note("night", ACTOR, batch=night.batch, outcome=night.outcome)
    notices.deliver(home)
    return night


def give_up(home: Path, register: Register, batch: str, by: str, reason: str) -> list[Case]:
    """Put the requests of a batch that cannot be audited back into the queue. Its name is not used
    again.

    Raises:
        RegisterError: the batch is audited, or no request is in it.
        BusyError: its audit runs.
    """
    with register.lease(LEASE):
        cases = [case for case in register.cases(IN_BATCH) if case.batch == batch]
        if not cases or any(case.state != State.BATCHED for case in cases):
            found = (
                "is audited; approve or reject it"
                if cases
                else "has no request that waits for its audit"
            )
            raise RegisterError(f"batch {batch} {found}")
        moved = register.move(
            [case.request_id for case in cases],
            State.IDENTITY_VERIFIED,
            by,
            reason=f"batch {batch} given up: {reason}",
        )
        checkouts.drop(home, batch)
    return moved


def in_prefect(place: Path, batch: str, listener: stage_runner.Listener) -> None:
    """Audit a batch by the Prefect flow; without Prefect where nothing is stale."""
    found = prepare.prepare(place, batch, [])
    if found.stale:
        batches.audit(found, listener)


def _take_in(home: Path, register: Register) -> int:
    """What is wrong with what comes in does not keep a batch at hand from going on. How many files
    are left."""
    try:
        return drop_folder.take(home, register).left
    except BusyError:
        pass
    except AuditError as error:
        register.note("failed", ACTOR, reason=_told(error), step="drop folder")
        notices.send(home, "The drop folder cannot be read", _told(error))
    return 0


def _tidy(home: Path, register: Register) -> None:
    """Remove the checkouts of batches that are over: rejected, given up, or erased by now."""
    flying = {case.batch for case in register.cases(IN_BATCH)}
    for tree in sorted((home / checkouts.FOLDER).glob("*/")):
        if tree.name not in flying and (tree / ".git").is_file():
            checkouts.drop(home, tree.name)


def _night(
    home: Path, register: Register, lease: Lease, listener: stage_runner.Listener, audit: Audit
) -> Night:
    batch = None
    try:
        batch = register.in_flight() or _begin(home, register)
        if batch is None:
            return Night("nothing_due", None, "No request is due.")
        found = {case.state for case in register.cases(IN_BATCH, batch=batch)}
        if not found & {State.BATCHED, State.AUDITED}:
            return _waits(home, register, batch)
        return _bring_to_signoff(home, register, lease, batch, listener, audit)
    except Exception as error:
        if not isinstance(error, AuditError):
            _log.exception("The night failed by an error that is not ours")
        _fail(home, register, batch, error)
        return Night("failed", batch, _told(error))


def _waits(home: Path, register: Register, batch: str) -> Night:
    try:
        line = signoff.standing(home, register, batch).line
    except AuditError:
        line = f"Batch {batch} waits"
    return Night("waits", batch, f"{line}. The next batch begins after it.")


def _begin(home: Path, register: Register) -> str | None:
    """A new batch, if one is due; its name."""
    chosen = settings.load(home / "params.yaml").operate
    today = datetime.now(UTC).date()
    waiting = [case for case in register.cases([State.IDENTITY_VERIFIED]) if not case.held]
    near = [
        case for case in waiting if case.due and (case.due - today).days <= chosen.batch_days_left
    ]
    if not waiting or (len(waiting) < chosen.batch_from and not near):
        return None
    name = _name(home, register, today)
    return name if register.collect(name, ACTOR, chosen.largest_batch) else None


def _name(home: Path, register: Register, today: date) -> str:
    """The day's name, with a number where there was one before; what a batch was called once means
    it for ever."""
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


def _bring_to_signoff(
    home: Path,
    register: Register,
    lease: Lease,
    batch: str,
    listener: stage_runner.Listener,
    audit: Audit,
) -> Night:
    tag = close_batch.tag_of(batch)
    if not _tagged(home, tag):
        changed = [] if checkouts.path(home, batch).exists() else checkouts.uncommitted(home)
        if _failures(register, batch) and checkouts.path(home, batch).exists():
            found = cache_repair.take_out(home, checkouts.path(home, batch))
            if found.objects or found.files:
                register.note(
                    "mended", ACTOR, batch=batch, objects=found.objects, files=found.files
                )
        place = checkouts.open(home, batch)
        if changed:
            text = f"Not in batch {batch}, for it is not committed: {', '.join(changed[:10])}"
            notices.send(home, "Changes are not committed", text, key=f"uncommitted {batch}")
        _write_requests(register, batch, place)
        with _logged(home, batch, listener) as told:
            _audit(place, register, batch, audit, told)
        # a machine that slept, or lost the database for long, may have been taken for dead
        lease.check()
        if not _write_verdicts(register, batch, place):
            checkouts.drop(home, batch)
            notices.send(
                home,
                f"Batch {batch}: nothing to do",
                "Every request of it was set aside; see the register.",
            )
            return Night(
                "set_aside",
                batch,
                f"Batch {batch}: every request was set aside, each with its reason.",
            )
        _close(register, batch, place)
    elif register.cases([State.BATCHED], batch=batch):  # it was audited by hand in its checkout
        with checkouts.at(home, tag) as copy:
            _write_verdicts(register, batch, copy)
    audited = [case.request_id for case in register.cases([State.AUDITED], batch=batch)]
    commit = shell.git(home, "rev-parse", f"{tag}^{{commit}}")
    register.move(audited, State.AWAITING_SIGNOFF, ACTOR, tag=tag, commit=commit)
    line = signoff.standing(home, register, batch).line
    notices.send(
        home, f"Batch {batch} awaits sign-off", f"{line}. `erasure-audit status` shows the choices."
    )
    return Night("awaits_signoff", batch, f"{line}.")


def _write_requests(register: Register, batch: str, place: Path) -> None:
    """The batch's file of requests: those that are in the batch now, but as they were once a
    verdict is known."""
    path = place / "requests" / f"{batch}.json"
    members = register.cases(batch=batch)
    live = [case for case in members if case.state == State.BATCHED]
    if path.exists() and len(live) != len([case for case in members if case.state in IN_BATCH]):
        return
    chosen = live if all(case.state != State.AUDITED for case in members) else members
    entries = [
        pseudonymise.as_entry(case)
        for case in sorted(chosen, key=lambda case: (case.submitted, case.request_id))
    ]
    text = files.read_json(path) if path.exists() else None
    if text != entries:
        files.write_json(path, entries)


def _audit(
    place: Path, register: Register, batch: str, audit: Audit, listener: stage_runner.Listener
) -> None:
    """Run the audit with the settings that the batch is to have. That no request is left to act on
    is no failure."""
    judged = any(event.kind == State.AUDITED for event in register.history(batch=batch))
    wishes = signoff.wishes_of(register, batch) if judged else signoff.wishes(register)
    wanted = [f"{key}={json.dumps(value)}" for key, value in wishes.items()]
    settings.assign(place / "params.yaml", [*wanted, f'batch="{batch}"'])
    try:
        audit(place, batch, listener)
    except AuditError:
        entries = _resolved(place)
        ids = {case.request_id for case in register.cases(IN_BATCH, batch=batch)}
        if set(entries) != ids or any(entry["status"] != "rejected" for entry in entries.values()):
            raise


def _write_verdicts(register: Register, batch: str, place: Path) -> bool:
    """Write down what the audit found; whether there is anything to sign off.

    Who is judged comes first, in one step: from then on the batch's file of requests stays as it
    is.

    Raises:
        WorkspaceError: the audit says nothing of a request.
    """
    found, resolved = (
        {result.request: result for result in results.read(place, batch)},
        _resolved(place),
    )
    verdicts: dict[str, str] = {}
    aside: dict[str, str] = {}
    for case in register.cases([State.BATCHED], batch=batch):
        code = resolved.get(case.request_id, {}).get("code")
        result = found.get(case.request_id)
        if code == signoff.NOT_IN_TRAINING:
            verdicts[case.request_id] = code
        elif code is not None:
            aside[case.request_id] = code
        elif result is not None and result.status == "audited":
            verdicts[case.request_id] = result.verdict
        else:
            raise WorkspaceError(
                f"batch {batch}: the audit says nothing of request {case.request_id}; it stays in "
                "the batch"
            )
    register.move(list(verdicts), State.AUDITED, ACTOR, verdicts=verdicts)
    for code in sorted(set(aside.values())):
        these = [request for request, why in aside.items() if why == code]
        register.move(
            these, State.REJECTED, ACTOR, reason=f"set aside by the audit: {code}", code=code
        )
    return bool(register.cases([State.AUDITED], batch=batch))


def _close(register: Register, batch: str, place: Path) -> None:
    """Sign, commit and tag the batch, together with the end of the register's chain."""
    key = signing_keys.at_hand(place)
    if key is not None and results.read(place, batch):
        signing.sign(place, batch, key)
    register.file_head(place / HEADS / f"{batch}.json")
    close_batch.close(place, batch)


def _resolved(place: Path) -> dict[str, dict[str, Any]]:
    """What became of each request before any model was touched, by its id."""
    path = place / "artifacts" / "resolve" / "register.json"
    if not path.exists():
        return {}
    return {entry["request_id"]: entry for entry in files.read_json(path)["batch_requests"]}


def _fail(home: Path, register: Register, batch: str | None, error: Exception) -> None:
    """Write a failure down and tell it; also when the register is what fails."""
    reason = _told(error)
    nights = 1
    with suppress(AuditError):
        register.note("failed", ACTOR, batch=batch, reason=reason)
        nights = _failures(register, batch)
    text = f"{reason}\nIts requests stay in the batch, and the next night continues."
    if batch is not None and nights >= MANY_FAILURES:
        text += (
            f"\nIt failed {nights} nights in a row, so a person has to look. `erasure-audit "
            f"nightly --give-up {batch}"
            " --by NAME --reason WHY` puts its requests back into the queue."
        )
    title = f"Batch {batch} was not audited" if batch else "The night's work failed"
    notices.send(home, title, text, key=f"failed {batch} {datetime.now(UTC).date()}")


def _failures(register: Register, batch: str | None) -> int:
    return len(register.history(batch=batch, kind="failed")) if batch else 1


def _told(error: Exception) -> str:
    """An error as the register and a message may hold it: others than ours may quote anything."""
    if isinstance(error, AuditError):
        return without_records(str(error))
    return f"{type(error).__name__}: see the log on the machine"


def _tagged(home: Path, tag: str) -> bool:
    return git.has_tag(home, tag)


@contextmanager
def _logged(
    home: Path, batch: str, listener: stage_runner.Listener
) -> Iterator[stage_runner.Listener]:
    """Write what happens to stages into the batch's log, too; its time is the sign of life that the
    watch looks at."""
    lock = threading.Lock()
    with checkouts.log_of(home, batch).open("a", encoding="utf-8") as log:

        def take(event: stage_runner.Event) -> None:
            at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            with lock:
                log.write(f"{at} {event.stage}: {event.kind} {event.text}".rstrip() + "\n")
                log.flush()
            listener(event)

        take(stage_runner.Event("night", "started"))
        yield take
