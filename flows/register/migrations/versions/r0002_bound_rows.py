"""Events bind the rows of requests, and are authenticated with the chain's key.

Events of before keep both columns empty; `erasure-audit requests bind` vouches for them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the two columns."""
    op.add_column(
        "events",
        sa.Column(
            "row_digest",
            sa.String(64),
            comment="SHA-256 of the request's row and identities after this change; null: a note",
        ),
    )
    op.add_column(
        "events",
        sa.Column("mac", sa.String(64), comment="HMAC-SHA256 of hash with the chain's key"),
    )
