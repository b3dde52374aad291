"""
Rejects: messages that could not be stored, to inspect and to retry.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, literal, select

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.inserting import insert_event_logs
from nameko_eventlog.store.rows import Unstorable, make_row
from nameko_eventlog.store.schema import rejects
from nameko_eventlog.store.times import format_time, parse_time
from nameko_eventlog.store.writing import content_types


@dataclass(frozen=True, slots=True)
class Reject:
    """
    A message that could not be stored.

    Args:
        id: The store's number for it.
        rejected_at: When it was rejected.
        reason: Why it was rejected.
        message_id: The message id, if it had one.
        exchange: Where it was published to.
        routing_key: The Nameko event type.
        properties: AMQP's, with ``content_type``, ``content_encoding`` and ``headers``.
        body: As received.
        size: The size of the body in bytes.
    """

    id: int
    rejected_at: datetime
    reason: str
    message_id: str | None
    exchange: str
    routing_key: str
    properties: dict[str, Any]
    body: bytes
    size: int


class Rejects:
    """
    The table of rejects of one database.

    Args:
        uri: The database's address.
        accept: The content types that `retry` may decode.

    Raises:
        DatabaseError: Here and from every method, if the database cannot be used.
    """

    def __init__(self, uri: str, accept: Collection[str] = ("json",)) -> None:
        self._engine = open_engine(uri, writes=True)
        self._reader = open_engine(uri)  # also works on a read-only database
        self._accept = content_types(accept)
        check_exists(self._engine.url)

    def list(self, limit: int = 100, with_bodies: bool = True) -> list[Reject]:
        """
        Return the latest rejects.

        Args:
            limit: How many, at most.
            with_bodies: Whether to read the bodies, which may have 128 MiB each.
        """
        columns = [one for one in rejects.c if one is not rejects.c.body]
        body = rejects.c.body if with_bodies else literal(b"").label("body")
        size = func.length(rejects.c.body).label("size")
        query = select(*columns, body, size).order_by(rejects.c.id.desc()).limit(limit)
        with database_errors(self._engine.url), self._reader.begin() as connection:
            return [_reject(row) for row in connection.execute(query)]

    def get(self, id: int) -> Reject | None:  # noqa: A002
        """
        Return the reject with that id, or None.
        """
        with database_errors(self._engine.url), self._reader.begin() as connection:
            size = func.length(rejects.c.body).label("size")
            row = connection.execute(select(rejects, size).where(rejects.c.id == id)).one_or_none()
            return None if row is None else _reject(row)

    def retry(self, id: int) -> bool:  # noqa: A002
        """
        Try to store a reject as an event log.

        Returns:
            Whether it was stored; otherwise it remains a reject.
        """
        reject = self.get(id)
        if reject is None:
            return False
        properties = dict(reject.properties)
        message = ReceivedMessage(
            body=reject.body,
            content_type=properties.pop("content_type", None),
            content_encoding=properties.pop("content_encoding", None),
            headers=properties.pop("headers", None) or {},
            properties=properties,
            exchange=reject.exchange,
            routing_key=reject.routing_key,
            redelivered=True,
            delivery_tag=0,
        )
        try:
            # without a readable time it gets the time at which it arrived
            row = make_row(message, self._accept, parse_time(reject.rejected_at))
        except Unstorable:
            return False
        with database_errors(self._engine.url), self._engine.begin() as connection:
            insert_event_logs(connection, [row])
            connection.execute(delete(rejects).where(rejects.c.id == id))
        return True

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
