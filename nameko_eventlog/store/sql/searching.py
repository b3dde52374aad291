"""
Searching bodies: the event logs that filters on the content of bodies select.

The first rows in the order of a page are tested, which fills it if the filters select many. What
is rare is found by an index, which selects candidates among the other rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select

from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.sql import statements
from nameko_eventlog.store.sql.body_search import BodySearch
from nameko_eventlog.store.sql.full_text_search import FullTextSearch
from nameko_eventlog.store.sql.paging import Range
from nameko_eventlog.store.sql.partitions import first_positions
from nameko_eventlog.store.sql.schema import event_logs


_TESTED = 2_000
"""Rows that are tested first."""

_MOST_TESTED = 50_000
"""Rows that PostgreSQL tests if that should fill the page: it cannot stop using an index."""

_MOST_NUMBERS = 1_000
"""More numbers are not looked up before."""


def find_by_body(connection: Connection, filters: Filters, rows: Range, limit: int) -> list[bytes]:
    """
    Return the positions of the first event logs that *filters* select, at most *limit*.

    Args:
        connection: To the database.
        filters: The filters; some are on the content of bodies.
        rows: The rows of a range of time, and their order.
        limit: How many positions, at most.
    """
    dialect = connection.dialect
    named, has_named = _named(connection, filters)
    in_series = statements.in_series(statements.name_conditions(dialect, filters))
    every = [*in_series, *statements.body_conditions(dialect, filters, named)]
    search = _search(connection, filters, named, has_named)
    if search is None:
        return find_among(connection, filters, rows, every, limit)
    found: list[bytes] = []
    number = _TESTED
    while True:
        end = connection.scalar(rows.select().offset(number - 1).limit(1))
        near = rows if end is None else rows.up_to(end)
        found += connection.scalars(near.select(*every).limit(limit - len(found)))
        if end is None or len(found) == limit:
            return found
        rows = rows.after(end)
        filters = filters.beyond(time_of(end), rows.is_newest)
        expected = 2 * number * limit // max(len(found), 1)
        if number > _TESTED or expected > _MOST_TESTED or dialect.name == "sqlite":
            return [*found, *search.find(rows.meeting(*in_series), filters, limit - len(found))]
        number = expected


def find_among(
    connection: Connection,
    filters: Filters,
    rows: Range,
    conditions: Sequence[ColumnElement[bool]],
    limit: int,
) -> list[bytes]:
    """
    Return the positions of the first of *rows* that meet *conditions*, at most *limit*.

    PostgreSQL tests texts with several processes, but those of a single partition only.
    """
    statements.allow_parallel(connection, filters)
    found: list[bytes] = []
    for piece in rows.cut(first_positions(connection)) if filters.text else [rows]:
        found += connection.scalars(piece.select(*conditions).limit(limit - len(found)))
        if len(found) == limit:
            break
    return found


def conditions(connection: Connection, filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on event logs that *filters* stand for, with those that use an index.
    """
    every = statements.conditions(connection.dialect, filters)
    if not filters.needs_range:
        return every
    search = _search(connection, filters, *_named(connection, filters))
    return every if search is None else [*every, *search.candidates()]


def body_conditions(connection: Connection, filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on the content of event logs, without an index.
    """
    named, _ = _named(connection, filters)
    return statements.body_conditions(connection.dialect, filters, named)


def _search(
    connection: Connection, filters: Filters, named: ColumnElement[bool] | None, has_named: bool
) -> FullTextSearch | BodySearch | None:
    if connection.dialect.name == "sqlite":
        return FullTextSearch.of(connection, filters, named, has_named)
    return BodySearch.of(connection, filters, named)


def _named(connection: Connection, filters: Filters) -> tuple[ColumnElement[bool] | None, bool]:
    """
    Return the condition that the event type of an event log has the text of *filters*, and whether
    there is such an event type.
    """
    if not filters.text:
        return None, False
    wanted = few(connection, statements.series_with_text(connection.dialect, filters.text))
    return event_logs.c.series_id.in_(wanted), wanted != []


def few(connection: Connection, wanted: Select[Any]) -> list[int] | Select[Any]:
    """
    Return the numbers that *wanted* selects; if they are many, *wanted*.

    A database that gets the numbers knows that they are few.
    """
    numbers = list(connection.scalars(wanted.limit(_MOST_NUMBERS + 1)))
    return wanted if len(numbers) > _MOST_NUMBERS else numbers
