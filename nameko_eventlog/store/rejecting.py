"""
Rejects: messages that could not be stored, to inspect and to retry.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store.backends import backend_of
from nameko_eventlog.store.rows import Unstorable, make_row
from nameko_eventlog.store.times import parse_time
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
        self._table = backend_of(uri).Rejects(uri)
        self._accept = content_types(accept)

    def list(self, limit: int = 100, with_bodies: bool = True) -> list[Reject]:
        """
        Return the latest rejects.

        Args:
            limit: How many, at most.
            with_bodies: Whether to read the bodies, which may have 128 MiB each.
        """
        return self._table.list(limit, with_bodies)

    def get(self, id: int) -> Reject | None:  # noqa: A002
        """
        Return the reject with that id, or None.
        """
        found: Reject | None = self._table.get(id)
        return found

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
        self._table.accept(id, row)
        return True

    def close(self) -> None:
        """
        Close the connections.
        """
        self._table.close()
