"""Transactions on the register's database, with failures as errors that a user can read."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from weakref import WeakKeyDictionary

import sqlalchemy as sa

from flows.register.states import RegisterError
from tasks.common.errors import WorkspaceError

URL = "ERASURE_AUDIT_DATABASE"
"""Names the secret with the database's address, as in
postgresql+psycopg://user:password@host/name."""
PATIENCE = 60
"""How long a writer waits for another one, s; transactions take milliseconds."""
LOCK = 0x45_52_41_53
"""Key of PostgreSQL's advisory lock for writers, so that the chain does not fork."""


_turns: WeakKeyDictionary[sa.Engine, threading.Lock] = WeakKeyDictionary()


@contextlib.contextmanager
def reachable(engine: sa.Engine) -> Iterator[None]:
    """Turn the driver's connection errors into a `WorkspaceError` without address or password."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        if isinstance(error, (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError)):
            raise  # a defect of this program, not of the database
        # the driver's own message would name the address
        raise WorkspaceError(_unusable(error, engine)) from None
    except (sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise WorkspaceError(_unusable(error, engine)) from None
    except json.JSONDecodeError:  # its text would quote the value
        raise RegisterError(
            "a value in the register's database is not JSON, so somebody changed it; stop, find "
            "out who changed the database, and restore a backup"
        ) from None


def _unusable(error: sa.exc.SQLAlchemyError, engine: sa.Engine) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return (
        f"the register's {engine.dialect.name} database cannot be used "
        f"({_masked(lines[0], engine.url)}); check that it runs and that {URL} is right, then do "
        "the same again: what was written before is kept"
    )


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction of the only writer; it commits as a whole or not at all."""
    with _turn(engine), reachable(engine), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE}s'")
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
        try:
            yield connection
        except BaseException:
            connection.rollback()
            raise
        connection.commit()


@contextlib.contextmanager
def _turn(engine: sa.Engine) -> Iterator[None]:
    """Let the threads of this process write one after the other. SQLite's own waiting is unfair:
    each waiter sleeps longer and longer."""
    lock = _turns.setdefault(engine, threading.Lock())
    if not lock.acquire(timeout=PATIENCE):
        raise WorkspaceError("the register is busy; do the same again later")
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reading."""
    with reachable(engine), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection for reading that sees a single state, however long the reading takes."""
    with reachable(engine), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def _masked(text: str, url: sa.URL) -> str:
    for secret_part in (url.password, url.username, url.host):
        text = text.replace(str(secret_part), "…") if secret_part else text
    return text
