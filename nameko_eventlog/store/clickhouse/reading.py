"""
Reading from ClickHouse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, func, select

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.limits import DISTINCT_NAMES
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.backends import CallEnd, StoredCall, Taken
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.clickhouse import calls
from nameko_eventlog.store.clickhouse.bodies import (
    LISTED,
    WHOLE,
    Bodies,
    StoredRow,
    stored_row,
)
from nameko_eventlog.store.clickhouse.conditions import (
    id_conditions,
    name_conditions,
    of_calls,
)
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.finding import Search
from nameko_eventlog.store.clickhouse.schema import (
    NO_KEY,
    call_parts,
    event_logs,
    message_ids,
    series,
    series_days,
)
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.packing import CallContext
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import time_of, uuid_bytes


_FETCHED = 100  # rows that are fetched first
_SMALL = 1_000_000  # bytes: after fewer, more rows are fetched at a time
_GROWTH = 4


class ClickHouseReader:
    """
    Implements `backends.Reader`.

    Args:
        uri: The database's address.
        deadline: The time limit of a reading.
    """

    def __init__(self, uri: str, deadline: Deadline) -> None:
        self._deadline = deadline
        self.connection = Connection(uri, deadline)

    @contextmanager
    def reading(self) -> Iterator[ClickHouseReading]:
        """
        Begin to read. Each statement sees what is stored when it begins.
        """
        self._deadline.begin()
        try:
            with self.connection.errors():
                yield ClickHouseReading(self.connection)
        finally:
            self._deadline.end()

    def close(self) -> None:
        """
        Close the connection.
        """
        self.connection.close()


class ClickHouseReading:
    """
    Implements `backends.Reading`.

    Args:
        connection: To the database.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def find(self, filters: Filters, order: str, limit: int, after: bytes | None) -> list[bytes]:
        """
        Return the positions of the first event logs, in order.
        """
        return Search(self.connection, filters).find(order, limit, after)

    def take(self, positions: Sequence[bytes], most_bytes: int) -> Taken:
        """
        Read event logs.
        """
        taken = Taken([], 0, 0)
        number = _FETCHED
        while taken.number < len(positions):
            some = positions[taken.number : taken.number + number]
            found = {one.position: one for one in self._rows(LISTED, some)}
            bodies = Bodies(self.connection, list(found.values()))
            for position in some:
                one = found.get(position)
                if one is not None and bodies.are_whole(one):
                    size = len(one.body)
                    if taken.rows and taken.size + size > most_bytes:
                        return taken
                    taken.rows.append(bodies.row(one))
                    taken.size += size
                taken.number += 1
            if taken.size < _SMALL:
                number *= _GROWTH
        return taken

    def _rows(self, columns: Any, positions: Sequence[bytes]) -> list[StoredRow]:
        statement = select(*columns).where(event_logs.c.position.in_(positions))
        return [stored_row(values) for values in self.connection.execute(statement)]

    def get(self, message_id: str, most_bytes: int | None) -> EventLogRow | None:
        """
        Return an event log.
        """
        found = self._get(message_id)
        if found is None:
            return None
        if most_bytes is not None and found.size > most_bytes:
            found = found._replace(body="")
        bodies = Bodies(self.connection, [found])
        return bodies.row(found) if bodies.are_whole(found) else None

    def get_json(self, message_id: str) -> str | None:
        """
        Return a body as JSON.
        """
        found = self._get(message_id)
        if found is None:
            return None
        bodies = Bodies(self.connection, [found])
        return bodies.json(found) if bodies.are_whole(found) else None

    def _get(self, message_id: str) -> StoredRow | None:
        column = message_ids.c
        known = self.connection.scalar(
            select(column.position)
            .where(column.message_id == message_id)
            .order_by(column.written)
            .limit(1)
        )
        wanted = [(uuid_bytes(message_id), ""), (known and bytes(known), message_id)]
        positions = [position for position, _ in wanted if position is not None]
        for one in self._rows(WHOLE, positions) if positions else ():
            if (one.position, one.message_id) in wanted:
                return one
        return None

    def count(self, filters: Filters, group: str | int, limit: int) -> list[tuple[Any, int]]:
        """
        Count event logs.
        """
        return Search(self.connection, filters).count(group, limit)

    def count_calls(
        self, filters: Filters, limit: int
    ) -> list[tuple[str | None, str, int, int, int]]:
        """
        Count the calls between services.
        """
        is_by_row = (
            filters.needs_range
            or filters.patterns
            or id_conditions(filters)
            or filters.columns.keys() & {"event_type", "level", "time_note"}
        )
        if is_by_row:
            return Search(self.connection, filters).count_calls(limit)
        return calls.count_links(self.connection, filters, limit)

    def find_calls(
        self, wanted: CallFilters, order: str, limit: int, end: CallEnd | None
    ) -> Sequence[StoredCall]:
        """
        Return the first calls in order.
        """
        return calls.find_calls(self.connection, wanted, order, limit, end)

    def count_outcomes(self, filters: Filters, bucket_ms: int | None) -> Iterator[Any]:
        """
        Count calls.
        """
        return calls.count_by_entrypoint(self.connection, filters, bucket_ms, is_by_duration=False)

    def count_durations(self, filters: Filters, bucket_ms: int | None) -> Iterator[Any]:
        """
        Count durations.
        """
        return calls.count_by_entrypoint(self.connection, filters, bucket_ms, is_by_duration=True)

    def names(self, column: str, prefix: str = "", most: int = DISTINCT_NAMES) -> list[str]:
        """
        Return the distinct values of a column of names.
        """
        name = series.c[column]
        every: list[ColumnElement[bool]] = [
            name.is_not(None),
            series.c.id.in_(select(series_days.c.series_id)),
        ]
        if prefix:
            every.append(func.startsWith(name, prefix) == 1)
        statement = select(name).where(*every).distinct().order_by(name).limit(most)
        return [one for (one,) in self.connection.execute(statement)]

    def is_seen(self, filters: Filters) -> bool:
        """
        Tell whether names or ids are there.
        """
        if ids := id_conditions(filters):
            statement = select(call_parts.c.id).where(*ids)
        else:
            here = series.c.id.in_(select(series_days.c.series_id))
            statement = select(series.c.id).where(*name_conditions(filters), here)
        return bool(self.connection.execute(statement.limit(1)))

    def services(self, most: int) -> list[tuple[str, int, int]]:
        """
        Return the services that have event logs.
        """
        day, name = series_days.c, series.c.service_name
        statement = (
            select(name, func.min(day.first), func.max(day.last))
            .join_from(series_days, series, series.c.id == day.series_id)
            .group_by(name)
            .order_by(name)
            .limit(most)
        )
        return [
            (service, time_of(bytes(first)), time_of(bytes(last)))
            for service, first, last in self.connection.execute(statement)
        ]

    def call_above(self, key: bytes) -> CallContext | None:
        """
        Return a call with an origin.
        """
        part = call_parts.c
        for known_by in (part.call_key, part.parent_key):
            above = self.connection.scalar(
                select(part.context).where(known_by == key, part.origin_key != NO_KEY).limit(1)
            )
            if above is not None:
                return CallContext.read(decode_json(above))
        return None

    def positions_of_call(self, key: bytes, most: int) -> list[bytes]:
        """
        Return the first positions of a call that names no origin.
        """
        part = call_parts.c
        return self._positions(most, part.call_key == key, part.origin_key == NO_KEY)

    def positions_led_to(self, origins: Sequence[bytes], most: int) -> list[bytes]:
        """
        Return the first positions of calls with one of *origins*.
        """
        return self._positions(most, call_parts.c.origin_key.in_(origins))

    def _positions(self, most: int, *conditions: ColumnElement[bool]) -> list[bytes]:
        every = of_calls(self.connection, *conditions, most=most)
        if every is None:
            return []
        position = event_logs.c.position
        statement = select(position).where(*every).order_by(position).limit(most)
        return [bytes(one) for (one,) in self.connection.execute(statement)]
