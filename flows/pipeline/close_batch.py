"""Closes a batch: one commit holds everything that a later reader needs, and the tag
`audit/<batch>` names it. `checkout` goes back to that tag."""

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

COMMITTED = (
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
"""Files and folders of a closed batch. The content behind the hashes of `dvc.lock` is in DVC's
cache and remotes."""


def tag_of(batch: str) -> str:
    """The git tag of a batch, `audit/<batch>`; such a tag is returned unchanged."""
    return batch if batch.startswith("audit/") else f"audit/{batch}"


def end_tag(folder: Path, batch: str) -> str | None:
    """The tag that says how a batch ended: erased, released or rejected; None: it has not.

    The release and the erasure of a batch change the data set. Its stages are stale afterwards and
    must not run again.
    """
    tags = shell.git(folder, "tag", "--list", f"*/{batch}").split()
    ends = [f"{kind}/{batch}" for kind in ("erased", "release", "rejected")]
    return next((tag for tag in ends if tag in tags), None)


def renewals(folder: Path, batch: str) -> list[str]:
    """The tags under which an erased batch's reports were made again, the latest first."""
    pattern = f"renewed/{batch}/*"
    return shell.git(folder, "tag", "--list", "--sort=-version:refname", pattern).split()


def file_audits(folder: Path, batch: str) -> None:
    """File the finished audits for every later report of the same requests."""
    audit_log.append(folder, batch)


def is_closed(folder: Path, batch: str) -> bool:
    """Whether the batch is tagged with the state of this folder. Changes nothing.

    Raises:
        WorkspaceError: the tag exists and holds something else.
    """
    tag = tag_of(batch)
    if not git.has_tag(folder, tag):
        return False
    paths = [*_paths(folder), f":!{audit_log.FOLDER.as_posix()}"]  # it grows with later audits
    untracked = shell.git(folder, "ls-files", "--others", "--exclude-standard", "--", *paths)
    if not untracked and shell.succeeds(folder, "diff", "--quiet", tag, "--", *paths):
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
    git.commit(folder, paths, f"Audit of batch {batch}")
    git.tag(folder, tag, f"Audit of batch {batch}")
    return tag


@contextlib.contextmanager
def checkout(home: Path, tag: str) -> Iterator[Path]:
    """A temporary checkout of a closed batch, with the outputs that DVC's cache and remotes still
    hold. Both are only read: damaged objects stay as they are.

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
            _restore_kept(KeptObjects.of_workspace(home), copy)
            yield copy
        finally:
            shutil.rmtree(parent, ignore_errors=True)
            shell.git(home, "worktree", "prune")


def _restore_kept(objects: KeptObjects, copy: Path) -> None:
    """Write the kept files of every output into a checkout. Missing files are reported later, by
    whatever needs them."""
    damaged = []
    for path, oid in dvc_graph.outputs(copy).items():
        listed = _parts(objects, oid)
        if listed is None:
            damaged.append(f"{path} (object {oid})")
            continue
        if oid == EMPTY_FOLDER:
            (copy / path).mkdir(parents=True, exist_ok=True)
        for name, part_oid in listed:
            target = copy / path / name if name else copy / path
            if not _restore(objects, part_oid, target):
                damaged.append(f"{target.relative_to(copy).as_posix()} (object {part_oid})")
    if damaged:
        and_more = f" and {len(damaged) - 6} more" if len(damaged) > 6 else ""
        raise WorkspaceError(
            f"damaged in DVC's store and left unchanged: {', '.join(damaged[:6])}{and_more}; "
            "expected bytes that hash to the object's name. Put a sound copy in its place, or "
            "remove it: then it counts as missing"
        )


def _parts(objects: KeptObjects, oid: str) -> list[tuple[str, str]] | None:
    """Path and hash of each file of an output; empty if its list is missing, None if its list is
    damaged."""
    if not oid.endswith(".dir"):
        return [("", oid)]
    if oid == EMPTY_FOLDER:
        return []
    listing = io.BytesIO()
    condition = objects.write_to(oid, listing)
    if condition is Condition.DAMAGED:
        return None
    entries = json.loads(listing.getvalue()) if condition is Condition.SOUND else []
    return [(str(entry["relpath"]), str(entry["md5"])) for entry in entries]


def _restore(objects: KeptObjects, oid: str, target: Path) -> bool:
    """Write an object unless the checkout has the file. Returns False if the object is damaged."""
    if target.exists():  # git keeps it
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        condition = objects.write_to(oid, sink)
    if condition is not Condition.SOUND:
        target.unlink()
        with contextlib.suppress(OSError):  # not empty
            target.parent.rmdir()
    return condition is not Condition.DAMAGED


def unpushed(folder: Path) -> str | None:
    """Why another machine cannot reproduce this batch, and what to do; None: it can.

    At least one remote has to hold every object of the batch.
    """
    remotes = dvc_graph.remotes(folder)
    if not remotes:
        return (
            "no DVC remote is set up, so no other machine can reproduce this batch. To change "
            "that: `dvc remote add --default NAME URL`, `dvc push`, `git push --follow-tags`"
        )
    reasons = {}
    for name in remotes:
        try:
            status = json.loads(shell.dvc(folder, "status", "--json", "--remote", name) or "{}")
        except (WorkspaceError, ValueError) as error:
            reasons[name] = f"remote {name} could not be asked: {error}"
            continue
        unpushed_paths = [path for path, state in status.items() if state != "deleted"]
        if not unpushed_paths:
            return None
        reasons[name] = f"{len(unpushed_paths)} outputs are not in the remote {name}"
    return (
        f"{'; '.join(reasons.values())}: no other machine can reproduce this batch. To change "
        f"that: `dvc push --remote {remotes[0]}`, `git push --follow-tags`"
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
    existing = [path for path in (*COMMITTED, *tracked_by_dvc) if (folder / path).exists()]
    # git refuses a path of which it knows no file, such as an empty folder
    listed = shell.git(
        folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *existing
    ).split("\0")
    return [
        path
        for path in existing
        if any(name == path or name.startswith(f"{path}/") for name in listed)
    ]
