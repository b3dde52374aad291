"""
Reading from SQLite and PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, func, or_, select

from nameko_eventlog.limits import DISTINCT_NAMES, PAGE_BYTES
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.backends import CallEnd, StoredCall, Taken
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.packing import CallContext
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import uuid_bytes
from nameko_eventlog.store.sql import bulk, counting, latencies, statements
from nameko_eventlog.store.sql.engines import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.sql.finding import find_positions
from nameko_eventlog.store.sql.finding_calls import find_calls
from nameko_eventlog.store.sql.functions import TimeOf
from nameko_eventlog.store.sql.listing import BodyReader, decoded, take_within
from nameko_eventlog.store.sql.schema import calls, event_logs, message_ids, series


class SqlReader:
    """
    Implements `backends.Reader`.

    Args:
        uri: The database's address.
        deadline: The time limit of a reading.
    """

    def __init__(self, uri: str, deadline: Deadline) -> None:
        self.engine = open_engine(uri, deadline=deadline)

    @contextmanager
    def reading(self) -> Iterator[SqlReading]:
        """
        Begin a transaction.
        """
        check_exists(self.engine.url)
        with database_errors(self.engine.url), self.engine.begin() as connection:
            yield SqlReading(connection)

    def close(self) -> None:
        """
        Close the connection.
        """
        close_engine(self.engine)


class SqlReading:
    """
    Implements `backends.Reading`.

    Args:
        connection: In a transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._dialect = connection.dialect

    def find(self, filters: Filters, order: str, limit: int, after: bytes | None) -> list[bytes]:
        """
        Return the positions of the first event logs, in order.
        """
        return find_positions(self.connection, filters, order, limit, after)

    def take(self, positions: Sequence[bytes], most_bytes: int = PAGE_BYTES) -> Taken:
        """
        Read event logs.
        """
        return take_within(self.connection, positions, most_bytes)

    def get(self, message_id: str, most_bytes: int | None) -> EventLogRow | None:
        """
        Return an event log.
        """
        is_it = _has_id(message_id)
        columns = statements.WHOLE if most_bytes is None else statements.ROW
        found = self.connection.execute(select(*columns).where(is_it)).first()
        if found is not None and found.body is None and most_bytes is not None:
            size = found.size
            if self._dialect.name == "postgresql" and size <= most_bytes:
                written = select(statements.WRITTEN).where(is_it)
                size = self.connection.scalar(written) or 0
            if size <= most_bytes:
                whole = select(*statements.WHOLE).where(is_it)
                found = self.connection.execute(whole).first()
        return None if found is None else BodyReader(self.connection, [found]).row(found)

    def get_json(self, message_id: str) -> str | None:
        """
        Return a body as JSON.
        """
        text = cast(event_logs.c.body, Text).label("text")
        statement = select(*statements.PLACED, text).where(_has_id(message_id))
        found = self.connection.execute(statement).first()
        return None if found is None else BodyReader(self.connection, [found]).json(found)

    def count(self, filters: Filters, group: str | int, limit: int) -> list[tuple[Any, int]]:
        """
        Count event logs.
        """
        by = group if isinstance(group, int) else series.c[group]
        return counting.count(self.connection, filters, by, limit)

    def count_calls(
        self, filters: Filters, limit: int
    ) -> list[tuple[str | None, str, int, int, int]]:
        """
        Count the calls between services.
        """
        return counting.count_calls(self.connection, filters, limit)

    def find_calls(
        self, wanted: CallFilters, order: str, limit: int, end: CallEnd | None
    ) -> Sequence[StoredCall]:
        """
        Return the first calls in order.
        """
        found = find_calls(self.connection, wanted, order, limit, end)
        return [_stored(one) for one in found]

    def count_outcomes(self, filters: Filters, bucket_ms: int | None) -> Iterator[Any]:
        """
        Count calls.
        """
        return latencies.count_outcomes(self.connection, filters, bucket_ms)

    def count_durations(self, filters: Filters, bucket_ms: int | None) -> Iterator[Any]:
        """
        Count durations.
        """
        return latencies.count_durations(self.connection, filters, bucket_ms)

    def names(self, column: str, prefix: str = "", most: int = DISTINCT_NAMES) -> list[str]:
        """
        Return the distinct values of a column of names.
        """
        return statements.distinct(self.connection, series.c[column], prefix, most)

    def is_seen(self, filters: Filters) -> bool:
        """
        Tell whether names or ids are there; each is looked up in an index.
        """
        if ids := statements.id_conditions(filters):
            found = select(calls.c.id).where(*ids)
        else:
            names = statements.name_conditions(self._dialect, filters)
            found = select(series.c.id).where(*names, statements.has_event_logs())
        return self.connection.execute(found.limit(1)).first() is not None

    def services(self, most: int) -> list[tuple[str, int, int]]:
        """
        Return the services that have event logs.
        """
        own = select(TimeOf(event_logs.c.position)).where(event_logs.c.series_id == series.c.id)
        position = event_logs.c.position
        first, last = (
            own.order_by(order).limit(1).scalar_subquery() for order in (position, position.desc())
        )
        service = series.c.service_name
        times = select(service, first.label("first"), last.label("last")).subquery()
        statement = (
            select(times.c.service_name, func.min(times.c.first), func.max(times.c.last))
            .where(times.c.first.is_not(None))
            .group_by(times.c.service_name)
            .order_by(times.c.service_name)
            .limit(most)
        )
        found = self.connection.execute(statement)
        return [(name, begin, end) for name, begin, end in found]

    def call_above(self, key: bytes) -> CallContext | None:
        """
        Return a call with an origin.
        """
        for known_by in (calls.c.call_key, calls.c.parent_key):
            above = self.connection.scalar(
                select(calls.c.context)
                .where(known_by == key, calls.c.origin_key.is_not(None))
                .limit(1)
            )
            if above is not None:
                return CallContext.read(decoded(above))
        return None

    def positions_of_call(self, key: bytes, most: int) -> list[bytes]:
        """
        Return the first positions of a call that names no origin.
        """
        return self._positions(most, calls.c.call_key == key, calls.c.origin_key.is_(None))

    def positions_led_to(self, origins: Sequence[bytes], most: int) -> list[bytes]:
        """
        Return the first positions of calls with one of *origins*.
        """
        return self._positions(most, calls.c.origin_key.in_(origins))

    def _positions(self, most: int, *conditions: ColumnElement[bool]) -> list[bytes]:
        some = select(calls.c.id).where(*conditions).order_by(calls.c.first).limit(most)
        positions: list[bytes] = []
        for numbers in bulk.portions(list(self.connection.scalars(some))):
            found = (
                select(event_logs.c.position)
                .where(event_logs.c.call.in_(numbers))
                .order_by(event_logs.c.position)
                .limit(most)
            )
            positions = sorted([*positions, *self.connection.scalars(found)])[:most]
        return positions


def _has_id(message_id: str) -> ColumnElement[bool]:
    row = event_logs.c
    known = select(message_ids.c.position).where(message_ids.c.message_id == message_id)
    has_id = row.position == known.scalar_subquery()
    position = uuid_bytes(message_id)
    if position is None:
        return has_id
    return or_(and_(row.position == position, row.message_id.is_(None)), has_id)


def _stored(found: Any) -> StoredCall:
    return StoredCall(
        found.first,
        found.first_ms,
        found.ended,
        found.duration,
        found.outcome,
        found.severity,
        found.number,
        CallContext.read(decoded(found.context)),
        found.service_name,
        found.entrypoint_name,
        found.entrypoint_protocol,
        found.caller,
    )
