"""Leases: exclusive work, across processes and machines that share the register's database."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from flows.register import transactions
from flows.register.encoding import digest, now, text_of
from flows.register.states import BusyError, LostLeaseError
from flows.register.tables import leases
from tasks.common.errors import AuditError


class Lease:
    """Exclusive work of this process. A thread renews the lease; `check` tests whether it still
    holds."""

    def __init__(
        self, engine: sa.Engine, name: str, seconds: float, renewed_every: float | None = None
    ) -> None:
        """Args:
        engine: the register's database.
        name: of the work.
        seconds: how long it holds without being renewed.
        renewed_every: time between two renewals, s; None: a quarter of `seconds`.
        """
        self._engine, self.name, self._seconds = engine, name, seconds
        self._pause = seconds / 4 if renewed_every is None else renewed_every
        self._holder = f"{machine()}:{os.getpid()}:{started(os.getpid())}:{os.urandom(4).hex()}"
        self._released, self._held_until = threading.Event(), 0.0
        self._renewal = threading.Thread(
            target=self._renew_often, name=f"lease {name}", daemon=True
        )

    def check(self) -> None:
        """Check that the lease still holds; call it before a step that cannot be undone.

        Raises:
            LostLeaseError: another process may do the work by now; stop.
            WorkspaceError: the lease ran out, and the database does not answer.
        """
        if time.time() >= self._held_until and not self._renew():
            raise LostLeaseError(
                f"{self.name}: its lease ran out while the database was away, and another process "
                "took it over; this one stops, and what it finished is kept"
            )

    def take(self) -> None:
        """Take the lease. Raises `BusyError` if another process holds it."""
        moment = datetime.now(UTC)
        with transactions.writing(self._engine) as connection:
            row = connection.execute(sa.select(leases).where(leases.c.name == self.name)).first()
            if row is not None and row.until > text_of(moment) and not has_ended(row.holder):
                raise BusyError(
                    f"{self.name}: another process works on it since {row.since}; wait for its end"
                )
            connection.execute(leases.delete().where(leases.c.name == self.name))
            self._held_until = time.time() + self._seconds
            connection.execute(
                leases.insert().values(
                    name=self.name,
                    holder=self._holder,
                    since=text_of(moment),
                    until=text_of(moment + timedelta(seconds=self._seconds)),
                )
            )
        self._renewal.start()

    def release(self) -> None:
        """Release the lease; if the database does not answer, the lease runs out by itself."""
        self._released.set()
        self._renewal.join()
        with contextlib.suppress(AuditError), transactions.writing(self._engine) as connection:
            connection.execute(
                leases.delete().where(leases.c.name == self.name, leases.c.holder == self._holder)
            )

    def _renew(self) -> bool:
        held_until = time.time() + self._seconds
        until = text_of(datetime.now(UTC) + timedelta(seconds=self._seconds))
        own_lease = leases.update().where(
            leases.c.name == self.name, leases.c.holder == self._holder
        )
        with transactions.writing(self._engine) as connection:
            if not connection.execute(own_lease.values(until=until)).rowcount:
                self._held_until = 0.0
                return False
        self._held_until = held_until
        return True

    def _renew_often(self) -> None:
        while not self._released.wait(self._pause):
            with contextlib.suppress(AuditError):  # the database may be back at the next try
                if not self._renew():
                    return


def working(connection: sa.Connection) -> list[tuple[str, str, str]]:
    """Leases that hold: name, start, and end if nobody renews it."""
    query = sa.select(leases).where(leases.c.until > now()).order_by(leases.c.name)
    return [(row.name, row.since, row.until) for row in connection.execute(query)]


def has_ended(holder: str) -> bool:
    """Whether a lease's holder is a process of this machine that has ended."""
    import psutil

    holder_machine, pid, start, *_ = holder.split(":")
    if holder_machine != machine():
        return False
    return not psutil.pid_exists(int(pid)) or started(int(pid)) not in (start, "unknown")


def started(pid: int) -> str:
    """The start of a process in ticks since boot. It distinguishes a process from a later one with
    the same number, also after the clock was set."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):  # not Linux, or the process is hidden
        return "unknown"
    return "ended" if state == "Z" else fields[18]


@functools.cache
def machine() -> str:
    """An id of this machine, boot and container: process numbers are unique only within it."""
    identifiers = [socket.gethostname()]
    with contextlib.suppress(OSError):
        identifiers += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return digest(identifiers)[:16]
