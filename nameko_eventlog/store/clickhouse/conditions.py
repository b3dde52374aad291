"""
Conditions on event logs and series, for filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, false, literal, select

from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.matching import is_named
from nameko_eventlog.store.clickhouse.schema import (
    DAY_MS,
    Key,
    call_parts,
    element,
    event_logs,
    series,
    series_days,
)
from nameko_eventlog.store.packing import call_key
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import first_at


NAMES = ("service_name", "entrypoint_name", "caller", "event_type", "level", "time_note")
"""The filters that select series."""

IDS = {"call_id": call_parts.c.call_key, "origin_call_id": call_parts.c.origin_key}
"""The filters that select calls."""

_MOST_SERIES = 10_000  # that a condition lists


def name_conditions(filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on series that *filters* stand for.
    """
    every: list[ColumnElement[bool]] = []
    for name in NAMES:
        values = filters.columns.get(name)
        if values is not None:
            every.append(series.c[name].in_(values) if values else false())
    if filters.patterns:
        every.append(is_named(series.c.event_type, filters.patterns))
    return every


def in_series(
    connection: Connection, filters: Filters, column: ColumnElement[int]
) -> Sequence[ColumnElement[bool]] | None:
    """
    Return the condition that *column* is a series that *filters* select; None if no event log of
    their time has such a series.
    """
    names = name_conditions(filters)
    if not names:
        return ()
    day = series_days.c
    here = select(day.series_id)
    if filters.since is not None:
        here = here.where(day.day >= filters.since // DAY_MS)
    if filters.until is not None:
        here = here.where(day.day <= filters.until // DAY_MS)
    wanted = select(series.c.id).where(*names, series.c.id.in_(here))
    numbers = [one for (one,) in connection.execute(wanted.limit(_MOST_SERIES + 1))]
    if not numbers:
        return None
    return [column.in_(numbers if len(numbers) <= _MOST_SERIES else wanted)]


def in_calls(connection: Connection, filters: Filters) -> Sequence[ColumnElement[bool]] | None:
    """
    Return the conditions that event logs belong to the calls with the ids of *filters*; None if
    there are no such calls.
    """
    ids = id_conditions(filters)
    return () if not ids else of_calls(connection, *ids)


def of_calls(
    connection: Connection, *conditions: ColumnElement[bool], most: int | None = None
) -> Sequence[ColumnElement[bool]] | None:
    """
    Return the conditions on event logs of the calls that meet *conditions*; None if there are no
    such calls.

    Args:
        connection: To the database.
        conditions: On rows of ``call_parts``.
        most: How many calls, at most: the first.
    """
    part = call_parts.c
    first = element(part.first, 1, Key())
    statement = select(part.id, first, part.last_ms).where(*conditions).order_by(first)
    found = connection.execute(statement if most is None else statement.limit(most))
    if not found:
        return None
    begin = min(bytes(first) for _, first, _ in found)
    end = first_at(max(last for _, _, last in found) + 1)
    ids = list({bytes(one) for one, _, _ in found})
    row = event_logs.c
    return [row.position >= begin, row.position < literal(end, Key()), row.call.in_(ids)]


def id_conditions(filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on calls that *filters* stand for.
    """
    return [
        column.in_([call_key(value) for value in filters.columns[name]])
        for name, column in IDS.items()
        if name in filters.columns
    ]


def within(
    since: int | None, until: int | None, position: Any = event_logs.c.position
) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on positions for a range of times, in milliseconds since 1970.
    """
    every: list[ColumnElement[bool]] = []
    if since is not None:
        every.append(position >= literal(first_at(since), Key()))
    if until is not None:
        every.append(position < literal(first_at(until), Key()))
    return every
