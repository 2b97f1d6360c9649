"""Upgrades of the register's tables by Alembic; there are no downgrades."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from flows.register import transactions
from tasks.common.errors import WorkspaceError

LATEST = "0003"
"""The version of the tables that this code needs: the newest module of `migrations/versions`."""
SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(engine: sa.Engine) -> None:
    """Make the tables, or upgrade those of an earlier version, in one transaction.

    Processes that start at once wait for the one that upgrades. If the tables are up to date, this
    costs one query.

    Raises:
        WorkspaceError: the tables are of a newer version of the tool.
    """
    with transactions.reading(engine) as connection:
        if version(connection) == LATEST:
            return
    with transactions.writing(engine) as connection:
        present = version(connection)
        if present != LATEST:  # no other process was faster
            _upgrade(connection, present)


def version(connection: sa.Connection) -> str | None:
    """The version of the tables; None: there are none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    number: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    return number


def _upgrade(connection: sa.Connection, present: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    revisions = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if present is not None and present not in revisions:
        raise WorkspaceError(
            f"the register's tables are of version {present}, and this erasure-audit knows them up "
            f"to {LATEST}; install the version that was used last. Nothing was changed"
        )
    command.upgrade(config, "head")
