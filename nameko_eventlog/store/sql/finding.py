"""
The positions of a page: which event logs it has, in which order.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, Connection, select

from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.sql import statements
from nameko_eventlog.store.sql.paging import Range, find_in_series
from nameko_eventlog.store.sql.schema import calls, event_logs
from nameko_eventlog.store.sql.searching import body_conditions, few, find_among, find_by_body


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
    row = event_logs.c
    rows = Range(
        row.position,
        row.series_id,
        order == "newest",
        begin=None if filters.since is None else first_at(filters.since),
        end=None if filters.until is None else first_at(filters.until),
    )
    if after is not None:
        rows = rows.after(after)
    ids = statements.id_conditions(filters)
    if filters.needs_range and not ids:
        return find_by_body(connection, filters, rows, limit)
    names = statements.name_conditions(connection.dialect, filters)
    if ids:
        every = [
            *statements.in_series(names),
            _in_calls(connection, ids),
            *body_conditions(connection, filters),
        ]
        return find_among(connection, filters, rows, every, limit)
    if names:
        return find_in_series(connection, rows, names, limit)
    return list(connection.scalars(rows.select().limit(limit)))


def _in_calls(connection: Connection, ids: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    return event_logs.c.call.in_(few(connection, select(calls.c.id).where(*ids)))
