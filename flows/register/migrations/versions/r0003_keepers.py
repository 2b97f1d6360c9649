"""Events name who keeps the end of the chain outside the database.

So a machine that has kept an end is known, and a missing file is an alarm.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column(
        "events",
        sa.Column(
            "keeper",
            sa.String(64),
            comment="which machine added it and keeps the chain's end outside the database, keyed",
        ),
    )
