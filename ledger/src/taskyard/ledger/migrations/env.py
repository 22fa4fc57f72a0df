"""Alembic's way in: `migrate.py` runs it, on a connection of its own."""

from __future__ import annotations

from alembic import context

from taskyard.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can undo what it has done to tables, and alters one by making it anew.
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
