"""Finishes batches as far as decisions allow: release, erasure, closing."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.erasure import carry_out, comebacks
from flows.pipeline import close_batch
from flows.pipeline.console import counted
from flows.register import anchors, recorded
from flows.register.register import Register, State
from flows.release import approval, decided_reports
from flows.release.release import ACTOR, release
from flows.release.workspace_switch import Log
from flows.reports import overview as pages
from flows.workspace import checkouts, git, shell
from tasks.common import settings
from tasks.common.errors import AuditError


@dataclass(frozen=True)
class Finalized:
    """The outcome of finalizing: the steps that were done, and what the batch in flight waits
    for."""

    done: tuple[str, ...]
    waits: str | None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"done": list(self.done), "waits": self.waits}


def finalize(
    home: Path, register: Register, batch: str | None = None, log: Log = lambda _: None
) -> Finalized:
    """Release, erase and close batches as far as decisions allow. Steps that are done are skipped.

    Args:
        home: the workspace.
        register: its register.
        batch: only this one; None: all that are not closed.
        log: receives the name of each step.

    Raises:
        AuditError: as `release` and the erasure of copies.
    """
    done: list[str] = []
    waits = None
    for name in [batch.removeprefix("audit/")] if batch else _open_batches(home, register):
        waits = _finalize(home, register, name, log, done) or waits
    done += comebacks.look(home).lines
    in_flight = register.in_flight()
    refused = [
        case.request_id
        for case in register.cases([State.REJECTED])
        if case.batch is None or (case.batch != in_flight and batch in (None, case.batch))
    ]
    if refused:
        register.move(refused, State.CLOSED, ACTOR)
        done.append(f"{counted(len(refused), 'refused or set-aside request')} closed")
    if done:
        anchors.anchor(home, register)
    if done and (home / "reports").is_dir():
        with contextlib.suppress(AuditError):  # `erasure-audit register` makes these pages again
            pages.write(home, closed=recorded.closed(home, register))
    return Finalized(tuple(done), waits)


def _finalize(home: Path, register: Register, batch: str, log: Log, done: list[str]) -> str | None:
    """Finish one batch as far as possible; returns what it waits for."""
    if approval.carry_out_rejection(register, batch):
        checkouts.close(home, batch)
        if _file_rejection(home, register, batch, log):
            done.append(f"batch {batch} rejected, its reports filed as rejected/{batch}")
        return None
    cases = register.cases(batch=batch)
    if any(case.state in (State.BATCHED, State.AUDITED) for case in cases):
        return f"Batch {batch} is being audited"
    standing = approval.standing(home, register, batch)
    if standing.state in ("waiting", "on_hold"):
        return standing.line
    if standing.state == "approved":
        release(home, register, batch, log)
        done.append(f"batch {batch} released")
    if any(case.state == State.RELEASED for case in register.cases(batch=batch)):
        if not settings.load(home / "params.yaml").operate.erase_after_release:
            return f"Batch {batch} is released; `erasure-audit erase {batch}` erases the copies"
        carry_out.erase(home, batch, register=register, listener=log)
        done.append(f"copies of batch {batch} erased")
    erased = [case.request_id for case in register.cases([State.ERASED], batch=batch)]
    if erased:
        register.move(erased, State.CLOSED, ACTOR)
        done.append(f"batch {batch} closed")
    checkouts.close(home, batch)
    return None


def _file_rejection(home: Path, register: Register, batch: str, log: Log) -> bool:
    """File the reports of a rejected batch with the decisions, as a commit and tag of their own and
    in the workspace. Returns False if that was done before."""
    tag = f"rejected/{batch}"
    if git.has_tag(home, tag):
        return False
    with close_batch.checkout(home, close_batch.tag_of(batch)) as copy:
        if (copy / "reports" / batch).exists():
            decided_reports.write(home, copy, register, batch, log)
        paths = ("dvc.lock", "ledger", f"reports/{batch}", f"signed/{batch}")
        existing = [path for path in paths if (copy / path).exists()]
        git.commit(copy, existing, f"Rejection of batch {batch}")
        _keep_reports(home, shell.git(copy, "rev-parse", "HEAD"), batch)
        # the tag last: it marks all of this as done
        git.tag(copy, tag, f"Rejection of batch {batch}")
    return True


def _keep_reports(home: Path, commit: str, batch: str) -> None:
    """Commit a rejected batch's reports in the workspace, so that every register has them. Other
    changes stay."""
    paths = [
        path for path in (f"reports/{batch}", f"signed/{batch}") if git.has_path(home, commit, path)
    ]
    if not paths:
        return
    shell.git(home, "checkout", "--quiet", commit, "--", *paths)
    git.commit(home, paths, f"Reports of batch {batch}, which was rejected")


def _open_batches(home: Path, register: Register) -> list[str]:
    """Names of batches with requests that are not closed, and of rejected batches whose reports are
    not filed."""
    states = (State.BATCHED, State.AUDITED, State.AWAITING_SIGNOFF, State.RELEASED, State.ERASED)
    unfinished = {case.batch for case in register.cases(states) if case.batch}
    rejected = {
        event.batch
        for event in register.history(kind="decision")
        if event.details["decision"] == "refuse"
    }
    return sorted(
        unfinished
        | {batch for batch in rejected if batch and not git.has_tag(home, f"rejected/{batch}")}
    )
