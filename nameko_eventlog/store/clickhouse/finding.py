"""
Finding and counting event logs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, or_, select

from nameko_eventlog.store.answers import ENTRYPOINT_FAILED, FAILURE_LEVELS
from nameko_eventlog.store.clickhouse.bodies import WHOLE, Bodies, StoredRow, stored_row
from nameko_eventlog.store.clickhouse.conditions import in_calls, in_series, within
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.matching import BodyConditions, body_conditions
from nameko_eventlog.store.clickhouse.schema import (
    NO_KEY,
    Key,
    event_logs,
    series,
    time_of,
)
from nameko_eventlog.store.parameters import Filters


_TESTED = 1_000  # rows whose bodies Python tests at a time

_row = event_logs.c


class Search:
    """
    The event logs that filters select.

    Args:
        connection: To the database.
        filters: The filters.
    """

    def __init__(self, connection: Connection, filters: Filters) -> None:
        self._connection = connection
        self._bodies: BodyConditions = body_conditions(filters)
        self._every: list[ColumnElement[bool]] | None = None
        by_name = in_series(connection, filters, _row.series_id)
        by_call = None if by_name is None else in_calls(connection, filters)
        if by_name is not None and by_call is not None:
            self._every = [
                *within(filters.since, filters.until), *by_name, *by_call, *self._bodies.in_sql,
            ]  # fmt: skip

    def find(self, order: str, limit: int, after: bytes | None) -> list[bytes]:
        """
        Return the first positions in an order.
        """
        if self._every is None:
            return []
        is_newest = order == "newest"
        every = list(self._every)
        if after is not None:
            end = literal(after, Key())
            every.append(_row.position < end if is_newest else _row.position > end)
        ordering = _row.position.desc() if is_newest else _row.position
        if not self._bodies.tests:
            found = select(_row.position).where(*every).order_by(ordering).limit(limit)
            return [bytes(one) for (one,) in self._connection.execute(found)]
        positions = []
        for one in self._tested(select(*WHOLE).where(*every).order_by(ordering)):
            positions.append(one.position)
            if len(positions) == limit:
                break
        return positions

    def _tested(self, statement: Select[Any]) -> Iterator[StoredRow]:
        """
        Yield the rows, with bodies, that pass the tests.
        """
        waiting: list[StoredRow] = []
        for values in self._connection.stream(statement):
            waiting.append(stored_row(values))
            if len(waiting) == _TESTED:
                yield from self._passing(waiting)
                waiting = []
        yield from self._passing(waiting)

    def _passing(self, rows: Sequence[StoredRow]) -> Iterator[StoredRow]:
        bodies = Bodies(self._connection, rows)
        for one in rows:
            self._connection.check()
            if self._bodies.passes(bodies.body(one)):
                yield one

    def count(self, group: str | int, limit: int) -> list[tuple[Any, int]]:
        """
        Count by a column of names, or by time: the largest groups, or the latest.
        """
        if self._every is None:
            return []
        if self._bodies.tests:
            return self._count_tested(group, limit)
        if isinstance(group, int):
            of: Any = _span(group).label("of")
            number = func.count().label("number")
            statement = select(of, number).where(*self._every).group_by("of").order_by(of.desc())
            return [(one, many) for one, many in self._connection.execute(statement.limit(limit))]
        counted = (
            select(_row.series_id, func.count().label("number"))
            .where(*self._every)
            .group_by(_row.series_id)
            .subquery()
        )
        of = series.c[group]
        total = func.sum(counted.c.number).label("total")
        statement = (
            select(of, total)
            .join_from(counted, series, series.c.id == counted.c.series_id)
            .group_by(of)
            .order_by(total.desc(), of.nulls_first())
        )
        return [(one, many) for one, many in self._connection.execute(statement.limit(limit))]

    def _count_tested(self, group: str | int, limit: int) -> list[tuple[Any, int]]:
        counter: Counter[Any] = Counter()
        by_series: Counter[int] = Counter()
        for one in self._tested(select(*WHOLE).where(*self._every or ())):
            if isinstance(group, int):
                time_ms = int.from_bytes(one.position[:6], "big")
                counter[time_ms - time_ms % group] += 1
            else:
                by_series[one.series_id] += 1
        if isinstance(group, int):
            return sorted(counter.items(), reverse=True)[:limit]
        names = select(series.c.id, series.c[group]).where(series.c.id.in_(by_series))
        for number, name in self._connection.execute(names) if by_series else ():
            counter[name] += by_series[number]
        ordered = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0] or ""))
        return ordered[:limit]

    def count_calls(self, limit: int) -> list[tuple[str | None, str, int, int, int]]:
        """
        Count calls between services by their event logs.
        """
        if self._every is None:
            return []
        every: Sequence[ColumnElement[bool]] = self._every
        if self._bodies.tests:
            positions = [one.position for one in self._tested(select(*WHOLE).where(*every))]
            if not positions:
                return []
            every = [_row.position.in_(positions)]
        is_failure = or_(
            series.c.level.in_(FAILURE_LEVELS), series.c.event_type == ENTRYPOINT_FAILED
        )
        pair = (series.c.caller, series.c.service_name)
        calls = func.uniqExact(_row.call).label("calls")
        failed = func.uniqExactIf(_row.call, is_failure)
        statement = (
            select(*pair, calls, failed, func.count())
            .join_from(event_logs, series, series.c.id == _row.series_id)
            .where(*every, _row.call != NO_KEY)
            .group_by(*pair)
            .order_by(calls.desc(), series.c.caller.nulls_first(), series.c.service_name)
            .limit(limit)
        )
        return [(one[0], one[1], *one[2:5]) for one in self._connection.execute(statement)]


def _span(milliseconds: int) -> ColumnElement[int]:
    time = time_of(_row.position)
    return time - time % milliseconds
