"""Alembic's entry point: it uses the connection on which `migrate.upgrade` holds the lock."""

from alembic import context

from flows.register import tables

context.configure(
    connection=context.config.attributes["connection"], target_metadata=tables.metadata
)
with context.begin_transaction():
    context.run_migrations()
