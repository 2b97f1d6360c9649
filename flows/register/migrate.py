"""Bringing the register's tables up to date, by Alembic, and never back."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from tasks.common.errors import WorkspaceError

LATEST = "0001"
"""The version of the tables that this code works with; the newest module of
`migrations/versions`."""
SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(engine: sa.Engine) -> None:
    """Make the tables, or bring those of an earlier version up to date: all of it, or nothing.

    Processes that start at once wait for the one that does it. Tables that are up to date cost one
    look.

    Raises:
        WorkspaceError: the tables are of a newer version of the tool.
    """
    from flows.register import database

    with database.reading(engine) as connection:
        if version(connection) == LATEST:
            return
    with database.writing(engine) as connection:
        found = version(connection)
        if found != LATEST:  # nobody was faster
            _upgrade(connection, found)


def version(connection: sa.Connection) -> str | None:
    """The version of the tables, None where there are none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return found


def _upgrade(connection: sa.Connection, found: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise WorkspaceError(
            f"the register's tables are of version {found}, and this erasure-audit knows them up "
            f"to {LATEST}; "
            "install the version that was used last, nothing was changed"
        )
    command.upgrade(config, "head")
