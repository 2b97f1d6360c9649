"""The same work on many things, shared by a few processes of one machine, where that pays for
starting them."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from tasks.common.errors import AuditError

Tool = TypeVar("Tool")
Thing = TypeVar("Thing")

MOST = 8
"""Processes that share work at most: each holds all that the work needs, and a server has other
things to do."""
AHEAD = 2
"""Things that a helping process is given before it is done with them, so that it never waits."""

_tool: Any = None
"""What a helping process works with, or the `AuditError` that kept it from being made."""


def each(
    work: Callable[[Tool, Thing], None],
    things: Sequence[Thing],
    here: Callable[[], Tool],
    make: Callable[[], Tool],
    worth: int,
) -> Iterator[Thing]:
    """Do the work on every thing, and yield the things as they are done, in no certain order.

    Helping processes take the things from the first on, this one from the last on, so that it does
    not wait while they start. They end when this one does, however it ends.

    Args:
        work: a function of a module; what it makes, it writes.
        things: what to work on; they travel to other processes.
        here: gives what the work needs, once the helping processes have begun to start.
        make: makes the same in another process.
        worth: so many things pay for starting a process.

    Raises:
        AuditError: a process ended before its work was done, or the work's own error.
    """
    helpers = min(cores() - 1, MOST - 1, (len(things) - 1) // worth)
    if helpers < 1:
        tool = here()
        for thing in things:
            work(tool, thing)
            yield thing
        return
    todo, begun = deque(things), dict[Future[None], Thing]()
    # not forked: Pango, and libraries for arithmetic, have threads that a forked process would wait
    # for
    pool = ProcessPoolExecutor(helpers, get_context("spawn"), _begin, (make,))

    def give() -> None:
        while todo and len(begun) < AHEAD * helpers:
            thing = todo.popleft()
            begun[pool.submit(_do, work, thing)] = thing

    try:
        give()
        tool = here()
        while todo or begun:
            give()
            if todo:
                thing = todo.pop()
                work(tool, thing)
                yield thing
            done, _ = wait(begun, timeout=0 if todo else None, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield begun.pop(future)
    except BrokenProcessPool as error:
        raise AuditError(
            "a process that helped ended before its work was done; is there memory enough?"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(make: Callable[[], Any]) -> None:
    """Make a helping process ready: an interrupt is for the process that asked for help, and so is
    its end."""
    global _tool
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _tool = make()
    except AuditError as error:  # whoever asked for help meets it too, and tells it better
        _tool = error


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _do(work: Callable[[Any, Any], None], thing: Any) -> None:
    if isinstance(_tool, AuditError):
        raise _tool
    work(_tool, thing)
