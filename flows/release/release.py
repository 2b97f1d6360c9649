"""Release: the approved model of a batch becomes the one in use, and the next batch starts from it.

Everything is prepared in a checkout of its own, as one commit. Only then is the workspace switched
to that commit, completely or not at all. A journal beside the batches names the two commits, so the
next release continues or undoes a killed one. The register is updated last.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flows.intake import batch_requests
from flows.register.register import Register, State
from flows.release import approval, release_commit
from flows.release.release_commit import LEDGER
from flows.release.release_contents import ReleaseError
from flows.release.standing import Original
from flows.release.workspace_switch import (
    BatchRelease,
    Log,
    SwitchPlan,
    check_out,
    contains,
    may_continue,
    switch,
    undo,
)
from flows.workspace import git, shell
from tasks.common import files
from tasks.common.errors import AuditError

ACTOR = "release"
"""The actor in the register; the decisions name the people."""


@dataclass(frozen=True)
class Released:
    """The outcome of a release.

    Attributes:
        batch: its name.
        tag: of the state afterwards.
        model: its kind; None: no model saw anybody of the batch, so the one in use stays.
        weights_sha256: of the model.
        references: number of trained references for the next batch.
        records_dropped: number of records removed from the data set.
        unlearnings: of the model, since it was last trained from scratch.
        advice: why a full retrain is advised; `retrained` is one.
        at: time, RFC 3339.
        new: False if it was done before.
    """

    batch: str
    tag: str
    model: Original | None
    weights_sha256: str | None
    references: int
    records_dropped: int
    unlearnings: int
    advice: tuple[str, ...]
    at: str
    new: bool = True

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self) | {"advice": list(self.advice)}


def release(home: Path, register: Register, batch: str, log: Log = lambda _: None) -> Released:
    """Release an approved batch, or finish a release that was killed. May be repeated.

    The model becomes `releases/<batch>`, and the retrained models become the next batch's
    references, `references/<batch>`. Forgotten records, and requested records that no model saw,
    leave the data set; every remaining subject keeps its role. Copies in DVC's cache and remotes
    stay.

    Args:
        home: the workspace.
        register: its register.
        batch: an audited batch.
        log: receives the name of each step.

    Raises:
        ReleaseError: the batch is not approved or on hold, or files that the release changes have
            uncommitted changes.
        BusyError: another release is running.
        AuditError: a model is missing, or git, DVC or the remote fails. The workspace is unchanged.
    """
    name = batch.removeprefix("audit/").removeprefix("release/")
    with register.lease(approval.LEASE) as lease:
        return _run(BatchRelease(home, register, name, log, lease))


def releases(home: Path) -> list[Released]:
    """All releases of the workspace, the newest first."""
    filed = [_read(files.read_json(path)) for path in (home / LEDGER).glob("*.json")]
    return sorted(filed, key=lambda released: released.at, reverse=True)


def _run(release: BatchRelease) -> Released:
    """Continue, undo or begin a release, depending on its journal and the decisions."""
    batch_requests.check(release.home, release.register, release.batch)
    standing = approval.standing(release.home, release.register, release.batch)
    plan = SwitchPlan.read(release.journal)
    if standing.state == "released":
        release.journal.unlink(missing_ok=True)
        return _earlier_release(release)
    if plan is not None and (standing.state != "approved" or not may_continue(release, plan)):
        undo(release, plan)
        plan = None
    if standing.state != "approved":
        raise ReleaseError(
            "\n".join([f"{standing.line}; nothing is released", standing.choices_text]).rstrip()
        )
    if plan is None and not git.has_tag(release.home, release.tag):
        plan = release_commit.prepare(release, standing)
    return _promote(release, plan)


def _earlier_release(release: BatchRelease) -> Released:
    by_batch = {released.batch: released for released in releases(release.home)}
    if release.batch not in by_batch or not git.has_tag(release.home, release.tag):
        raise ReleaseError(
            f"the register says that batch {release.batch} is released, and git has no "
            f"{release.tag}; fetch it from the repository that keeps this workspace's history"
        )
    earlier = by_batch[release.batch]
    later = [
        other_release.batch
        for other_release in by_batch.values()
        if other_release.at > earlier.at and other_release.weights_sha256
    ]
    if later and earlier.weights_sha256:
        raise ReleaseError(
            f"batch {release.batch} was released on {earlier.at[:10]}, and {later[-1]} after it; "
            "going back would bring back people whom the later model has forgotten"
        )
    return replace(earlier, new=False)


def _promote(release: BatchRelease, plan: SwitchPlan | None) -> Released:
    """Switch the workspace to the release's commit, all of it or nothing; then update the
    register."""
    release.lease.check()
    try:
        if plan is not None:
            release.log("switch")
            # a workspace past the target was switched before, and has later commits
            if not contains(release.home, plan.target):
                switch(release.home, plan.source, plan.target)
            release.log("checkout")
            check_out(release, plan)
            release.log("tag")
            if not git.has_tag(release.home, release.tag):
                message = f"Release of batch {release.batch}"
                git.tag(release.home, release.tag, message, plan.target)
        release.log("register")
        _move(release)
    except BaseException as error:
        if plan is not None:
            _undo_after(release, plan, error)
        raise
    release.log("done")
    release.journal.unlink(missing_ok=True)
    return _read(files.read_json(release.home / LEDGER / f"{release.batch}.json"))


def _undo_after(release: BatchRelease, plan: SwitchPlan, error: BaseException) -> None:
    try:
        undo(release, plan)
    except AuditError as undo_error:
        error.add_note(
            f"The workspace was not restored ({undo_error}); run `erasure-audit release` again."
        )


def _move(release: BatchRelease) -> None:
    standing = approval.standing(release.home, release.register, release.batch)
    filed = files.read_json(release.home / LEDGER / f"{release.batch}.json")
    release.register.move(
        [request.request_id for request in standing.requests],
        State.RELEASED,
        ACTOR,
        tag=release.tag,
        commit=shell.git(release.home, "rev-parse", f"{release.tag}^{{commit}}"),
        model=filed["model"],
        weights_sha256=filed["weights_sha256"],
    )


def _read(filed: dict[str, Any]) -> Released:
    return Released(**{**filed, "advice": tuple(filed["advice"])})
