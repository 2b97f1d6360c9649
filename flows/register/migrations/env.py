"""What Alembic runs to get at the database: the connection that `migrate.upgrade` holds the lock
on."""

from alembic import context

from flows.register import database

context.configure(
    connection=context.config.attributes["connection"], target_metadata=database.metadata
)
with context.begin_transaction():
    context.run_migrations()
