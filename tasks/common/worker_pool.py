"""Shares work on many items among a few processes of one machine, if that saves time."""

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

Context = TypeVar("Context")
Item = TypeVar("Item")

MOST = 8
"""Most processes that share work: each holds the whole context in memory, and a server has other
tasks."""
AHEAD = 2
"""Items queued per helping process, so that it never waits."""

_context: Any = None
"""The context of a helping process, or the `AuditError` that its making raised."""


def each(
    work: Callable[[Context, Item], None],
    items: Sequence[Item],
    make_here: Callable[[], Context],
    make: Callable[[], Context],
    worth: int,
) -> Iterator[Item]:
    """Do the work on every item and yield each item when it is done, in no fixed order.

    Helping processes take items from the front, this process from the back, so that it does not
    wait while they start. They end when this process ends, however it ends.

    Args:
        work: a function of a module that takes the context and an item, and writes its results.
        items: what to work on; they are pickled to other processes.
        make_here: makes the context in this process, while the helping processes start.
        make: makes the same context in a helping process.
        worth: how many items repay starting a process.

    Raises:
        AuditError: a process ended before its work was done, or the work's own error.
    """
    helpers = min(cores() - 1, MOST - 1, (len(items) - 1) // worth)
    if helpers < 1:
        context = make_here()
        for item in items:
            work(context, item)
            yield item
        return
    waiting, running = deque(items), dict[Future[None], Item]()
    # spawned, not forked: numerical libraries have threads that would deadlock a fork
    pool = ProcessPoolExecutor(helpers, get_context("spawn"), _begin, (make,))

    def submit() -> None:
        while waiting and len(running) < AHEAD * helpers:
            item = waiting.popleft()
            running[pool.submit(_do, work, item)] = item

    try:
        submit()
        context = make_here()
        while waiting or running:
            submit()
            if waiting:
                item = waiting.pop()
                work(context, item)
                yield item
            finished, _ = wait(running, timeout=0 if waiting else None, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                yield running.pop(future)
    except BrokenProcessPool as error:
        raise AuditError(
            "a worker process ended before its work was done; is there enough memory?"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin(make: Callable[[], Any]) -> None:
    """Set up a helping process: it ignores interrupts, which the main process handles, and ends
    with that process."""
    global _context
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _context = make()
    except AuditError as error:  # the main process meets the same error and reports it better
        _context = error


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _do(work: Callable[[Any, Any], None], item: Any) -> None:
    if isinstance(_context, AuditError):
        raise _context
    work(_context, item)
