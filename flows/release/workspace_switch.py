"""Switches a workspace from one commit to another, all of it or nothing, with a journal.

The journal beside the batches names the two commits, so the next release continues or undoes a
killed one.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from flows.pipeline import close_batch
from flows.register.register import Lease, Register
from flows.release.release_contents import REFERENCES, RELEASES, ReleaseError
from flows.workspace import checkouts, git, shell
from tasks.common import files

Log = Callable[[str], None]
"""Receives the name of each step before it begins."""


@dataclass(frozen=True)
class BatchRelease:
    """The release of one batch.

    Attributes:
        home: the workspace.
        register: its register.
        batch: the name of the batch.
        log: receives the name of each step.
        lease: of the release.
    """

    home: Path
    register: Register
    batch: str
    log: Log
    lease: Lease

    @property
    def tag(self) -> str:
        """The git tag of the release."""
        return tag_of(self.batch)

    @property
    def audit(self) -> str:
        """The git tag of the audit."""
        return close_batch.tag_of(self.batch)

    @property
    def journal(self) -> Path:
        """The journal of the release."""
        return self.home / checkouts.FOLDER / f"release-{self.batch}.json"

    @property
    def folders(self) -> tuple[str, str]:
        """The folders of the model and of the references."""
        return f"{RELEASES}/{self.batch}", f"{REFERENCES}/{self.batch}"

    @property
    def pointers(self) -> tuple[str, str]:
        """The `.dvc` files of these folders."""
        model, references = self.folders
        return f"{model}.dvc", f"{references}.dvc"


@dataclass(frozen=True)
class SwitchPlan:
    """The content of the journal.

    Attributes:
        source: the commit before the switch.
        target: the commit of the release.
        data: whether the workspace has its data.
        weights: SHA-256 of the released model; None: there is none.
    """

    source: str
    target: str
    data: bool
    weights: str | None

    def write(self, journal: Path) -> None:
        """Write the journal."""
        content = {
            "from": self.source,
            "to": self.target,
            "data": self.data,
            "weights": self.weights,
        }
        files.write_json(journal, content)

    @classmethod
    def read(cls, journal: Path) -> SwitchPlan | None:
        """Read the journal; None if there is none."""
        if not journal.exists():
            return None
        plan = files.read_json(journal)
        return cls(plan["from"], plan["to"], plan["data"], plan["weights"])


def tag_of(batch: str) -> str:
    """The git tag of a release, by which serving systems fetch the model."""
    return f"release/{batch}"


def may_continue(release: BatchRelease, plan: SwitchPlan) -> bool:
    """Whether a killed release can continue: nobody has committed in between."""
    git.break_locks(release.home)
    target_exists = shell.succeeds(release.home, "cat-file", "-e", f"{plan.target}^{{commit}}")
    return target_exists and (
        is_at(release.home, plan.source) or contains(release.home, plan.target)
    )


def check_out(release: BatchRelease, plan: SwitchPlan) -> None:
    """Check out the release's files that DVC tracks, and the data if the workspace has them."""
    tracked = [path for path in release.pointers if (release.home / path).exists()]
    shell.dvc(release.home, "checkout", "--force", *tracked, *(["data.dvc"] if plan.data else []))


def undo(release: BatchRelease, plan: SwitchPlan) -> None:
    """Switch the workspace back to the commit before the release, with its data."""
    git.break_locks(release.home)
    if contains(release.home, plan.target) and not is_at(release.home, plan.target):
        raise ReleaseError(
            f"somebody committed on top of the unfinished {release.tag}, so it is not undone; "
            "remove these commits, or let the release finish"
        )
    if is_at(release.home, plan.source, plan.target):
        switch(release.home, plan.target, plan.source)
        for path in release.folders:
            shutil.rmtree(release.home / path, ignore_errors=True)
            with contextlib.suppress(OSError):  # it holds other batches
                (release.home / path).parent.rmdir()
        if plan.data:
            shell.dvc(release.home, "checkout", "--force", "data.dvc")
        if git.has_tag(release.home, release.tag):
            shell.git(release.home, "tag", "--delete", release.tag)
    release.journal.unlink(missing_ok=True)


def switch(home: Path, source: str, target: str) -> None:
    """Switch a checkout from one commit to another; only files that differ are touched.

    Each step can be repeated after a kill.
    """
    if not is_at(home, source, target):
        raise ReleaseError("somebody committed here while the release was prepared; release again")
    top = Path(shell.git(home, "rev-parse", "--show-toplevel"))
    statuses = changed_paths(home, source, target)
    written = [path for path, status in statuses.items() if status != "D"]
    for portion in git.in_parts(written):
        shell.git(top, "--literal-pathspecs", "checkout", "--quiet", target, "--", *portion)
    removed = [path for path, status in statuses.items() if status == "D"]
    remove = ("--literal-pathspecs", "rm", "--quiet", "--force", "--ignore-unmatch", "--")
    for portion in git.in_parts(removed):
        shell.git(top, *remove, *portion)
    if not is_at(home, target):
        shell.git(home, "update-ref", "-m", "release", "HEAD", target, source)


def contains(home: Path, commit: str) -> bool:
    """Whether the workspace is at a commit or past it."""
    return shell.succeeds(home, "merge-base", "--is-ancestor", commit, "HEAD")


def refuse_uncommitted(release: BatchRelease, paths: Collection[str]) -> None:
    """Raise `ReleaseError` if the release would overwrite uncommitted changes."""
    lines = shell.git(
        release.home, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames"
    ).split("\0")
    uncommitted = sorted(path for line in lines if (path := line.lstrip()[2:].lstrip()) in paths)
    if uncommitted:
        and_more = f" and {len(uncommitted) - 5} more" if len(uncommitted) > 5 else ""
        raise ReleaseError(
            f"not committed, and changed by the release: {', '.join(uncommitted[:5])}{and_more}; "
            "commit or undo these changes first"
        )


def changed_paths(home: Path, *revisions: str) -> dict[str, str]:
    """Paths from the repository's root that differ between two commits, with A, M, T or D."""
    fields = shell.git(home, "diff", "--name-status", "--no-renames", "-z", *revisions).split("\0")
    return dict(zip(fields[1::2], fields[0::2], strict=False))


def is_at(home: Path, *commits: str) -> bool:
    """Whether the workspace is at one of these commits."""
    return shell.git(home, "rev-parse", "HEAD^{commit}") in commits
