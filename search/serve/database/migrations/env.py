"""Alembic's entry: migrations run on the connection that `search.serve.database.engine` hands over."""

from alembic import context

from search.serve.database.tables import DatabaseTable

context.configure(
    connection=context.config.attributes["connection"], target_metadata=DatabaseTable.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
