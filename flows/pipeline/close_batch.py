"""Closing a batch: everything that a later reader needs goes into one commit, and the tag
audit/<batch> names it. And going back to it: a checkout of that tag."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from flows.pipeline import audit_log, kept_inputs
from flows.pipeline.kept_objects import EMPTY_FOLDER, Condition, KeptObjects
from flows.workspace import checkouts, dvc_graph, dvc_locks, git, shell
from tasks.common.errors import WorkspaceError

KEPT = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    "data.dvc",
    "dvc.lock",
    "dvc.yaml",
    "ledger",
    "params.yaml",
    "references/.gitignore",
    "releases/.gitignore",
    "reports",
    "requests",
    "signed",
    "trusted-keys",
)
"""What a closed batch consists of. The content behind the hashes of `dvc.lock` is in DVC's cache
and remotes."""


def tag_of(batch: str) -> str:
    """The git tag of a batch, `audit/<batch>`; a name that begins so is taken as it is."""
    return batch if batch.startswith("audit/") else f"audit/{batch}"


def ended(folder: Path, batch: str) -> str | None:
    """The tag that says how a batch ended: erased, released or rejected; None: it has not.

    The release and the erasure of a batch change the data set, so its stages are stale afterwards;
    they are not to be run again.
    """
    tags = shell.git(folder, "tag", "--list", f"*/{batch}").split()
    ends = [f"{kind}/{batch}" for kind in ("erased", "release", "rejected")]
    return next((tag for tag in ends if tag in tags), None)


def renewals(folder: Path, batch: str) -> list[str]:
    """The tags of the states in which an erased batch's reports were made again, the latest
    first."""
    pattern = f"renewed/{batch}/*"
    return shell.git(folder, "tag", "--list", "--sort=-version:refname", pattern).split()


def file_audits(folder: Path, batch: str) -> None:
    """File the audits that ended here, for every later report of the same requests."""
    audit_log.append(folder, batch)


def is_closed(folder: Path, batch: str) -> bool:
    """Whether the batch has its tag, which then holds the state that lies here. Changes nothing.

    Raises:
        WorkspaceError: the tag exists and holds something else.
    """
    tag = tag_of(batch)
    if not git.has_tag(folder, tag):
        return False
    paths = [*_paths(folder), f":!{audit_log.FOLDER.as_posix()}"]  # it grows with later audits
    new = shell.git(folder, "ls-files", "--others", "--exclude-standard", "--", *paths)
    if not new and shell.succeeds(folder, "diff", "--quiet", tag, "--", *paths):
        return True
    raise WorkspaceError(
        f"the tag {tag} exists and holds another state of the batch; a closed batch is not "
        f"changed. Give the batch a new name, or see `git diff {tag}`"
    )


def close(folder: Path, batch: str) -> str:
    """Commit the batch and tag the commit. Other changes in the folder are left alone.

    Returns:
        The tag. If it exists already and holds the same, nothing is done.

    Raises:
        WorkspaceError: the tag exists and holds something else, an input of the batch is kept
            nowhere, or git fails (no identity, a hook).
    """
    tag = tag_of(batch)
    if is_closed(folder, batch):
        return tag
    kept_inputs.refuse_lost(folder, _paths(folder))
    file_audits(folder, batch)
    paths = _paths(folder)
    shell.git(folder, "add", "--", *paths)
    if not shell.succeeds(folder, "diff", "--cached", "--quiet", "--", *paths):
        shell.git(folder, "commit", "--quiet", "-m", f"Audit of batch {batch}", "--", *paths)
    shell.git(folder, "tag", "--annotate", "-m", f"Audit of batch {batch}", tag)
    return tag


@contextlib.contextmanager
def checkout(home: Path, tag: str) -> Iterator[Path]:
    """A checkout of a closed batch that is gone afterwards, whatever happens. What DVC's cache and
    remotes still hold of it is there; both are only read, so that a damaged object stays as it is.

    Args:
        home: the workspace.
        tag: of the batch, or another name of one of its states.

    Raises:
        WorkspaceError: git or DVC fails, or an object is damaged and no store has a sound copy.
    """
    parent = Path(tempfile.mkdtemp(prefix="erasure-audit-"))
    tree = parent / "workspace"
    with dvc_locks.using(home):
        try:
            shell.git(home, "worktree", "add", "--quiet", "--detach", str(tree), tag)
            copy = tree / shell.git(home, "rev-parse", "--show-prefix")
            if not (copy / ".dvc").is_dir():
                raise WorkspaceError(f"{tag} holds no .dvc, so it is no state of this workspace")
            checkouts.share_cache(home, copy)
            _bring_kept(KeptObjects.of(home), copy)
            yield copy
        finally:
            shutil.rmtree(parent, ignore_errors=True)
            shell.git(home, "worktree", "prune")


def _bring_kept(objects: KeptObjects, copy: Path) -> None:
    """Write what is kept of every output into a checkout. What is missing is found out and named
    later, by what needs it."""
    damaged = []
    for path, oid in dvc_graph.outputs(copy).items():
        parts = _parts(objects, oid)
        if parts is None:
            damaged.append(f"{path} (object {oid})")
            continue
        if oid == EMPTY_FOLDER:
            (copy / path).mkdir(parents=True, exist_ok=True)
        for name, part in parts:
            target = copy / path / name if name else copy / path
            if not _bring(objects, part, target):
                damaged.append(f"{target.relative_to(copy).as_posix()} (object {part})")
    if damaged:
        more = f" and {len(damaged) - 6} more" if len(damaged) > 6 else ""
        raise WorkspaceError(
            f"damaged in DVC's store, and kept there as it is: {', '.join(damaged[:6])}{more}; "
            "expected bytes that hash to the object's name. Put a sound copy in its place, or "
            "remove it: then it counts as missing"
        )


def _parts(objects: KeptObjects, oid: str) -> list[tuple[str, str]] | None:
    """Path and hash of each file of an output, none of one whose list is missing; None: the list
    is damaged."""
    if not oid.endswith(".dir"):
        return [("", oid)]
    if oid == EMPTY_FOLDER:
        return []
    listing = io.BytesIO()
    condition = objects.deliver(oid, listing)
    if condition is Condition.DAMAGED:
        return None
    entries = json.loads(listing.getvalue()) if condition is Condition.SOUND else []
    return [(str(entry["relpath"]), str(entry["md5"])) for entry in entries]


def _bring(objects: KeptObjects, oid: str, target: Path) -> bool:
    """Write an object where the checkout has no file of its own; false: it is damaged."""
    if target.exists():  # git keeps it
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        condition = objects.deliver(oid, sink)
    if condition is not Condition.SOUND:
        target.unlink()
        with contextlib.suppress(OSError):  # not empty
            target.parent.rmdir()
    return condition is not Condition.DAMAGED


def unpushed(folder: Path) -> str | None:
    """Why another machine cannot reproduce what lies here, and what to do; None: it can.

    At least one remote has to hold every object of the batch.
    """
    remotes = dvc_graph.remotes(folder)
    if not remotes:
        return (
            "no DVC remote is set up, so no other machine can reproduce this batch. To change "
            "that: `dvc remote add --default NAME URL`, `dvc push`, `git push --follow-tags`"
        )
    states = {}
    for name in remotes:
        try:
            waiting = json.loads(shell.dvc(folder, "status", "--json", "--remote", name) or "{}")
        except (WorkspaceError, ValueError) as error:
            states[name] = f"remote {name} could not be asked: {error}"
            continue
        lacking = [path for path, state in waiting.items() if state != "deleted"]
        if not lacking:
            return None
        states[name] = f"{len(lacking)} outputs are not in the remote {name}"
    return (
        f"{'; '.join(states.values())}: no other machine can reproduce this batch. To change that: "
        f"`dvc push --remote {remotes[0]}`, `git push --follow-tags`"
    )


def _paths(folder: Path) -> list[str]:
    tracked_by_dvc = shell.git(
        folder,
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        "*.dvc",
        ":!data.dvc",
    ).splitlines()
    there = [path for path in (*KEPT, *tracked_by_dvc) if (folder / path).exists()]
    # git refuses a path of which it knows no file, such as an empty folder
    return [path for path in there if _known_to_git(folder, path)]


def _known_to_git(folder: Path, path: str) -> bool:
    return bool(
        shell.git(folder, "ls-files", "--cached", "--others", "--exclude-standard", "--", path)
    )
