"""The first tables: requests, their events as a chain that is only added to, callbacks, leases,
identities."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")

SQLITE = (
    """CREATE TRIGGER events_added BEFORE INSERT ON events
    WHEN NEW.seq <> coalesce((SELECT max(seq) FROM events), 0) + 1
    BEGIN SELECT RAISE(ABORT, 'events are added at the end'); END""",
    """CREATE TRIGGER events_changed BEFORE UPDATE ON events
    BEGIN SELECT RAISE(ABORT, 'events are not changed'); END""",
    """CREATE TRIGGER events_removed BEFORE DELETE ON events
    BEGIN SELECT RAISE(ABORT, 'events are not removed'); END""",
)
"""Whoever opens the database: events are added at the end (also none is replaced), and stay."""

POSTGRESQL = (
    """CREATE FUNCTION events_added() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF NEW.seq <> coalesce((SELECT max(seq) FROM events), 0) + 1 THEN
    RAISE EXCEPTION 'events are added at the end'; END IF; RETURN NEW; END $$""",
    "CREATE TRIGGER events_added BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION "
    "events_added()",
    """CREATE FUNCTION events_stay() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE EXCEPTION 'events are not changed or removed'; END $$""",
    "CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION "
    "events_stay()",
    "CREATE TRIGGER events_all_stay BEFORE TRUNCATE ON events FOR EACH STATEMENT EXECUTE FUNCTION "
    "events_stay()",
)


def upgrade() -> None:
    """Make the tables and the triggers."""
    op.create_table(
        "callbacks",
        sa.Column(
            "seq", NUMBER, autoincrement=False, nullable=False, comment="of the event that is told"
        ),
        sa.Column("url", sa.String(length=2048), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_try", sa.String(length=32), comment="null: delivered, or given up"),
        sa.Column("outcome", sa.String(length=200)),
        sa.PrimaryKeyConstraint("seq", "url", name="pk_callbacks"),
        comment="Status callbacks that wait for their delivery.",
    )
    op.create_index("ix_callbacks_next_try", "callbacks", ["next_try"])
    op.create_table(
        "events",
        sa.Column("seq", NUMBER, autoincrement=False, nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=36)),
        sa.Column("batch", sa.String(length=64)),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column(
            "details",
            sa.Text(),
            nullable=False,
            comment="canonical JSON, as it was hashed; no personal data",
        ),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_events"),
        sa.UniqueConstraint("hash", name="uq_events_hash"),
        comment="Everything that happened; append-only, each row's hash covers the one before.",
    )
    op.create_index("ix_events_batch", "events", ["batch"])
    op.create_index("ix_events_kind", "events", ["kind"])
    op.create_index("ix_events_request_id", "events", ["request_id"])
    op.create_table(
        "identities",
        sa.Column("pseudonym", sa.String(length=80), nullable=False),
        sa.Column("request_id", sa.String(length=36), nullable=False),
        sa.PrimaryKeyConstraint("pseudonym", "request_id", name="pk_identities"),
        comment="Who open requests are about, as keyed pseudonyms, so that duplicates are found.",
    )
    op.create_index("ix_identities_request_id", "identities", ["request_id"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("holder", sa.String(length=200), nullable=False),
        sa.Column("since", sa.String(length=32), nullable=False),
        sa.Column("until", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
        comment="Who does exclusive work; one that is not renewed in time counts no more.",
    )
    op.create_table(
        "requests",
        sa.Column("request_id", sa.String(length=36), nullable=False),
        sa.Column(
            "digest",
            sa.String(length=64),
            nullable=False,
            comment="of the request as kept, so that a repetition is known",
        ),
        sa.Column("regulation", sa.String(length=8), nullable=False),
        sa.Column(
            "submitted",
            sa.String(length=40),
            nullable=False,
            comment="the request's own time; its day is that of receipt",
        ),
        sa.Column(
            "source", sa.String(length=40), nullable=False, comment="http, drop folder, csv, file"
        ),
        sa.Column(
            "identities", sa.JSON(), nullable=False, comment="keyed pseudonyms, gone when closed"
        ),
        sa.Column(
            "wishes",
            sa.JSON(),
            nullable=False,
            comment="of the request; records as pseudonyms, gone when closed",
        ),
        sa.Column("callbacks", sa.JSON(), nullable=False, comment="status_callback_urls"),
        sa.Column(
            "due", sa.String(length=10), comment="last day for an answer; null: the law names none"
        ),
        sa.Column("extended", sa.Boolean(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("held", sa.Boolean(), nullable=False),
        sa.Column("batch", sa.String(length=64), comment="the batch that it is in, or was last in"),
        sa.Column("verdict", sa.String(length=20)),
        sa.Column(
            "duplicate_of",
            sa.String(length=36),
            comment="an open request that means the same data subject",
        ),
        sa.PrimaryKeyConstraint("request_id", name="pk_requests"),
        comment="What is so now; it follows from the events and is written in the same "
        "transaction.",
    )
    op.create_index("ix_requests_batch", "requests", ["batch"])
    op.create_index("ix_requests_state", "requests", ["state"])
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)
