"""Ctrl-C and SIGTERM: every command ends with one line, leaves no process behind, and exits with
128 + the signal's number.

The work can be killed at any moment, so a command ends quickly: its child processes are ended, the
main thread gets a few seconds to release its resources, and then the process exits, whatever
Prefect's threads are doing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLITE = 1.5
"""Time between SIGTERM and SIGKILL for child processes, s."""
KILLED = 0.5
"""How long to wait for processes to end after SIGKILL, s."""
PATIENCE = 3.5
"""Time for the command to release its resources, s; the whole end may take 5 s."""
LINE = "interrupted; finished work is kept, and the same command continues"


class Interrupted(KeyboardInterrupt):
    """The user or the service manager ended the command."""


class Interruption:
    """Handles signals, and remembers the first one.

    Attributes:
        number: the signal; None: none came yet.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._screen = -1
        self._ending = threading.RLock()  # a second signal may come meanwhile
        self._sessions = set[int]()

    def install(self) -> None:
        """Handle the signals from now on; ignored ones, as under `nohup`, stay ignored."""
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._take)

    def exit(self) -> NoReturn:
        """End all child processes and this one, with one line on stderr."""
        with self._ending:  # the main thread and the watcher may both get here
            self._end_children(0.0)
            with contextlib.suppress(OSError):
                os.write(self._screen, self._line())
            os._exit(128 + (self.number or signal.SIGINT))

    def _take(self, number: int, _frame: object) -> None:
        if self.number is not None:  # a second signal: exit at once
            self.exit()
        self.number = number
        self._hush()
        threading.Thread(target=self._watch, name="interruption", daemon=True).start()
        raise Interrupted

    def _hush(self) -> None:
        """Silence the libraries; our own line goes to the real stderr."""
        self._screen = os.dup(2)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os.dup2(nowhere, 2)

    def _watch(self) -> None:
        start = time.monotonic()
        self._end_children(POLITE)
        while time.monotonic() - start < PATIENCE:
            time.sleep(0.1)
            self._end_children(0.0)  # processes that were starting
        self.exit()

    def _end_children(self, polite: float) -> None:
        """End all descendants of this process, and wait until they are gone.

        Args:
            polite: the time between SIGTERM and SIGKILL, s.
        """
        with self._ending:  # a second caller waits for the first
            if polite:
                _signal(self._family(), signal.SIGTERM)
                self._wait_until_gone(polite)
            _signal(self._family(), signal.SIGKILL)
            self._wait_until_gone(KILLED)

    def _wait_until_gone(self, seconds: float) -> None:
        """Wait until no process is left, or the time is over.

        This does not use `waitpid`: it would take the exit code from the thread that runs the
        stage, which would then count a killed stage as successful.
        """
        start = time.monotonic()
        while self._family() and time.monotonic() - start < seconds:
            time.sleep(0.02)

    def _family(self) -> list[psutil.Process]:
        """The living descendants of this process, also those whose parent has ended: they are in a
        session that a child started."""
        import psutil

        children = psutil.Process().children(recursive=True)
        self._sessions |= {_session(child.pid) for child in children} - {0, os.getsid(0)}
        relatives = (
            process for process in psutil.process_iter() if _session(process.pid) in self._sessions
        )
        return [process for process in {*children, *relatives} if _lives(process)]

    def _line(self) -> bytes:
        cursor = "\x1b[?25h\r\n" if os.isatty(self._screen) else ""  # a live table hides it
        return f"{cursor}error: {LINE}\n".encode()


def _signal(processes: list[psutil.Process], number: int) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _session(process: int) -> int:
    """The session of a process; 0 if it is gone."""
    with contextlib.suppress(OSError):
        return os.getsid(process)
    return 0


def _lives(process: psutil.Process) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False
