"""
Pages filtered by the content of bodies, on SQLite, which has no index for it: the time range is
searched part by part.

The index of the time looks up each row in the table, which takes longer than testing the row. The
table has its rows in the order of their arrival, which is nearly the order of their times. So only
the first part, which usually fills the page, is searched by the index. For each further part the
table itself is read, from the part's first row to its last, and the index only for rows elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Dialect,
    Row,
    Select,
    literal_column,
    not_,
    select,
)

from nameko_eventlog.store import statements
from nameko_eventlog.store.cursors import Cursor
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.schema import event_logs


FIRST_PART = 2_000
"""How many rows the first part has."""

GROWTH = 8
"""How many times larger each further part is than the one before."""

_SPREAD = 2  # rows read for each row of the part; above this, looking rows up is faster
_PLACE = literal_column("event_logs.rowid", BigInteger)  # in the order of arrival
_TIME = event_logs.c.time_ms


def is_needed(connection: Connection, filters: Filters) -> bool:
    """
    Tell whether this is SQLite, and no index but that of the time serves *filters*.
    """
    return filters.needs_range and not filters.columns and connection.dialect.name == "sqlite"


def page(
    connection: Connection, filters: Filters, order: str, limit: int, start: Cursor | None
) -> Iterator[Row[Any]]:
    """
    Yield the rows that the statement of `statements.page` would find.
    """
    if start is not None:
        if order == "newest":
            filters = replace(filters, until=start.time_ms + 1)
        else:
            filters = replace(filters, since=start.time_ms)
    number = FIRST_PART
    part, rest, end = _split(connection, filters, order, number)
    first = statements.page(connection.dialect, part, order, limit, start)
    missing = limit
    for row in connection.execute(first):
        missing -= 1
        yield row
    while rest is not None and missing > 0:
        begin, number = end, number * GROWTH
        part, rest, end = _split(connection, rest, order, number)
        if begin is None or end is None:  # the rest has no rows
            break
        if abs(end - begin) < _SPREAD * number:
            further = _read(connection.dialect, part, order, missing, begin, end)
        else:
            further = statements.page(connection.dialect, part, order, missing, None)
        for row in connection.execute(further):
            missing -= 1
            yield row


def _split(
    connection: Connection, filters: Filters, order: str, number: int
) -> tuple[Filters, Filters | None, int | None]:
    """
    Split the time range after the first *number* rows.

    Returns:
        The part with these rows, and all others from the last one's millisecond; the rest, or
        None; and the place of the part's last row, or None.
    """
    is_newest = order == "newest"
    walked = filters
    if None not in (filters.since, filters.until):
        # one bound is enough: SQLite would compare the other with each row on the way
        walked = replace(filters, since=None) if is_newest else replace(filters, until=None)
    last = _first(connection, walked, order, number - 1)
    if last is not None:
        cut = last.time_ms if is_newest else last.time_ms + 1
        earlier, later = replace(filters, until=cut), replace(filters, since=cut)
        if not (_is_empty(earlier) or _is_empty(later)):
            return *((later, earlier) if is_newest else (earlier, later)), last.place
    last = _first(connection, filters, "oldest" if is_newest else "newest")
    return filters, None, None if last is None else last.place


def _is_empty(filters: Filters) -> bool:
    since, until = filters.since, filters.until
    return since is not None and until is not None and since >= until


def _first(
    connection: Connection, filters: Filters, order: str, offset: int = 0
) -> Row[Any] | None:
    rows = select(_TIME, _PLACE.label("place")).where(*statements.time_range(filters))
    rows = rows.order_by(_TIME.desc() if order == "newest" else _TIME)
    return connection.execute(rows.limit(1).offset(offset)).one_or_none()


def _read(
    dialect: Dialect, filters: Filters, order: str, limit: int, begin: int, end: int
) -> Select[Any]:
    """
    Make a statement that reads the table between two places, and uses the index for the others.
    """
    lies_there = _PLACE.between(min(begin, end), max(begin, end))
    whenever = replace(filters, since=None, until=None)
    along = statements.page(dialect, whenever, order, limit, None).where(
        lies_there,
        *statements.time_range(filters, _TIME + 0),  # + 0 keeps SQLite from using the index
    )
    elsewhere = statements.page(dialect, filters, order, limit, None).where(not_(lies_there))
    return statements.first_of([along, elsewhere], order, limit)
