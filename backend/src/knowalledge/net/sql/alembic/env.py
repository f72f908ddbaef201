"""Alembic runs this file to apply migrations, over the connection that ``Schema.upgrade`` has begun."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=False,  # the transaction is the caller's
)
context.run_migrations()
