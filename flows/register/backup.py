"""Backs up the register's database while others use it; for SQLite only."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from flows.register import chain, transactions
from flows.register.chain import Head
from flows.register.chain_key import ChainKey
from flows.register.states import RegisterError


def copy(engine: sa.Engine, key: ChainKey | None, target: Path) -> Head:
    """Copy the register into a new file, and check the copy's chain; see
    `register.Register.backup`."""
    if engine.dialect.name != "sqlite":
        raise RegisterError(
            "the register is in PostgreSQL; pg_dump backs it up, see docs/requests.md"
        )
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise RegisterError(
            f"{target}: cannot be written ({error.strerror}); name a new file"
        ) from error
    with transactions.reading(engine) as connection:
        connection.exec_driver_sql("VACUUM INTO ?", (str(target),))
    copied = sa.create_engine(f"sqlite:///{target.absolute()}")
    try:
        with transactions.snapshot(copied) as connection:
            return chain.check(connection, key)
    finally:
        copied.dispose()
