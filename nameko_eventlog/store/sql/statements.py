"""
The conditions of queries, and what they select. Parameters are always bound, and never part of
the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Text,
    and_,
    case,
    cast,
    false,
    func,
    literal,
    or_,
    select,
    type_coerce,
)

from nameko_eventlog.limits import DISTINCT_NAMES, LISTED_BODY_BYTES
from nameko_eventlog.store.answers import ENTRYPOINT_FAILED, FAILURE_LEVELS
from nameko_eventlog.store.packing import call_key
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.sql import matching
from nameko_eventlog.store.sql.functions import StoredBytes
from nameko_eventlog.store.sql.schema import Key, calls, event_logs, series


NAMES = ("service_name", "entrypoint_name", "caller", "event_type", "level", "time_note")
"""The filters that select series."""

IDS = {"call_id": calls.c.call_key, "origin_call_id": calls.c.origin_key}
"""The filters that select calls."""

# PostgreSQL's default costs: 0.0025 for any function, 1000 for starting parallel workers
_PARALLEL = "SET LOCAL cpu_operator_cost = 0.1; SET LOCAL parallel_setup_cost = 0"


_SIZE = StoredBytes(event_logs.c.body)

WRITTEN = func.octet_length(cast(event_logs.c.body, Text))
"""The size of a body as text: PostgreSQL stores it compressed."""

PLACED = tuple(column for column in event_logs.c if column.name not in ("id", "body"))
"""The columns of an event log except its body."""

ROW = (
    *PLACED,
    type_coerce(
        case((_SIZE <= LISTED_BODY_BYTES, event_logs.c.body)), event_logs.c.body.type
    ).label("body"),
    _SIZE.label("size"),
)
"""The columns of a list of event logs: a large body is left out, and its size is given."""

WHOLE = (*PLACED, event_logs.c.body, _SIZE.label("size"))
"""The columns of a single event log, with its body."""


def allow_parallel(connection: Connection, filters: Filters) -> None:
    """
    Let PostgreSQL search for text with parallel workers, until the transaction ends.

    It would decide that by itself if it knew the cost. The rows still come in the order of an
    index, and the search stops some milliseconds after the page is full.
    """
    if filters.text and connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_PARALLEL)


def conditions(dialect: Dialect, filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on event logs that *filters* stand for.
    """
    every: list[ColumnElement[bool]] = []
    every += in_series(name_conditions(dialect, filters))
    if ids := id_conditions(filters):
        every.append(event_logs.c.call.in_(select(calls.c.id).where(*ids)))
    every += position_range(filters)
    every += body_conditions(dialect, filters)
    return every


def name_conditions(dialect: Dialect, filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on series that *filters* stand for.
    """
    every: list[ColumnElement[bool]] = []
    for name in NAMES:
        values = filters.columns.get(name)
        if values is not None:
            every.append(_is_one(series.c[name], values))
    if filters.patterns:
        every.append(matching.is_named(dialect, series.c.event_type, filters.patterns))
    return every


def id_conditions(filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on calls that *filters* stand for.
    """
    return [
        _is_one(column, [call_key(value) for value in filters.columns[name]])
        for name, column in IDS.items()
        if name in filters.columns
    ]


def _is_one(column: Any, values: Sequence[Any]) -> ColumnElement[bool]:
    if not values:
        return false()
    is_one: ColumnElement[bool] = column == values[0] if len(values) == 1 else column.in_(values)
    return is_one


def body_conditions(
    dialect: Dialect,
    filters: Filters,
    named: ColumnElement[bool] | None = None,
    unlike: str | None = None,
) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on the content of event logs that *filters* stand for.

    Args:
        dialect: Of the database.
        filters: The filters.
        named: The condition that the event type has the text, if there is one.
        unlike: See `matching.has_text`.
    """
    every = [matching.equals(dialect, ways, value) for ways, value in filters.equalities]
    every += [matching.contains(dialect, dict(part)) for part in filters.containments]
    if filters.text:
        in_body = matching.has_text(dialect, filters.text, unlike)
        if named is None:
            named = event_logs.c.series_id.in_(series_with_text(dialect, filters.text))
        every.append(or_(named, in_body))
    return every


def in_series(names: Sequence[ColumnElement[bool]]) -> Sequence[ColumnElement[bool]]:
    """
    Make the condition that the series of an event log meets the conditions *names*, if there are
    any.
    """
    if not names:
        return ()
    return [event_logs.c.series_id.in_(select(series.c.id).where(*names))]


def series_with_text(dialect: Dialect, text: str) -> Select[Any]:
    """
    Select the series whose event type has *text* in it.
    """
    return select(series.c.id).where(matching.is_part(dialect, series.c.event_type, text))


def position_range(
    filters: Filters, position: ColumnElement[bytes] = event_logs.c.position
) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on *position* for the time range of *filters*.
    """
    return between(filters.since, filters.until, position)


def between(
    since: int | None, until: int | None, position: ColumnElement[bytes] = event_logs.c.position
) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on *position* for a range of times, in milliseconds since 1970.
    """
    every: list[ColumnElement[bool]] = []
    if since is not None:
        every.append(position >= literal(first_at(since), Key()))
    if until is not None:
        every.append(position < literal(first_at(until), Key()))
    return every


def distinct(
    connection: Connection, column: Any, prefix: str = "", most: int = DISTINCT_NAMES
) -> list[str]:
    """
    Return the distinct values of a column of series, at most *most*, with an index lookup each.
    """

    def least(condition: ColumnElement[bool]) -> Any:
        # a single bound: of two, SQLite may search the index by the weaker
        return select(func.min(column)).where(condition).scalar_subquery()

    values = select(least(column >= prefix).label("value")).cte("found", recursive=True)
    values = values.union_all(
        select(least(column > values.c.value)).where(
            and_(
                values.c.value.is_not(None), func.substr(values.c.value, 1, len(prefix)) == prefix
            )
        )
    )
    statement = select(values.c.value).where(values.c.value.is_not(None)).limit(most)
    return [name for name in connection.scalars(statement) if name.startswith(prefix)]


def is_failure() -> ColumnElement[bool]:
    """
    Make the condition that the event logs of a series report a failure.
    """
    return or_(series.c.level.in_(FAILURE_LEVELS), series.c.event_type == ENTRYPOINT_FAILED)


def has_event_logs() -> ColumnElement[bool]:
    """
    Make the condition on series that an event log belongs to it.
    """
    own: Select[Any] = select(event_logs.c.position).where(event_logs.c.series_id == series.c.id)
    return own.limit(1).exists()
