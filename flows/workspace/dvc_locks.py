"""DVC's locks after a run was killed.

DVC drops a lock whose process is gone. Two remains are beyond it: a number that meanwhile belongs
to another process (likely in containers, where numbers are low), and a lock file cut off in the
middle of a write.
"""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

PAUSE = 1.0
"""Time between two tries to get a lock, s."""

SIGNS = ("Unable to acquire lock", "is busy, it is being blocked by")
"""What DVC prints when another process holds a lock."""


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
    ):  # somebody is at it right now, so it is not a remain
        guard = lockfile.LockFile(str(table.with_name("rwlock.lock")))
        try:
            _sweep(table)
        finally:
            guard.close()


def _sweep(table: Path) -> None:
    try:
        held = json.loads(table.read_text(encoding="utf-8"))
        held["write"] = {path: info for path, info in held.get("write", {}).items() if _lives(info)}
        readers = {
            path: [info for info in infos if _lives(info)]
            for path, infos in held.get("read", {}).items()
        }
        held["read"] = {path: infos for path, infos in readers.items() if infos}
    except (ValueError, AttributeError, TypeError, KeyError):
        table.unlink()
        return
    table.write_text(json.dumps(held), encoding="utf-8")


def _lives(holder: dict[str, Any]) -> bool:
    """Whether the process that took the lock is still there and is DVC, not a later one of the same
    number."""
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
