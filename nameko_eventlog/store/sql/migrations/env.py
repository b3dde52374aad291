"""
Run by Alembic, within the transaction and the lock of `nameko_eventlog.store.sql.migrating`.
"""

from alembic import context

from nameko_eventlog.store.sql.migrating import VERSION_TABLE


context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
