"""The versions of the register's tables, for Alembic."""
