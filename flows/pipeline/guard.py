"""Ends the stages of a run that was killed.

Each stage has a process group of its own, so it would go on when its run is killed: no handler runs
on SIGKILL, with which Prefect's worker ends a run when the worker itself is stopped. The guard is a
small process beside the run. It reads the groups from a pipe, which closes when the run is gone,
and then ends the groups that are left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache

POLITE = 1.5
"""Time between SIGTERM and SIGKILL, s."""


class Guard:
    """The guard of this process; the first group starts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    @contextlib.contextmanager
    def watching(self, group: int) -> Iterator[None]:
        """End a process group if this process ends inside the block.

        Args:
            group: id of the process group.
        """
        self._write(f"+{group}\n")
        try:
            yield
        finally:
            self._write(f"-{group}\n")

    def _write(self, line: str) -> None:
        with self._lock, contextlib.suppress(OSError):  # stages run also without a guard
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", __file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,
                )
            if self._process.stdin is not None:
                self._process.stdin.write(line)
                self._process.stdin.flush()


@cache
def of_this_process() -> Guard:
    """The one guard of this process."""
    return Guard()


def main() -> None:
    """Read groups from standard input; at its end, end the groups that are left."""
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    _signal(groups, signal.SIGTERM)
    start = time.monotonic()
    while _signal(groups, 0) and time.monotonic() - start < POLITE:
        time.sleep(0.02)
    _signal(groups, signal.SIGKILL)


def _signal(groups: set[int], number: int) -> bool:
    """Whether any of the groups was still there."""
    any_alive = False
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
            any_alive = True
    return any_alive


if __name__ == "__main__":
    main()
