"""
Probes of SQLite and PostgreSQL.
"""

from __future__ import annotations

from sqlalchemy import Engine, false, select

from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.sql import full_text
from nameko_eventlog.store.sql.engines import close_engine, database_errors, open_engine
from nameko_eventlog.store.sql.migrating import Migration
from nameko_eventlog.store.sql.schema import metadata


def probe(uri: str) -> None:
    """
    Begin a transaction that writes.
    """
    engine: Engine = open_engine(uri, writes=True, deadline=Deadline(5))
    try:
        with database_errors(engine.url), engine.begin() as connection:
            connection.exec_driver_sql("SELECT 1")
    finally:
        close_engine(engine)


def try_tables(uri: str) -> str:
    """
    Test whether both tables are writable, by inserting no rows.

    Returns:
        A description of the tables, and of what the store does about them when it starts.

    Raises:
        DatabaseError: They are not writable.
    """
    engine: Engine = open_engine(uri, writes=True, deadline=Deadline(5))
    try:
        migration = Migration(engine)
        description = migration.try_write()
        if not migration.is_current:
            return description
        with database_errors(engine.url), engine.begin() as connection:
            for table in metadata.sorted_tables:
                columns = [one for one in table.columns if not one.system]
                names = [one.name for one in columns]
                nothing = select(*columns).where(false())
                connection.execute(table.insert().from_select(names, nothing))
            full_text.try_write(connection)
        return description
    finally:
        close_engine(engine)
