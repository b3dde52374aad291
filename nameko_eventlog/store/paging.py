"""
The positions of a page: which event logs it has, in which order.

An index has the rows of each series in order, but not those of several. So a page of several
series has the first rows of each, and of all these the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, lateral, literal, select

from nameko_eventlog.store import statements
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.schema import Key, calls, event_logs, series


_MOST_SERIES = 10_000
"""Of more series, the rows are searched by time: looking up each would take longer."""

_MOST_NUMBERS = 1_000
"""More calls, or series, are not looked up before."""

_FIRST = 8  # rows of each series that are looked up first, and how many times more then


@dataclass(frozen=True)
class Range:
    """
    Rows of a table that has series and positions, in one order.

    Args:
        position: The table's column of positions.
        series_id: Its column of series.
        is_newest: Whether the newest row is the first.
        conditions: Further conditions on its rows.
    """

    position: Column[Any]
    series_id: Column[Any]
    is_newest: bool
    conditions: Sequence[ColumnElement[bool]]

    @property
    def ordering(self) -> Any:
        """
        What the rows are ordered by.
        """
        return self.position.desc() if self.is_newest else self.position

    def select(self, *conditions: ColumnElement[bool]) -> Select[Any]:
        """
        Select the positions of the rows that meet *conditions* as well, in order.
        """
        return select(self.position).where(*self.conditions, *conditions).order_by(self.ordering)

    def not_before(self, position: bytes) -> ColumnElement[bool]:
        """
        Make the condition that a row is at *position*, or comes earlier in the order.
        """
        bound = literal(position, Key())
        return self.position >= bound if self.is_newest else self.position <= bound


def find_positions(
    connection: Connection, filters: Filters, order: str, limit: int, after: bytes | None
) -> list[bytes]:
    """
    Return the positions of a page, in order.

    Args:
        connection: To the database.
        filters: Which event logs.
        order: One of `parameters.ORDERS`.
        limit: How many, at most.
        after: The position of the last event log of the page before.
    """
    column = event_logs.c
    is_newest = order == "newest"
    bounds = [*statements.position_range(filters)]
    if after is not None:
        end = literal(after, Key())
        bounds.append(column.position < end if is_newest else column.position > end)
    rows = Range(column.position, column.series_id, is_newest, bounds)
    names = statements.name_conditions(connection.dialect, filters)
    if filters.needs_range or statements.id_conditions(filters):
        if names and not _has_series(connection, names):
            return []
        conditions = [
            *statements.body_conditions(connection.dialect, filters, _named(connection, filters)),
            *_in_series(names),
            *_in_calls(connection, statements.id_conditions(filters)),
        ]
        return list(connection.scalars(rows.select(*conditions).limit(limit)))
    if names:
        return find_in_series(connection, rows, names, limit)
    return list(connection.scalars(rows.select().limit(limit)))


def _in_series(names: Sequence[ColumnElement[bool]]) -> Sequence[ColumnElement[bool]]:
    if not names:
        return ()
    return [event_logs.c.series_id.in_(select(series.c.id).where(*names))]


def _in_calls(
    connection: Connection, ids: Sequence[ColumnElement[bool]]
) -> Sequence[ColumnElement[bool]]:
    """
    Make the condition that the call of an event log meets the conditions *ids*.
    """
    if not ids:
        return ()
    return [_is_one_of(connection, event_logs.c.call, select(calls.c.id).where(*ids))]


def _named(connection: Connection, filters: Filters) -> ColumnElement[bool] | None:
    """
    Make the condition that the event type of an event log has the text of *filters*.
    """
    if not filters.text:
        return None
    wanted = statements.series_with_text(connection.dialect, filters.text)
    return _is_one_of(connection, event_logs.c.series_id, wanted)


def _is_one_of(
    connection: Connection, column: Column[Any], wanted: Select[Any]
) -> ColumnElement[bool]:
    """
    Make the condition that *column* is one of the numbers *wanted*.

    Few of them are looked up before, because then the database knows that they are few.
    """
    numbers = list(connection.scalars(wanted.limit(_MOST_NUMBERS + 1)))
    return column.in_(wanted if len(numbers) > _MOST_NUMBERS else numbers)


def find_in_series(
    connection: Connection, rows: Range, names: Sequence[ColumnElement[bool]], limit: int
) -> list[bytes]:
    """
    Return the positions of the first rows whose series meet the conditions *names*.

    Args:
        connection: To the database.
        rows: Which rows, and in which order.
        names: Conditions on series.
        limit: How many, at most.
    """
    wanted = select(series.c.id).where(*names)
    many = wanted.limit(_MOST_SERIES + 1).subquery()
    number = connection.scalar(select(func.count()).select_from(many)) or 0
    if not number:
        return []
    if number > _MOST_SERIES:
        return list(connection.scalars(rows.select(rows.series_id.in_(wanted)).limit(limit)))
    first = _first_of_each(connection, rows, names, limit)
    if len(first) == limit:  # of other series no row can be in the page
        rows = Range(
            rows.position,
            rows.series_id,
            rows.is_newest,
            [*rows.conditions, rows.not_before(first[-1][1])],
        )
    ids = [number for number, _ in first]
    each = max(_FIRST, _FIRST * limit // max(len(ids), 1))
    while True:
        found = _some_of_each(connection, rows, ids, each)
        # after the last of a series that may have more, not all rows are known
        ends = [some[-1] for some in found if len(some) == each]
        ordered = sorted((one for some in found for one in some), reverse=rows.is_newest)
        if ends:
            end = max(ends) if rows.is_newest else min(ends)
            ordered = ordered[: ordered.index(end) + 1]
        if not ends or len(ordered) >= limit:
            return ordered[:limit]
        each *= _FIRST


def _has_series(connection: Connection, names: Sequence[ColumnElement[bool]]) -> bool:
    return connection.execute(select(series.c.id).where(*names).limit(1)).first() is not None


def _first_of_each(
    connection: Connection, rows: Range, names: Sequence[ColumnElement[bool]], limit: int
) -> list[tuple[int, bytes]]:
    """
    Return the numbers of series and their first positions, in the order of these.
    """
    own = rows.select(rows.series_id == series.c.id).limit(1).scalar_subquery()
    found = select(series.c.id, own.label("first")).where(*names).subquery()
    first = found.c.first.desc() if rows.is_newest else found.c.first
    statement = select(found).where(found.c.first.is_not(None)).order_by(first).limit(limit)
    return [(number, position) for number, position in connection.execute(statement)]


def _some_of_each(
    connection: Connection, rows: Range, ids: Sequence[int], each: int
) -> list[list[bytes]]:
    """
    Return the first positions of each series, at most *each* of one, in order.
    """
    table = rows.position.table
    own = rows.select(rows.series_id == series.c.id).limit(each)
    found: Select[Any]
    if connection.dialect.name == "postgresql":
        some = lateral(own)
        found = (
            select(series.c.id, some.c[0]).join(some, literal(True)).where(series.c.id.in_(ids))
        )
    else:  # which has no LATERAL
        other = table.alias()
        column = other.c[rows.position.name]
        found = (
            select(series.c.id, column)
            .join_from(series, other, column.in_(own.correlate(series)))
            .where(series.c.id.in_(ids))
        )
    of_series: dict[int, list[bytes]] = {}
    for one in connection.execute(found):
        of_series.setdefault(one[0], []).append(one[1])
    return [sorted(some, reverse=rows.is_newest) for some in of_series.values()]
