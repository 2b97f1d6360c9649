"""Locks: removes DVC's own after a run was killed, and keeps an erasure apart from all other work.

Code that fetches, checks out or writes data of a workspace holds the lock shared (`using`); an
erasure holds it alone (`erasing`), so that no data come back while it runs. It is a lock of the
operating system on a file in git's folder, which all checkouts share: it ends with the process that
holds it.

DVC drops a lock whose process is gone. It cannot handle two cases, which `sweep` does: a process
number that now belongs to another process (likely in containers, where numbers are low), and a lock
file that was cut off in the middle of a write.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.common.errors import WorkspaceError

PAUSE = 1.0
"""Time between two tries to get a lock, s."""

SIGNS = ("Unable to acquire lock", "is busy, it is being blocked by")
"""What DVC prints when another process holds a lock."""


PATIENCE = 3600.0
"""How long users of data wait for an erasure to end, s; a slow erasure is not a failure."""
SHORT_PATIENCE = 20.0
"""How long an erasure waits for others to end, s: they may take hours."""
FILE = "erasure-audit-data.lock"
"""In git's common folder."""


class DataInUseError(WorkspaceError):
    """Others use the data, so nothing can be erased now; or an erasure keeps others from them."""


_held_here: dict[Path, int] = {}
"""Locks that this process holds alone; its own work needs no further lock."""
_guard = threading.Lock()


@contextlib.contextmanager
def using(home: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Fetch, check out or write data inside the block. An erasure waits for its end, and it waits
    for an erasure.

    It may be taken within itself, and within `erasing` of the same process.

    Args:
        home: the workspace, or a checkout of it.
        patience: how long an erasure is waited for, s.

    Raises:
        DataInUseError: the erasure has not ended by then.
    """
    path = _path(home)
    if path is None or path in _held_here:
        yield
        return
    with _locked(path, fcntl.LOCK_SH, patience, "an erasure is under way; try again after it"):
        yield


@contextlib.contextmanager
def erasing(home: Path, patience: float = SHORT_PATIENCE) -> Iterator[None]:
    """Hold the data of a workspace alone.

    Raises:
        DataInUseError: somebody else uses them.
    """
    path = _path(home)
    if path is None:
        raise WorkspaceError(f"{home} is in no git repository, so nothing can be erased in it")
    why = (
        "data of this workspace are in use (a run, the nightly audit, `reproduce` or an import); "
        "nothing is erased before that has ended. Try again then"
    )
    with _locked(path, fcntl.LOCK_EX, patience, why):
        with _guard:
            _held_here[path] = threading.get_ident()
        try:
            yield
        finally:
            with _guard:
                del _held_here[path]


def _path(folder: Path) -> Path | None:
    """The file that all checkouts of a repository lock; None outside of a repository, as where an
    agent runs a single stage."""
    completed = subprocess.run(
        ["git", "rev-parse", "--git-common-dir"], cwd=folder, capture_output=True, text=True
    )
    return (
        (folder / completed.stdout.strip()).resolve() / FILE if completed.returncode == 0 else None
    )


@contextlib.contextmanager
def _locked(path: Path, mode: int, patience: float, why: str) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    end = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise DataInUseError(why) from None
                time.sleep(min(0.2, patience))
        yield
    finally:
        os.close(descriptor)  # and with it the lock


def wait() -> None:
    """Give the holder of a lock some time."""
    time.sleep(PAUSE)


def sweep(workspace: Path) -> None:
    """Remove what killed processes left in DVC's table of locks; locks of living DVC processes
    stay."""
    table = workspace / ".dvc" / "tmp" / "rwlock"
    if not table.exists():
        return
    from zc import lockfile

    with contextlib.suppress(
        lockfile.LockError
    ):  # another process uses it, so it is not a leftover
        guard = lockfile.LockFile(str(table.with_name("rwlock.lock")))
        try:
            _sweep(table)
        finally:
            guard.close()


def _sweep(table: Path) -> None:
    try:
        locks = json.loads(table.read_text(encoding="utf-8"))
        locks["write"] = {
            path: info for path, info in locks.get("write", {}).items() if _lives(info)
        }
        readers = {
            path: [info for info in infos if _lives(info)]
            for path, infos in locks.get("read", {}).items()
        }
        locks["read"] = {path: infos for path, infos in readers.items() if infos}
    except (ValueError, AttributeError, TypeError, KeyError):
        table.unlink()
        return
    table.write_text(json.dumps(locks), encoding="utf-8")


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that took the lock still runs and is DVC, not a later process with the
    same number."""
    import psutil

    try:
        return any(
            "dvc" in word or "erasure-audit" in word
            for word in psutil.Process(int(holder["pid"])).cmdline()
        )
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
