"""Bringing the register's tables up to date, by Alembic."""

from __future__ import annotations

import sqlalchemy as sa

APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER IF NOT EXISTS events_keep_{what} BEFORE {what} ON events "
        "BEGIN SELECT RAISE(ABORT, 'events are append-only'); END",
    ),
}


def upgrade(engine: sa.Engine) -> None:
    """Make the tables, or bring those of an earlier version up to date."""
    from flows.operations import database

    database.metadata.create_all(engine)
