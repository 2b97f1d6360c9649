"""Closing a batch: everything that a later reader needs goes into one commit, and the tag
audit/<batch> names it."""

from __future__ import annotations

import json
from pathlib import Path

from flows.pipeline import audit_log, kept_inputs
from flows.workspace import dvc_graph, git, shell
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


def unpushed(folder: Path) -> str | None:
    """Why another machine cannot reproduce what lies here, and what to do; None: it can.

    At least one remote has to hold every object of the batch.
    """
    remotes = dvc_graph.remotes(folder)
    if not remotes:
        return (
            "no DVC remote is set up, so no other machine can reproduce this batch. Then: "
            "`dvc remote add --default NAME URL`, `dvc push`, `git push --follow-tags`"
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
        f"{'; '.join(states.values())}: no other machine can reproduce this batch. Then: "
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
