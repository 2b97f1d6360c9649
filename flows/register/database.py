"""The connection to the register's database: SQLite in the workspace, or PostgreSQL by URL."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flows.register import migrate, transactions
from flows.register.transactions import PATIENCE
from flows.workspace import environment
from tasks.common.errors import WorkspaceError

URL = transactions.URL
"""Names the secret with the database's address."""
FILE = Path(".register/register.db")
CONNECT = 10
"""How long to wait for an answer of a PostgreSQL server, s."""


def address(home: Path) -> str:
    """The database's address: the secret `ERASURE_AUDIT_DATABASE`, else a SQLite file in the
    workspace."""
    url = environment.secret(URL)
    if url:
        return re.sub(r"\Apostgres(ql)?://", "postgresql+psycopg://", url)
    return f"sqlite:///{(home / FILE).resolve()}"


def is_own(home: Path) -> bool:
    """Whether the database is the workspace's own file, which no other machine uses."""
    return address(home) == f"sqlite:///{(home / FILE).resolve()}"


def connect(home: Path) -> sa.Engine:
    """An engine for the register's database, with its tables made or upgraded.

    Raises:
        WorkspaceError: the database cannot be reached, or is of a newer version of the tool. The
            message holds no password.
    """
    hint = (
        f"{URL} names no database that can be used; expected "
        "postgresql+psycopg://user:password@host/name"
    )
    url = address(home)
    if url.startswith("sqlite:///"):
        folder = Path(url.removeprefix("sqlite:///")).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    options: dict[str, Any] = {}
    if not url.startswith("sqlite"):
        options["connect_args"] = {"connect_timeout": CONNECT}
    try:
        engine = sa.create_engine(url, pool_pre_ping=True, max_overflow=60, **options)
    except (sa.exc.ArgumentError, ModuleNotFoundError):
        raise WorkspaceError(hint) from None  # the driver's message would quote the password
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise WorkspaceError(hint)
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    try:
        with transactions.reachable(engine):
            migrate.upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Begin transactions explicitly: with pysqlite's own timing two writers could read the same
    end of the chain."""

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000}")
        _write_ahead(connection)
        for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")


def _write_ahead(connection: Any) -> None:
    """Use the write-ahead log, so that readers and the writer do not wait for each other.

    SQLite's busy timeout does not cover this switch, so it is repeated until it works.
    """
    import sqlite3

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
