"""
The table of rejects of SQLite and PostgreSQL.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, literal, select

from nameko_eventlog.store.rejecting import Reject
from nameko_eventlog.store.sql.engines import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.sql.inserting import insert_event_logs
from nameko_eventlog.store.sql.schema import rejects
from nameko_eventlog.store.times import format_time


class SqlRejects:
    """
    Implements `backends.RejectTable`.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._engine = open_engine(uri, writes=True)
        self._reader = open_engine(uri)  # also works on a read-only database
        check_exists(self._engine.url)

    def list(self, limit: int, with_bodies: bool) -> list[Reject]:
        """
        Return the latest rejects.
        """
        columns = [one for one in rejects.c if one is not rejects.c.body]
        body = rejects.c.body if with_bodies else literal(b"").label("body")
        size = func.length(rejects.c.body).label("size")
        query = select(*columns, body, size).order_by(rejects.c.id.desc()).limit(limit)
        with database_errors(self._engine.url), self._reader.begin() as connection:
            return [_reject(row) for row in connection.execute(query)]

    def get(self, id: int) -> Reject | None:  # noqa: A002
        """
        Return a reject.
        """
        with database_errors(self._engine.url), self._reader.begin() as connection:
            size = func.length(rejects.c.body).label("size")
            row = connection.execute(select(rejects, size).where(rejects.c.id == id)).one_or_none()
            return None if row is None else _reject(row)

    def accept(self, id: int, row: dict[str, Any]) -> None:  # noqa: A002
        """
        Insert the event log that a reject became, and delete the reject.
        """
        with database_errors(self._engine.url), self._engine.begin() as connection:
            insert_event_logs(connection, [row])
            connection.execute(delete(rejects).where(rejects.c.id == id))

    def close(self) -> None:
        """
        Close the connections.
        """
        close_engine(self._reader)
        close_engine(self._engine)


def _reject(row: Any) -> Reject:
    return Reject(
        id=row.id,
        rejected_at=datetime.fromisoformat(format_time(row.rejected_ms)),
        reason=row.reason,
        message_id=row.message_id,
        exchange=row.exchange,
        routing_key=row.routing_key,
        properties=row.properties,
        body=bytes(row.body),
        size=row.size,
    )
