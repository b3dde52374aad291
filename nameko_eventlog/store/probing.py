"""
Probes: whether a database accepts writes, asked over a separate connection.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import Engine, false, select

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.store import full_text
from nameko_eventlog.store.databases import close_engine, database_errors, open_engine
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.migrating import Migration
from nameko_eventlog.store.schema import metadata
from nameko_eventlog.store.writing import EventLogWriter, has_id


class Probe:
    """
    Tests whether a database lets a transaction begin that writes.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __call__(self) -> bool:
        """
        Run the test.

        Raises:
            DatabaseError: The database does not allow it.
        """
        engine: Engine = open_engine(self._uri, writes=True, deadline=Deadline(5))
        try:
            with database_errors(engine.url), engine.begin() as connection:
                connection.exec_driver_sql("SELECT 1")
        finally:
            close_engine(engine)
        return True


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


class RefusedBatchProbe:
    """
    Tests whether a database accepts a batch that it has refused.

    A database that answers may still refuse writes, or accept a small write on a full disk. So the
    probe writes the refused batch, as much of it as one transaction takes. When it is delivered
    again, its message ids identify it as duplicates. Messages without an id are written and rolled
    back.

    Args:
        uri: The database's address.
        accept: The content types that may be decoded.
        refused: The batch.
        counts: Where rows and duplicates are counted.
    """

    def __init__(
        self,
        uri: str,
        accept: Collection[str],
        refused: Sequence[ReceivedMessage],
        counts: StoreCounts | None = None,
    ) -> None:
        self._writer = EventLogWriter(uri, accept, counts)
        self._refused = refused

    def __call__(self) -> bool:
        """
        Run the test.

        Raises:
            DatabaseError: The database does not accept the batch.
        """
        try:
            self._writer.try_write([one for one in self._refused if not has_id(one)])
            self._writer.write_first([one for one in self._refused if has_id(one)])
        finally:
            self._writer.close()
        return True
