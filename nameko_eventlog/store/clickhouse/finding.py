"""
Finding and counting event logs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, repeat
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
from nameko_eventlog.store.portions import portions


_AT_ONCE = 10_000  # ids of a condition
_TESTED = 1_000  # rows whose bodies Python tests at a time
_MOST_BYTES = 4 << 20  # of these bodies

_FIRST_PARTS = (1_000, 10_000)
_LATER_PARTS = 100_000
"""How many rows statements read, one after the other."""

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
        if not self._bodies.tests:
            found = self._page(select(_row.position), order, limit, after)
            return [bytes(one) for (one,) in self._connection.execute(found)]
        # in parts: a statement that is given up is read to its end
        positions = []
        for number in chain(_FIRST_PARTS, repeat(_LATER_PARTS)):
            read = 0
            for rows in self._batches(self._page(select(*WHOLE), order, number, after)):
                read += len(rows)
                after = rows[-1].position
                positions += [one.position for one in self._passing(rows)]
                if len(positions) >= limit:
                    return positions[:limit]
            if read < number:
                break
        return positions

    def _page(
        self, columns: Select[Any], order: str, limit: int, after: bytes | None
    ) -> Select[Any]:
        is_newest = order == "newest"
        every = list(self._every or ())
        if after is not None:
            end = literal(after, Key())
            every.append(_row.position < end if is_newest else _row.position > end)
        ordering = _row.position.desc() if is_newest else _row.position
        return columns.where(*every).order_by(ordering).limit(limit)

    def _tested(self) -> Iterator[StoredRow]:
        """
        Yield all rows, with bodies, that pass the tests.
        """
        for rows in self._batches(select(*WHOLE).where(*self._every or ())):
            yield from self._passing(rows)

    def _batches(self, statement: Select[Any]) -> Iterator[list[StoredRow]]:
        """
        Run a query for `WHOLE`, and yield its rows, some at a time.
        """
        waiting: list[StoredRow] = []
        size = 0
        for values in self._connection.stream(statement):
            waiting.append(stored_row(values))
            size += waiting[-1].size
            if len(waiting) == _TESTED or size > _MOST_BYTES:
                yield waiting
                waiting, size = [], 0
        if waiting:
            yield waiting

    def _passing(self, rows: Sequence[StoredRow]) -> Iterator[StoredRow]:
        bodies = Bodies(self._connection, rows)
        for one in rows:
            self._connection.check()
            if bodies.are_whole(one) and self._bodies.passes(bodies.body(one)):
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
        for one in self._tested():
            if isinstance(group, int):
                time_ms = int.from_bytes(one.position[:6], "big")
                counter[time_ms - time_ms % group] += 1
            else:
                by_series[one.series_id] += 1
        if isinstance(group, int):
            return sorted(counter.items(), reverse=True)[:limit]
        for number, name in self._series(series.c[group], of=by_series):
            counter[name] += by_series[number]
        ordered = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0] or ""))
        return ordered[:limit]

    def count_calls(self, limit: int) -> list[tuple[str | None, str, int, int, int]]:
        """
        Count calls between services by their event logs.
        """
        if self._every is None:
            return []
        if self._bodies.tests:
            return self._count_tested_calls(limit)
        is_failure = or_(
            series.c.level.in_(FAILURE_LEVELS), series.c.event_type == ENTRYPOINT_FAILED
        )
        pair = (series.c.caller, series.c.service_name)
        calls = func.uniqExact(_row.call).label("calls")
        failed = func.uniqExactIf(_row.call, is_failure)
        statement = (
            select(*pair, calls, failed, func.count())
            .join_from(event_logs, series, series.c.id == _row.series_id)
            .where(*self._every, _row.call != NO_KEY)
            .group_by(*pair)
            .order_by(calls.desc(), series.c.caller.nulls_first(), series.c.service_name)
            .limit(limit)
        )
        return [(one[0], one[1], *one[2:5]) for one in self._connection.execute(statement)]

    def _count_tested_calls(self, limit: int) -> list[tuple[str | None, str, int, int, int]]:
        number = Counter((one.series_id, one.call) for one in self._tested() if one.call != NO_KEY)
        column = series.c
        names = {
            id_: (pair, bool(is_failure))
            for id_, *pair, is_failure in self._series(
                column.caller,
                column.service_name,
                column.is_failure,
                of={id_ for id_, _ in number},
            )
        }
        calls: dict[tuple[str | None, str], set[bytes]] = defaultdict(set)
        failed: dict[tuple[str | None, str], set[bytes]] = defaultdict(set)
        rows: Counter[tuple[str | None, str]] = Counter()
        for (id_, call), many in number.items():
            (caller, service), is_failure = names[id_]
            calls[caller, service].add(call)
            failed[caller, service].update([call] if is_failure else [])
            rows[caller, service] += many
        found = [(*pair, len(some), len(failed[pair]), rows[pair]) for pair, some in calls.items()]
        found.sort(key=lambda one: (-one[2], one[0] is not None, one[0] or "", one[1]))
        return found[:limit]

    def _series(self, *columns: Any, of: Collection[int]) -> Iterator[Sequence[Any]]:
        """
        Yield the ids of series with columns of theirs.
        """
        for some in portions(list(of), _AT_ONCE):
            names = select(series.c.id, *columns).where(series.c.id.in_(some))
            yield from self._connection.execute(names)


def _span(milliseconds: int) -> ColumnElement[int]:
    time = time_of(_row.position)
    return time - time % milliseconds
