"""Release: the approved model of a batch becomes the one in use, and the next batch starts from it.

Everything is prepared in a checkout of its own and ends as one commit. Only then the workspace is
brought from the commit it is at to that one: as a whole, or back to where it was. A journal beside
the batches says which of the two commits it is between, so that a killed release is continued, or
undone, by the next one. The register follows last.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.erasure import comebacks
from flows.intake import batch_requests
from flows.operations import registered, signoff
from flows.operations.release_contents import (
    REFERENCES,
    RELEASES,
    Inputs,
    ReleaseError,
    drop_records,
    write_models,
)
from flows.pipeline import close_batch, stage_runner
from flows.register.anchors import HEADS
from flows.register.register import Lease, Register, State
from flows.reports import overview as pages
from flows.reports import signing
from flows.workspace import checkouts, dvc_graph, dvc_locks, git, shell, signing_keys
from tasks.common import files, settings
from tasks.common.errors import AuditError, WorkspaceError
from tasks.data import records
from tasks.requests import decisions

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

LEDGER = Path("ledger/releases")
"""What was released, one file per batch; git keeps it."""
ACTOR = "release"
"""Who moves requests in the register; who decided stands in the decisions."""
_MANY = 500
"""Paths given to git at once."""


@dataclass(frozen=True)
class Released:
    """What a release came to.

    Attributes:
        batch: its name.
        tag: that names the state afterwards.
        model: which one; None: no model saw anybody of the batch, so the one in use stays.
        weights_sha256: of the model.
        references: models that the next batch finds trained.
        records_dropped: records that have left the data set.
        unlearnings: of the model, since it was last trained from scratch.
        advice: why a full retrain is advised, which `retrained` would be.
        at: when, RFC 3339.
        new: whether it was done now, and not before.
    """

    batch: str
    tag: str
    model: signoff.Original | None
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


Told = Callable[[str], None]
"""Is told the name of each step before it is taken."""


def tag_of(batch: str) -> str:
    """The git tag of a release; serving systems take the model by it."""
    return f"release/{batch}"


def release(home: Path, register: Register, batch: str, told: Told = lambda _: None) -> Released:
    """Release an approved batch, or finish a release that was killed. Done twice, it says that it
    was done.

    The model becomes `releases/<batch>`, the retrained models the next batch's references,
    `references/<batch>`; the forgotten records, and those that no model saw, leave the data set, in
    which every subject keeps his role. Copies in DVC's cache and remotes are not erased by this.

    Args:
        home: the workspace.
        register: its register.
        batch: an audited batch.
        told: of each step.

    Raises:
        ReleaseError: it is not approved, on hold, or the workspace has other changes in what is
            touched.
        BusyError: another release is at work.
        AuditError: a model cannot be had, git, DVC or the remote fails. The workspace is as it was.
    """
    name = batch.removeprefix("audit/").removeprefix("release/")
    with register.lease(signoff.LEASE) as lease:
        return _Release(home, register, name, told, lease).run()


def releases(home: Path) -> list[Released]:
    """All releases of the workspace, the newest first."""
    found = [_read(files.read_json(path)) for path in (home / LEDGER).glob("*.json")]
    return sorted(found, key=lambda one: one.at, reverse=True)


class _Release:
    """One batch on its way from approved to released."""

    def __init__(
        self, home: Path, register: Register, batch: str, told: Told, lease: Lease
    ) -> None:
        self.home, self.register, self.batch, self.told, self.lease = (
            home,
            register,
            batch,
            told,
            lease,
        )
        self.tag, self.audit = tag_of(batch), close_batch.tag_of(batch)
        self.journal = home / checkouts.FOLDER / f"release-{batch}.json"

    def run(self) -> Released:
        batch_requests.check(self.home, self.register, self.batch)
        where = signoff.standing(self.home, self.register, self.batch)
        plan = files.read_json(self.journal) if self.journal.exists() else None
        if where.state == "released":
            self.journal.unlink(missing_ok=True)
            return self._done_before()
        if plan is not None and (where.state != "approved" or not self._may_continue(plan)):
            self._undo(plan)
            plan = None
        if where.state != "approved":
            raise ReleaseError(
                "\n".join([f"{where.line}; nothing is released", where.offered]).rstrip()
            )
        if plan is None and not git.has_tag(self.home, self.tag):
            plan = self._prepare(where)
        return self._promote(plan)

    # -- what the release will be -----------------------------------------------------------------

    def _prepare(self, where: signoff.Standing) -> dict[str, Any]:
        """Make the commit of the release, apart from the workspace, and the journal that leads
        there."""
        self.told("prepare")
        self._refuse_unready()
        start = shell.git(self.home, "rev-parse", "HEAD^{commit}")
        with checkouts.at(self.home, self.audit) as copy:
            facts = self._fill(copy, where)
            self.told("commit")
            self._commit(copy, start)
            target = shell.git(copy, "rev-parse", "HEAD^{commit}")
            self._refuse_uncommitted(_changed(self.home, start, target))
            self.told("push")
            if dvc_graph.has_remote(copy):
                tracked = [path for path in (*self._own(), "data.dvc") if (copy / path).exists()]
                shell.dvc(copy, "push", *tracked)
        plan = {
            "from": start,
            "to": target,
            "data": (self.home / "data").exists(),
            "weights": facts["weights_sha256"],
        }
        self.told("journal")
        files.write_json(self.journal, plan)
        return plan

    def _fill(self, copy: Path, where: signoff.Standing) -> dict[str, Any]:
        """Everything that the commit of the release holds."""
        commit = shell.git(copy, "rev-parse", "HEAD^{commit}")
        wish = settings.load(copy / "params.yaml")
        manifest = records.read_manifest(self._there(copy / "data" / "manifest.csv").parent)
        roles = records.read_roles(self._there(copy / "artifacts" / "split.csv"), manifest)
        aside = self._unseen(copy, manifest, where)
        facts: dict[str, Any] = {
            "model": None,
            "weights_sha256": None,
            "references": 0,
            "unlearnings": 0,
            "advice": [],
        }
        forgotten = aside & False
        if not where.data_only:
            forgotten = (
                records.read_forget(self._there(copy / "artifacts/resolve/forget.csv"), manifest)
                != ""
            )
            if where.model is None:
                raise ReleaseError(f"batch {self.batch}: it is not decided which model is released")
            _papers(self.home, copy, self.register, self.batch, self.told)
        before, changes = dvc_graph.data_folders(copy)["data.dvc"], self._before_wishes()
        self.told("data")
        drop_records(copy / "data", forgotten | aside, roles)
        if where.model is not None and not where.data_only:
            versions = {"before": before, "after": dvc_graph.content_hash(copy / "data")}
            self.told("model")
            inputs = Inputs(
                copy, self.batch, commit, wish, manifest, roles == "training", forgotten
            )
            changed, written = write_models(inputs, where.model, versions)
            changes |= changed
            facts |= written
        tracked = [path.removesuffix(".dvc") for path in (*self._own(), "data.dvc")]
        shell.dvc(copy, "add", *(path for path in tracked if (copy / path).exists()))
        settings.assign(copy / "params.yaml", [f"{key}={value}" for key, value in changes.items()])
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts |= {
            "batch": self.batch,
            "tag": self.tag,
            "records_dropped": int((forgotten | aside).sum()),
            "at": now,
        }
        files.write_json(copy / LEDGER / f"{self.batch}.json", facts)
        self.register.file_head(copy / HEADS / f"release-{self.batch}.json")
        return facts

    def _before_wishes(self) -> dict[str, str]:
        """What was set for this batch alone goes back to what the workspace has."""
        own = json.loads(settings.load(self.home / "params.yaml").model_dump_json())
        found = {}
        for key in signoff.wishes_of(self.register, self.batch):
            section, _, leaf = key.partition(".")
            found[key] = json.dumps(own[section][leaf])
        return found

    def _unseen(
        self, copy: Path, manifest: pd.DataFrame, where: signoff.Standing
    ) -> NDArray[np.bool_]:
        """(n,) the records that leave although no model was trained on them."""
        from tasks.data.people import requested
        from tasks.requests.directory import read_directory
        from tasks.requests.opendsr import read_batch

        wanted = {
            case.request_id for case in where.requests if case.verdict == signoff.NOT_IN_TRAINING
        }
        entries = [
            entry
            for entry in read_batch(copy / "requests" / f"{self.batch}.json")
            if entry.request_id in wanted
        ]
        chosen: NDArray[np.bool_] = (
            requested(entries, manifest, read_directory(copy / "data", manifest)) != ""
        )
        return chosen

    def _commit(self, copy: Path, start: str) -> None:
        """One commit with everything, on top of the workspace's own."""
        paths = [
            "data.dvc",
            "dvc.lock",
            "ledger",
            "params.yaml",
            f"reports/{self.batch}",
            f"signed/{self.batch}",
            *self._own(),
            f"{RELEASES}/.gitignore",
            f"{REFERENCES}/.gitignore",
        ]
        shell.git(copy, "add", "--", *(path for path in paths if (copy / path).exists()))
        message = f"Release of batch {self.batch}"
        shell.git(copy, "commit", "--quiet", "-m", message)
        own = shell.git(copy, "rev-parse", "HEAD^{commit}")
        if shell.succeeds(copy, "merge-base", "--is-ancestor", start, own):
            return
        shell.git(copy, "checkout", "--quiet", "--detach", start)
        try:
            shell.git(copy, "merge", "--quiet", "--no-ff", "-m", message, own)
        except WorkspaceError as error:
            torn = shell.git(copy, "diff", "--name-only", "--diff-filter=U").splitlines()
            raise ReleaseError(
                f"what was committed here since {self.audit} began contradicts it in "
                f"{', '.join(torn) or error}; "
                "nothing was changed. Merge the branch or tag by hand (`git merge "
                f"{self.audit}`), then release again"
            ) from None
        settings.load(copy / "params.yaml")

    # -- the switch -------------------------------------------------------------------------------

    def _promote(self, plan: dict[str, Any] | None) -> Released:
        """Bring the workspace to the release's commit, all of it or nothing; then the register."""
        self.lease.check()
        try:
            if plan is not None:
                self.told("switch")
                if not _holds(
                    self.home, plan["to"]
                ):  # else it is done, and somebody may have committed since
                    _bring(self.home, plan["from"], plan["to"])
                self.told("checkout")
                self._checkout(plan)
                self.told("tag")
                if not git.has_tag(self.home, self.tag):
                    shell.git(
                        self.home,
                        "tag",
                        "--annotate",
                        "-m",
                        f"Release of batch {self.batch}",
                        self.tag,
                        plan["to"],
                    )
            self.told("register")
            self._move()
        except BaseException as error:
            if plan is not None:
                self._give_back(plan, error)
            raise
        self.told("done")
        self.journal.unlink(missing_ok=True)
        return _read(files.read_json(self.home / LEDGER / f"{self.batch}.json"))

    def _give_back(self, plan: dict[str, Any], error: BaseException) -> None:
        try:
            self._undo(plan)
        except AuditError as second:
            error.add_note(
                f"The workspace could not be brought back ({second}); `erasure-audit release` "
                "does it."
            )

    def _move(self) -> None:
        where = signoff.standing(self.home, self.register, self.batch)
        filed = files.read_json(self.home / LEDGER / f"{self.batch}.json")
        self.register.move(
            [one.request_id for one in where.requests],
            State.RELEASED,
            ACTOR,
            tag=self.tag,
            commit=shell.git(self.home, "rev-parse", f"{self.tag}^{{commit}}"),
            model=filed["model"],
            weights_sha256=filed["weights_sha256"],
        )

    def _undo(self, plan: dict[str, Any]) -> None:
        """Bring the workspace back to the commit that it came from, data and all."""
        git.break_locks(self.home)
        if _holds(self.home, plan["to"]) and not _at(self.home, plan["to"]):
            raise ReleaseError(
                f"somebody committed on top of the unfinished {self.tag}, so it is not undone; "
                "take these commits "
                "back, or let it be finished"
            )
        if _at(self.home, plan["from"], plan["to"]):
            _bring(self.home, plan["to"], plan["from"])
            for path in (f"{RELEASES}/{self.batch}", f"{REFERENCES}/{self.batch}"):
                shutil.rmtree(self.home / path, ignore_errors=True)
                with contextlib.suppress(OSError):  # other batches' are in it
                    (self.home / path).parent.rmdir()
            if plan["data"]:
                _dvc(self.home, "checkout", "--force", "data.dvc")
            if git.has_tag(self.home, self.tag):
                shell.git(self.home, "tag", "--delete", self.tag)
        self.journal.unlink(missing_ok=True)

    def _checkout(self, plan: dict[str, Any]) -> None:
        tracked = [path for path in self._own() if (self.home / path).exists()]
        _dvc(self.home, "checkout", "--force", *tracked, *(["data.dvc"] if plan["data"] else []))

    def _may_continue(self, plan: dict[str, Any]) -> bool:
        """Whether the journal of a killed release still leads somewhere: nobody has committed in
        between."""
        git.break_locks(self.home)
        known = shell.succeeds(self.home, "cat-file", "-e", f"{plan['to']}^{{commit}}")
        return known and (_at(self.home, plan["from"]) or _holds(self.home, plan["to"]))

    # -- what has to be so ------------------------------------------------------------------------

    def _refuse_unready(self) -> None:
        within = shell.git(self.home, "rev-parse", "--show-prefix")
        sure = {within + path for path in ("params.yaml", "data.dvc", "dvc.lock")}
        self._refuse_uncommitted(sure | set(_changed(self.home, f"HEAD...{self.audit}")))
        here, there = (_pointer(self.home, revision) for revision in ("HEAD", self.audit))
        if here != there:
            raise ReleaseError(
                f"data.dvc is not that of {self.audit}, so the data changed since; bring them back "
                f"(`git checkout {self.audit} -- data.dvc && dvc checkout data.dvc`, commit), "
                "release, then change them"
            )
        if (self.home / "data").exists() and not self._has_data():
            raise ReleaseError(
                "data/ is not what data.dvc records; `dvc add data` or `dvc checkout data.dvc` "
                "first"
            )
        for path in (f"{RELEASES}/{self.batch}", f"{REFERENCES}/{self.batch}"):
            if (self.home / path).exists():
                raise ReleaseError(
                    f"{path} is there already, and is not of a release; move it out of the way"
                )

    def _has_data(self) -> bool:
        """Whether data/ is what `data.dvc` records. Where only DVC's cache lacks some of it, it is
        put back there."""
        if not json.loads(shell.dvc(self.home, "status", "--json", "data.dvc") or "{}"):
            return True
        if (
            dvc_graph.content_hash(self.home / "data")
            != dvc_graph.data_folders(self.home)["data.dvc"]
        ):
            return False
        shell.dvc(self.home, "commit", "--force", "data.dvc")
        return True

    def _refuse_uncommitted(self, touched: Collection[str]) -> None:
        """Nothing that somebody has not committed is overwritten."""
        lines = shell.git(
            self.home, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"
        ).split("\0")
        mine = sorted(path for line in lines if (path := line.lstrip()[2:].lstrip()) in touched)
        if mine:
            more = f" and {len(mine) - 5} more" if len(mine) > 5 else ""
            raise ReleaseError(
                f"not committed, and changed by the release: {', '.join(mine[:5])}{more}; commit "
                "or undo these first"
            )

    def _done_before(self) -> Released:
        found = {one.batch: one for one in releases(self.home)}
        if self.batch not in found or not git.has_tag(self.home, self.tag):
            raise ReleaseError(
                f"the register says that batch {self.batch} is released, and git has no "
                f"{self.tag}; fetch it from "
                "where this workspace's history is kept"
            )
        done = found[self.batch]
        later = [one.batch for one in found.values() if one.at > done.at and one.weights_sha256]
        if later and done.weights_sha256:
            raise ReleaseError(
                f"batch {self.batch} was released on {done.at[:10]}, and {later[-1]} after it; "
                "going back would bring "
                "back people whom the later model has forgotten"
            )
        return Released(**{**vars(done), "new": False})

    def _own(self) -> tuple[str, str]:
        return f"{RELEASES}/{self.batch}.dvc", f"{REFERENCES}/{self.batch}.dvc"

    def _there(self, path: Path) -> Path:
        if not path.is_file():
            raise ReleaseError(
                f"{self.audit}: {path.name} is neither in DVC's cache nor in a remote; nothing "
                "was changed"
            )
        return path


# -- finalize -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finalized:
    """What finalizing came to: what was done, in order, and what the batch in flight waits for."""

    done: tuple[str, ...]
    waits: str | None

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        return {"done": list(self.done), "waits": self.waits}


def finalize(
    home: Path, register: Register, batch: str | None = None, told: Told = lambda _: None
) -> Finalized:
    """Bring every batch as far as decisions allow: release, erase, close; what is done is skipped.

    Args:
        home: the workspace.
        register: its register.
        batch: only this one; None: all that are not closed.
        told: of each step.

    Raises:
        AuditError: as `release` and the erasure of copies.
    """
    done: list[str] = []
    waits = None
    for name in [batch.removeprefix("audit/")] if batch else _open_batches(home, register):
        waits = _finalize(home, register, name, told, done) or waits
    done += comebacks.look(home).lines
    flying = register.in_flight()
    aside = [
        case.request_id
        for case in register.cases([State.REJECTED])
        if case.batch is None or (case.batch != flying and batch in (None, case.batch))
    ]
    if aside:
        register.move(aside, State.CLOSED, ACTOR)
        done.append(f"{len(aside)} refused or set-aside requests closed")
    if done and (home / "reports").is_dir():
        with contextlib.suppress(
            AuditError
        ):  # a view only, which `erasure-audit register` makes again
            pages.write(home)
    return Finalized(tuple(done), waits)


def _finalize(
    home: Path, register: Register, batch: str, told: Told, done: list[str]
) -> str | None:
    """Bring one batch on; returns what it waits for."""
    if signoff.settle(register, batch):
        checkouts.close(home, batch)
        if _file_rejection(home, register, batch, told):
            done.append(f"batch {batch} rejected, its reports filed as rejected/{batch}")
        return None
    cases = register.cases(batch=batch)
    if any(case.state in (State.BATCHED, State.AUDITED) for case in cases):
        return f"Batch {batch} is being audited"
    where = signoff.standing(home, register, batch)
    if where.state in ("waiting", "on_hold"):
        return where.line
    if where.state == "approved":
        release(home, register, batch, told)
        done.append(f"batch {batch} released")
    if any(case.state == State.RELEASED for case in register.cases(batch=batch)):
        if not settings.load(home / "params.yaml").operate.erase_after_release:
            return f"Batch {batch} is released; `erasure-audit erase {batch}` erases the copies"
        from flows.erasure import carry_out

        carry_out.erase(home, batch, register=register, listener=told)
        done.append(f"copies of batch {batch} erased")
    erased = [case.request_id for case in register.cases([State.ERASED], batch=batch)]
    if erased:
        register.move(erased, State.CLOSED, ACTOR)
        done.append(f"batch {batch} closed")
    checkouts.close(home, batch)
    return None


def _file_rejection(home: Path, register: Register, batch: str, told: Told) -> bool:
    """The reports of a rejected batch with the decisions: as a commit and tag of their own, and in
    the workspace."""
    tag = f"rejected/{batch}"
    if git.has_tag(home, tag):
        return False
    with checkouts.at(home, close_batch.tag_of(batch)) as copy:
        if (copy / "reports" / batch).exists():
            _papers(home, copy, register, batch, told)
        paths = ("dvc.lock", "ledger", f"reports/{batch}", f"signed/{batch}")
        shell.git(copy, "add", "--", *(path for path in paths if (copy / path).exists()))
        if not shell.succeeds(copy, "diff", "--cached", "--quiet"):
            shell.git(copy, "commit", "--quiet", "-m", f"Rejection of batch {batch}")
        _keep_reports(home, shell.git(copy, "rev-parse", "HEAD"), batch)
        # last, for it says that all of it is done
        shell.git(copy, "tag", "--annotate", "-m", f"Rejection of batch {batch}", tag)
    return True


def _keep_reports(home: Path, commit: str, batch: str) -> None:
    """Bring a rejected batch's reports into the workspace as a commit of their own, so that every
    register has them. What else is changed or staged there is left alone."""
    paths = [
        path for path in (f"reports/{batch}", f"signed/{batch}") if git.has_path(home, commit, path)
    ]
    if not paths:
        return
    shell.git(home, "checkout", "--quiet", commit, "--", *paths)
    if not shell.succeeds(home, "diff", "--cached", "--quiet", "--", *paths):
        message = f"Reports of batch {batch}, which was rejected"
        shell.git(home, "commit", "--quiet", "-m", message, "--", *paths)


def _papers(home: Path, copy: Path, register: Register, batch: str, told: Told) -> None:
    """A batch's reports again, with the decisions; signed, if there is a key."""
    told("report")
    path = copy / decisions.FOLDER / f"{batch}.json"
    filed = files.read_json(path) if path.exists() else {}
    approvals = signoff.decided(register, batch, shell.git(copy, "rev-parse", "HEAD^{commit}"))
    where = signoff.standing(home, register, batch)
    chosen = {"released": where.model} if where.state in ("approved", "released") else {}
    facts = {"registered": registered.of_batch(register, batch)}
    files.write_json(path, {**decisions.EMPTY, **filed, **facts, **chosen, "approvals": approvals})
    stage_runner.Runner(copy, 1).run("report")
    key = signing_keys.at_hand(home)
    if key is not None:
        told("sign")
        signing.sign(copy, batch, key)


def _open_batches(home: Path, register: Register) -> list[str]:
    """Batches with requests that are not closed, and rejected ones whose reports are not filed, by
    name."""
    states = (State.BATCHED, State.AUDITED, State.AWAITING_SIGNOFF, State.RELEASED, State.ERASED)
    found = {case.batch for case in register.cases(states) if case.batch}
    rejected = {
        event.batch
        for event in register.history(kind="decision")
        if event.details["decision"] == "refuse"
    }
    return sorted(
        found | {one for one in rejected if one and not git.has_tag(home, f"rejected/{one}")}
    )


# -- git and files --------------------------------------------------------------------------------


def _bring(home: Path, source: str, target: str) -> None:
    """Bring a checkout from one commit to another, and nothing in it that is the same in both.

    Each step may be taken again, from whatever a killed process left.
    """
    if not _at(home, source, target):
        raise ReleaseError("somebody committed here while the release was prepared; release again")
    top = Path(shell.git(home, "rev-parse", "--show-toplevel"))
    changed = _changed(home, source, target)
    kept = [path for path, status in changed.items() if status != "D"]
    for some in _some(kept):
        shell.git(top, "--literal-pathspecs", "checkout", "--quiet", target, "--", *some)
    for some in _some([path for path in changed if path not in set(kept)]):
        shell.git(
            top, "--literal-pathspecs", "rm", "--quiet", "--force", "--ignore-unmatch", "--", *some
        )
    if not _at(home, target):
        shell.git(home, "update-ref", "-m", "release", "HEAD", target, source)


def _changed(home: Path, *revisions: str) -> dict[str, str]:
    """Paths, from the repository's root, that differ between two commits, and how: A, M, T or D."""
    told = shell.git(home, "diff", "--name-status", "--no-renames", "-z", *revisions).split("\0")
    return dict(zip(told[1::2], told[0::2], strict=False))


def _some(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[start : start + _MANY] for start in range(0, len(paths), _MANY))


def _at(home: Path, *commits: str) -> bool:
    """Whether the workspace is at one of these commits."""
    return shell.git(home, "rev-parse", "HEAD^{commit}") in commits


def _holds(home: Path, commit: str) -> bool:
    """Whether the workspace is at a commit or beyond it."""
    return shell.succeeds(home, "merge-base", "--is-ancestor", commit, "HEAD")


def _dvc(home: Path, *words: str) -> None:
    """DVC in the workspace; another one that is at work there, as a killed release may leave, is
    waited for."""
    dvc_locks.sweep(home)
    for _ in range(30):
        try:
            shell.dvc(home, *words)
        except WorkspaceError as error:
            if not any(sign in str(error) for sign in dvc_locks.SIGNS):
                raise
            dvc_locks.wait()
        else:
            return
    shell.dvc(home, *words)


def _pointer(home: Path, revision: str) -> str | None:
    """The hash of the data in a commit."""
    from ruamel.yaml import YAML

    try:
        text = shell.git(home, "show", f"{revision}:./data.dvc")
    except WorkspaceError:
        return None
    return str(YAML(typ="safe").load(text)["outs"][0]["md5"])


def _read(filed: dict[str, Any]) -> Released:
    return Released(**{**filed, "advice": tuple(filed["advice"])})
