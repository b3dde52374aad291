"""
Positions in order: of the rows of a table, and of those of several series.

An index has the rows of each series in order, but not those of several. So a page of several
series has the first rows of each, and of all these the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, func, lateral, literal, select

from nameko_eventlog.store.positions import following
from nameko_eventlog.store.sql.schema import Key, series


_MOST_SERIES = 10_000
"""Of more series, the rows are searched by time: looking up each would take longer."""

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
        begin: The lowest position, if there is one.
        end: The position after the greatest, if there is one.
    """

    position: Column[Any]
    series_id: Column[Any]
    is_newest: bool
    conditions: Sequence[ColumnElement[bool]] = ()
    begin: bytes | None = None
    end: bytes | None = None

    @property
    def ordering(self) -> Any:
        """
        What the rows are ordered by.
        """
        return self.position.desc() if self.is_newest else self.position

    @property
    def every(self) -> Sequence[ColumnElement[bool]]:
        """
        All conditions on the rows: at most one for each end, of two SQLite may search the index by
        the weaker.
        """
        bounds = []
        if self.begin is not None:
            bounds.append(self.position >= literal(self.begin, Key()))
        if self.end is not None:
            bounds.append(self.position < literal(self.end, Key()))
        return [*bounds, *self.conditions]

    def select(self, *conditions: ColumnElement[bool]) -> Select[Any]:
        """
        Select the positions of the rows that meet *conditions* as well, in order.
        """
        return select(self.position).where(*self.every, *conditions).order_by(self.ordering)

    def meeting(self, *conditions: ColumnElement[bool]) -> Range:
        """
        Return the rows that meet *conditions* as well.
        """
        return replace(self, conditions=[*self.conditions, *conditions])

    def cut(self, positions: Iterable[bytes]) -> list[Range]:
        """
        Return the rows in pieces that begin at *positions*, which are in order; in their order.
        """
        inside = [
            one
            for one in positions
            if (self.begin or b"") < one and (self.end is None or one < self.end)
        ]
        pieces = [
            replace(self, begin=begin, end=end)
            for begin, end in pairwise([self.begin, *inside, self.end])
        ]
        return pieces[::-1] if self.is_newest else pieces

    def up_to(self, position: bytes) -> Range:
        """
        Return the rows up to *position*, which one of them has, in the order.
        """
        if self.is_newest:
            return replace(self, begin=position)
        return replace(self, end=following(position))

    def after(self, position: bytes) -> Range:
        """
        Return the rows that come after *position*, which one of them has, in the order.
        """
        if self.is_newest:
            return replace(self, end=position)
        return replace(self, begin=following(position))


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
        rows = rows.up_to(first[-1][1])
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
