"""The tables of the register.

Triggers keep events append-only. Moments are RFC 3339 texts in UTC with microseconds: both
databases keep the same bytes, and texts sort by time.
"""

from __future__ import annotations

import sqlalchemy as sa

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
    sa.Column(
        "row_digest",
        sa.String(64),
        comment="SHA-256 of the request's row and identities after this change; null: a note",
    ),
    sa.Column("mac", sa.String(64), comment="HMAC-SHA256 of hash with the chain's key"),
    sa.Column(
        "keeper",
        sa.String(64),
        comment="which machine added it and keeps the chain's end outside the database, keyed",
    ),
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
