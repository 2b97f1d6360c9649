"""Git: references, objects, commits, and the lock files that a killed git leaves.

Objects are read through `git cat-file --batch`: one process for any number of them. This is as
quick as a library, and also works for repositories of SHA-256, which pygit2 and dulwich do not
open.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from flows.workspace import shell
from tasks.common.errors import WorkspaceError

PATIENCE = 30.0
"""Age after which a lock file counts as left by a killed process, s."""
_PATHS_AT_ONCE = 500
"""Paths given to git at once."""


# -- references -----------------------------------------------------------------------------------


def has_tag(folder: Path, tag: str) -> bool:
    """Whether a tag exists and names a commit."""
    return commit_of(folder, f"refs/tags/{tag}") is not None


def has_branch(folder: Path, branch: str) -> bool:
    """Whether a branch exists."""
    return commit_of(folder, f"refs/heads/{branch}") is not None


def commit_of(folder: Path, revision: str = "HEAD") -> str | None:
    """The commit that a revision names; None if it names none."""
    commit_id = resolved(folder, f"{revision}^{{commit}}")
    return commit_id or None


def has_path(folder: Path, revision: str, path: str) -> bool:
    """Whether a revision has a file or folder, relative to `folder`."""
    return resolved(folder, f"{revision}:./{path}") is not None


def resolved(folder: Path, name: str) -> str | None:
    """The id of the object that a name means; None if there is none."""
    completed = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", name],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return completed.stdout.strip() if completed.returncode == 0 else None


def user(folder: Path) -> str | None:
    """The user's name in git's configuration; None if it is not set."""
    is_set = shell.succeeds(folder, "config", "user.name")
    return shell.git(folder, "config", "user.name") if is_set else None


def common_folder(folder: Path) -> Path:
    """The folder of the repository's objects and references, which all its checkouts share."""
    return (folder / shell.git(folder, "rev-parse", "--git-common-dir")).resolve()


# -- objects --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """An object of git: its id and whether it is a `blob`, `tree`, `commit` or `tag`."""

    oid: str
    kind: str


class GitObjects:
    """Reads git's objects by name or id. Made by `objects`."""

    def __init__(self, queries: IO[bytes], answers: IO[bytes]) -> None:
        self._queries, self._answers = queries, answers

    def read(self, name: str) -> bytes | None:
        """The content of an object; None: there is none of that name.

        Raises:
            WorkspaceError: git ended, for example because the repository is damaged.
        """
        try:
            self._queries.write(f"{name}\n".encode(errors="surrogateescape"))
            self._queries.flush()
            header = self._answers.readline().split()
        except OSError as error:
            raise WorkspaceError("git cat-file ended; see `git fsck`") from error
        if not header:
            raise WorkspaceError("git cat-file ended; see `git fsck`")
        if header[-1] == b"missing":
            return None
        size = int(header[-1])
        content = self._answers.read(size)
        if len(content) != size:
            raise WorkspaceError("git cat-file ended in the middle of an object; see `git fsck`")
        self._answers.read(1)  # the end of the line
        return content


@contextlib.contextmanager
def objects(folder: Path) -> Iterator[GitObjects]:
    """A reader of git's objects; one process reads all of them."""
    process = subprocess.Popen(
        ["git", "cat-file", "--batch"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    queries, answers = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
    try:
        yield GitObjects(queries, answers)
    finally:
        with contextlib.suppress(BrokenPipeError):  # it has ended before
            queries.close()
        answers.close()
        process.wait()


def all_objects(folder: Path) -> list[Listed]:
    """Every object that git holds, reachable or not."""
    text = shell.git(
        folder, "cat-file", "--batch-all-objects", "--batch-check=%(objectname) %(objecttype)"
    )
    return [Listed(*line.split()) for line in text.splitlines()]


def tree_entries(tree: bytes, width: int) -> Iterator[tuple[bool, str, str]]:
    """The entries of a tree: whether it is a folder, its name, and the id of the object.

    Args:
        tree: its content.
        width: bytes of an id, 20 or 32.
    """
    start = 0
    while start < len(tree):
        end = tree.index(b"\0", start)
        mode, _, name = tree[start:end].partition(b" ")
        start = end + 1 + width
        if mode != b"160000":  # a commit of another repository
            yield (
                mode == b"40000",
                name.decode(errors="surrogateescape"),
                tree[end + 1 : start].hex(),
            )


# -- commits --------------------------------------------------------------------------------------


def commit(folder: Path, paths: Sequence[str], message: str) -> None:
    """Commit these paths, relative to `folder`, and nothing else; makes no commit if they are as in
    HEAD. Locks that a killed git left are removed first."""
    break_locks(folder)
    for portion in in_parts(paths):
        shell.git(folder, "add", "--all", "--", *portion)
    if not shell.succeeds(folder, "diff", "--cached", "--quiet", "--", *paths):
        shell.git(folder, "commit", "--quiet", "-m", message, "--", *paths)


def tag(folder: Path, name: str, message: str, revision: str = "HEAD") -> None:
    """Make an annotated tag."""
    break_locks(folder, (f"refs/tags/{name}.lock",))
    shell.git(folder, "tag", "--annotate", "-m", message, name, revision)


def in_parts(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    """Paths in portions that fit into a command line."""
    return (paths[start : start + _PATHS_AT_ONCE] for start in range(0, len(paths), _PATHS_AT_ONCE))


def break_locks(folder: Path, references: Iterable[str] = ()) -> None:
    """Remove the lock files of a killed git; wait for a running one.

    Args:
        folder: a checkout; its locks of index and HEAD are checked.
        references: further lock files, relative to git's common folder.
    """
    names = ("index.lock", "HEAD.lock")
    locks = [folder / shell.git(folder, "rev-parse", "--git-path", name) for name in names]
    locks += [common_folder(folder) / name for name in references]
    for lock in locks:
        break_lock(lock)


def break_lock(lock: Path) -> None:
    """Remove one lock file once no running git may hold it."""
    with contextlib.suppress(FileNotFoundError):
        while _may_be_held(lock):
            time.sleep(0.2)
        lock.unlink()


def _may_be_held(lock: Path) -> bool:
    """Whether a running git may hold a lock: it is younger than `PATIENCE`, and a git process
    started before it was made."""
    import psutil

    locked_at = lock.stat().st_mtime
    if time.time() - locked_at >= PATIENCE:
        return False
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "git" and process.create_time() <= locked_at + 1:
                return True
    return False
