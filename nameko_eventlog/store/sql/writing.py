"""
Writing to SQLite and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from nameko_eventlog.store.backends import RowRefused
from nameko_eventlog.store.sql.engines import close_engine, database_errors, open_engine
from nameko_eventlog.store.sql.files import check_in_place
from nameko_eventlog.store.sql.inserting import insert_event_logs, insert_rejects
from nameko_eventlog.store.sql.migrating import Migration
from nameko_eventlog.store.sql.partitions import DailyPartitions


T = TypeVar("T")


class SqlWriter:
    """
    Implements `backends.Writer`.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self.engine = open_engine(uri, writes=True)
        self._migration = Migration(self.engine)
        is_postgresql = self.engine.dialect.name == "postgresql"
        self._partitions = DailyPartitions(self.engine) if is_postgresql else None
        self._is_migrated = False
        self._connections = 0
        # the new connection may be to another file, or to a server that was set up again
        event.listen(self.engine, "connect", self._forget)

    @property
    def problem(self) -> str | None:
        """
        What keeps PostgreSQL from adding partitions.
        """
        return None if self._partitions is None else self._partitions.problem

    def prepare(self) -> None:
        """
        Create or migrate the tables, if needed, and add partitions for the next days.
        """
        with database_errors(self.engine.url), self.engine.connect() as connection:
            check_in_place(connection)
        if not self._is_migrated:
            self._migration.run()
            self._is_migrated = True
            if self._partitions is not None:
                self._partitions.forget()
        if self._partitions is not None:
            with database_errors(self.engine.url):
                self._partitions.add()

    def _forget(self, *_: Any) -> None:
        self._is_migrated = False
        self._connections += 1

    def insert(self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> int:
        """
        Insert event logs and rejects in one transaction.
        """
        return self._repeat_if_closed(partial(self._insert, rows, rejected))

    def _insert(self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> int:
        try:
            with self._transaction() as connection:
                inserted = insert_event_logs(connection, rows)
                insert_rejects(connection, rejected)
        except StatementError as exc:
            if not _is_about_a_row(exc):
                raise
            raise RowRefused(f"the database: {exc.orig or exc}") from exc
        return inserted

    def try_insert(
        self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]
    ) -> None:
        """
        Insert, and roll back.
        """
        with database_errors(self.engine.url):
            try:
                with self.engine.connect() as connection:  # rolls back when it closes
                    insert_event_logs(connection, rows)
                    insert_rejects(connection, rejected)
            except StatementError as exc:
                if not _is_about_a_row(exc):
                    raise

    def close(self) -> None:
        """
        Close the connection.
        """
        close_engine(self.engine)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """
        Run a transaction, and check that it was committed to the file at the database's path.
        """
        with self.engine.connect() as connection:
            try:
                with connection.begin():
                    yield connection
            except DBAPIError as exc:
                if _is_about_connection(exc):
                    connection.invalidate()
                raise
            check_in_place(connection)

    def _repeat_if_closed(self, write: Callable[[], T]) -> T:
        """
        Call *write*; if the connection turns out to be closed, repeat it over a new one.

        An idle connection may have been closed by the server, a connection pool or a failover,
        which only the next statement shows. If the first attempt was committed after all, the
        second one writes nothing twice.
        """
        connections = self._connections
        with database_errors(self.engine.url):
            try:
                return write()
            except DBAPIError as exc:
                if self._connections != connections or not _is_about_connection(exc):
                    raise
            self.prepare()
            return write()


def _is_about_a_row(exc: StatementError) -> bool:
    """
    Tell whether the row is at fault: classes 22, 23 and 54 of SQLSTATE.
    """
    if not isinstance(exc, DBAPIError) or isinstance(exc, (DataError, IntegrityError)):
        return True
    return str(getattr(exc.orig, "pgcode", None) or "")[:2] in ("22", "23", "54")


def _is_about_connection(exc: DBAPIError) -> bool:
    """
    Tell whether a new connection may work: this one is closed, or leads to a standby.
    """
    state = str(getattr(exc.orig, "pgcode", None) or "")
    return exc.connection_invalidated or state.startswith(("08", "25006", "57P"))
