"""
The table of rejects in ClickHouse.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import LargeBinary, func, literal, select

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.schema import rejects
from nameko_eventlog.store.clickhouse.writing import ClickHouseWriter
from nameko_eventlog.store.rejecting import Reject
from nameko_eventlog.store.times import format_time


_column = rejects.c
_TEXTS = (
    _column.id, _column.rejected_ms, _column.reason, _column.message_id, _column.exchange,
    _column.routing_key, _column.properties,
)  # fmt: skip


class ClickHouseRejects:
    """
    Implements `backends.RejectTable`.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._writer = ClickHouseWriter(uri)
        self._connection = Connection(uri)

    def list(self, limit: int, with_bodies: bool) -> list[Reject]:
        """
        Return the latest rejects.
        """
        body: Any = func.hex(_column.body) if with_bodies else literal("")
        statement = select(*_TEXTS, body, func.length(_column.body))
        with self._connection.errors():
            found = self._connection.execute(statement.order_by(_column.id.desc()).limit(limit))
        return [_reject(values) for values in found]

    def get(self, id: int) -> Reject | None:  # noqa: A002
        """
        Return a reject.
        """
        body = func.hex(_column.body, type_=LargeBinary())
        statement = select(*_TEXTS, body, func.length(_column.body)).where(_column.id == id)
        with self._connection.errors():
            found = self._connection.execute(statement.limit(1))
        return _reject(found[0]) if found else None

    def accept(self, id: int, row: dict[str, Any]) -> None:  # noqa: A002
        """
        Insert the event log that a reject became, then delete the reject.
        """
        self._writer.prepare()
        self._writer.insert([row], [])
        with self._connection.errors():
            self._connection.command(
                f"DELETE FROM rejects WHERE id = {int(id)}",  # noqa: S608
                is_long=True,
            )

    def close(self) -> None:
        """
        Close the connections.
        """
        self._writer.close()
        self._connection.close()


def _reject(values: Any) -> Reject:
    id_, rejected_ms, reason, message_id, exchange, routing_key, properties, body, size = values
    return Reject(
        id=id_,
        rejected_at=datetime.fromisoformat(format_time(rejected_ms)),
        reason=reason,
        message_id=message_id,
        exchange=exchange,
        routing_key=routing_key,
        properties=decode_json(properties),
        body=bytes.fromhex(body),
        size=size,
    )
