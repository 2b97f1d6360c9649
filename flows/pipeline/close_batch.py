"""Closing a batch: everything that a later reader needs goes into one commit, and the tag
audit/<batch> names it."""

from __future__ import annotations

from pathlib import Path

from flows.workspace import git, shell
from tasks.common.errors import WorkspaceError

KEPT = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvcignore",
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


def close(folder: Path, batch: str) -> str:
    """Commit the batch and tag the commit. Other changes in the folder are left alone.

    Returns:
        The tag. If it exists already and holds the same, nothing is done.

    Raises:
        WorkspaceError: the tag exists and holds something else, or git fails (no identity, a hook).
    """
    tag = tag_of(batch)
    paths = _paths(folder)
    shell.git(folder, "add", "--", *paths)
    if git.has_tag(folder, tag):
        if shell.succeeds(folder, "diff", "--quiet", tag, "--", *paths):
            return tag
        raise WorkspaceError(
            f"the tag {tag} exists and holds another state of the batch; a closed batch is not "
            "changed."
            f" Give the batch a new name, or see `git diff {tag}`"
        )
    if not shell.succeeds(folder, "diff", "--cached", "--quiet", "--", *paths):
        shell.git(folder, "commit", "--quiet", "-m", f"Audit of batch {batch}", "--", *paths)
    shell.git(folder, "tag", "--annotate", "-m", f"Audit of batch {batch}", tag)
    return tag


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
    return [path for path in (*KEPT, *tracked_by_dvc) if (folder / path).exists()]
