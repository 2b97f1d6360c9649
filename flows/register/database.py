"""The tables of the register, and how they are reached: SQLite in the workspace, or PostgreSQL by
URL.

Events are append-only: triggers refuse to change or remove one, whoever tries. Moments are RFC 3339
texts in UTC with microseconds, so that both databases keep the same bytes and the order of texts is
the order of time.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from flows.workspace import environment
from tasks.common.errors import WorkspaceError

URL = "ERASURE_AUDIT_DATABASE"
"""Names the secret with the database's address, as in
postgresql+psycopg://user:password@host/name."""
FILE = Path(".register/register.db")
CONNECT = 10
"""Time that a PostgreSQL server is given to answer, s."""
PATIENCE = 60
"""Time that a writer waits for the one before it, s; transactions take milliseconds."""
LOCK = 0x45_52_41_53
"""Key of PostgreSQL's advisory lock that writers take one after the other, so that the chain has no
forks."""

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

requests = sa.Table(
    "requests",
    metadata,
    sa.Column("request_id", sa.String(36), primary_key=True),
    sa.Column(
        "digest",
        sa.String(64),
        nullable=False,
        comment="of the request as kept, so that a repetition is known",
    ),
    sa.Column("regulation", sa.String(8), nullable=False),
    sa.Column(
        "submitted",
        sa.String(40),
        nullable=False,
        comment="the request's own time; its day is that of receipt",
    ),
    sa.Column("source", sa.String(40), nullable=False, comment="http, drop folder, csv, file"),
    sa.Column("identities", sa.JSON, nullable=False, comment="keyed pseudonyms, gone when closed"),
    sa.Column(
        "wishes",
        sa.JSON,
        nullable=False,
        comment="of the request; records as pseudonyms, gone when closed",
    ),
    sa.Column("callbacks", sa.JSON, nullable=False, comment="status_callback_urls"),
    sa.Column("due", sa.String(10), comment="last day for an answer; null: the law names none"),
    sa.Column("extended", sa.Boolean, nullable=False, default=False),
    sa.Column("state", sa.String(20), nullable=False, index=True),
    sa.Column("held", sa.Boolean, nullable=False, default=False),
    sa.Column(
        "batch", sa.String(64), index=True, comment="the batch that it is in, or was last in"
    ),
    sa.Column("verdict", sa.String(20)),
    sa.Column(
        "duplicate_of", sa.String(36), comment="an open request that means the same data subject"
    ),
    comment="What is so now; it follows from the events and is written in the same transaction.",
)

identities = sa.Table(
    "identities",
    metadata,
    sa.Column("pseudonym", sa.String(80), primary_key=True),
    sa.Column("request_id", sa.String(36), primary_key=True, index=True),
    comment="Who open requests are about, as keyed pseudonyms, so that duplicates are found.",
)

events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
    ),
    sa.Column("at", sa.String(32), nullable=False),
    sa.Column("actor", sa.String(200), nullable=False),
    sa.Column("request_id", sa.String(36), index=True),
    sa.Column("batch", sa.String(64), index=True),
    sa.Column("kind", sa.String(32), nullable=False, index=True),
    sa.Column(
        "details",
        sa.Text,
        nullable=False,
        comment="canonical JSON, as it was hashed; no personal data",
    ),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    comment="Everything that happened; append-only, each row's hash covers the one before.",
)

callbacks = sa.Table(
    "callbacks",
    metadata,
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=False,
        comment="of the event that is told",
    ),
    sa.Column("url", sa.String(2048), primary_key=True),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("next_try", sa.String(32), index=True, comment="null: delivered, or given up"),
    sa.Column("outcome", sa.String(200)),
    comment="Status callbacks that wait for their delivery.",
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("holder", sa.String(200), nullable=False),
    sa.Column("since", sa.String(32), nullable=False),
    sa.Column("until", sa.String(32), nullable=False),
    comment="Who does exclusive work; one that is not renewed in time counts no more.",
)


def address(home: Path) -> str:
    """The database's address: the secret `ERASURE_AUDIT_DATABASE`, else a SQLite file in the
    workspace."""
    named = environment.secret(URL)
    if named:
        return re.sub(r"\Apostgres(ql)?://", "postgresql+psycopg://", named)
    return f"sqlite:///{(home / FILE).resolve()}"


def connect(home: Path) -> sa.Engine:
    """An engine on the register's database, its tables made or brought up to date.

    Raises:
        WorkspaceError: the database cannot be reached, or is of a newer version of the tool; names
            no password.
    """
    from flows.register import migrate

    hint = f"{URL} names no database that can be used; expected postgresql+psycopg://user:password@host/name"
    url = address(home)
    if url.startswith("sqlite:///"):
        place = Path(url.removeprefix("sqlite:///"))
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        patience = (
            {} if url.startswith("sqlite") else {"connect_args": {"connect_timeout": CONNECT}}
        )
        engine = sa.create_engine(url, pool_pre_ping=True, max_overflow=60, **patience)
    except (sa.exc.ArgumentError, ModuleNotFoundError):
        raise WorkspaceError(hint) from None  # the driver's own message would repeat the password
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise WorkspaceError(hint)
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    try:
        with reachable(engine):
            migrate.upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextlib.contextmanager
def reachable(engine: sa.Engine) -> Iterator[None]:
    """Turn the driver's errors about the connection into one that a user can read, without address
    or password."""
    try:
        yield
    except sa.exc.DatabaseError as error:
        if isinstance(error, (sa.exc.IntegrityError, sa.exc.ProgrammingError, sa.exc.DataError)):
            raise  # a mistake of ours, and no fault of the database
        raise WorkspaceError(
            _unusable(error, engine)
        ) from None  # the driver's own message names the address
    except (sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise WorkspaceError(_unusable(error, engine)) from None


def _unusable(error: sa.exc.SQLAlchemyError, engine: sa.Engine) -> str:
    told = str(getattr(error, "orig", None) or error).strip().splitlines()
    return (
        f"the register's {engine.dialect.name} database cannot be used "
        f"({_without(told[0], engine.url)}); see that it"
        f" runs and that {URL} is right, then do the same again: what was written before is kept"
    )


@contextlib.contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction in which no other process writes; it is kept as a whole, or not at all."""
    with reachable(engine), engine.connect() as connection:
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
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that only looks."""
    with reachable(engine), engine.connect() as connection:
        yield connection


@contextlib.contextmanager
def snapshot(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that only looks, and sees one moment however long it looks."""
    with reachable(engine), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def _prepare_sqlite(engine: sa.Engine) -> None:
    """Transactions begin where we say (pysqlite's own timing would let two writers read the same
    chain's end)."""

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000}")
        _write_ahead(connection)
        for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {setting}")


def _write_ahead(connection: Any) -> None:
    """Readers and the writer do not wait for each other. SQLite itself does not wait for this
    switch to be free."""
    import sqlite3

    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def _without(text: str, url: sa.URL) -> str:
    for part in (url.password, url.username, url.host):
        text = text.replace(str(part), "…") if part else text
    return text
