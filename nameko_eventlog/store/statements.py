"""
The SQL statements of queries. Parameters are always bound, and never part of the text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
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
    select,
    tuple_,
    type_coerce,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from nameko_eventlog.limits import DISTINCT_NAMES, LISTED_BODY_BYTES
from nameko_eventlog.store import matching
from nameko_eventlog.store.cursors import Cursor
from nameko_eventlog.store.parameters import MAX_VALUES, Filters
from nameko_eventlog.store.schema import event_logs


# of several filters, the first of these decides which index is used: the most selective
_BY_SELECTIVITY = (
    "call_id",
    "origin_call_id",
    "time_note",
    "entrypoint_name",
    "caller",
    "event_type",
    "level",
    "service_name",
)


class _StoredBytes(FunctionElement[int]):
    """
    The size of a body; a large body is not loaded to find it.
    """

    type = BigInteger()
    inherit_cache = True


# planning a statement with more conditions takes longer than testing the rows
_MOST_CONDITIONS = 500

# PostgreSQL's default costs: 0.0025 for any function, 1000 for starting parallel workers
_PARALLEL = "SET LOCAL cpu_operator_cost = 0.1; SET LOCAL parallel_setup_cost = 0"


@compiles(_StoredBytes, "sqlite")
def _bytes_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    body = compiler.process(element.clauses, **kwargs)
    if sqlite3.sqlite_version_info >= (3, 43):  # does not read all of the body
        return f"octet_length({body})"
    return f"length(CAST({body} AS BLOB))"


@compiles(_StoredBytes, "postgresql")
def _bytes_in_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    # a body that is large as stored is not decompressed; a smaller one may become much larger
    body = compiler.process(element.clauses, **kwargs)
    return (
        f"CASE WHEN pg_column_size({body}) > {LISTED_BODY_BYTES} THEN pg_column_size({body})"
        f" ELSE octet_length(CAST({body} AS TEXT)) END"
    )


_SIZE = _StoredBytes(event_logs.c.body)

WRITTEN = func.octet_length(cast(event_logs.c.body, Text))
"""The size of a body as text: PostgreSQL stores it compressed."""

ROW = (
    event_logs.c.message_id,
    event_logs.c.time_ms,
    event_logs.c.time_note,
    type_coerce(
        case((_SIZE <= LISTED_BODY_BYTES, event_logs.c.body)), event_logs.c.body.type
    ).label("body"),
    _SIZE.label("size"),
)
"""The columns of a list of event logs: a large body is left out, and its size is given."""

COLUMNS = tuple(column for column in event_logs.c if column.name != "body")
"""The columns of an event log except its body."""

WHOLE = (
    event_logs.c.message_id,
    event_logs.c.time_ms,
    event_logs.c.time_note,
    event_logs.c.body,
    _SIZE.label("size"),
)
"""The columns of a single event log, with its body."""


def allow_parallel(connection: Connection, filters: Filters) -> None:
    """
    Let PostgreSQL search for text with parallel workers, until the transaction ends.

    It would decide that by itself if it knew the cost. The rows still come in the order of an
    index, and the search stops some milliseconds after the page is full.
    """
    if filters.text and connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_PARALLEL)


def page(
    dialect: Dialect, filters: Filters, order: str, limit: int, start: Cursor | None
) -> Select[Any]:
    """
    Make the statement for a page.

    An index has the rows of each value in order, but not those of several values. So for several
    values the statement selects the first rows of each, and then the first rows of all these.
    """
    lead = next((name for name in _BY_SELECTIVITY if name in filters.columns), None)
    values = filters.columns[lead] if lead else ()
    paths = sum(len(ways) for ways, _ in filters.equalities)
    conditions_each = 1 + paths + len(filters.containments)
    if (
        lead is None
        or not 1 < len(values) <= MAX_VALUES
        or len(values) * conditions_each > _MOST_CONDITIONS
    ):
        return _branch(dialect, filters, order, limit, start)
    branches = [
        _branch(
            dialect,
            replace(filters, columns={**filters.columns, lead: (value,)}),
            order,
            limit,
            start,
        )
        for value in values
    ]
    return first_of(branches, order, limit)


def first_of(pages: Sequence[Select[Any]], order: str, limit: int) -> Select[Any]:
    """
    Make the statement for the first rows of several pages.
    """
    every = union_all(*(select(one.subquery()) for one in pages)).subquery()
    return select(every).order_by(*_ordering(every.c, order)).limit(limit)


def _branch(
    dialect: Dialect, filters: Filters, order: str, limit: int, start: Cursor | None
) -> Select[Any]:
    statement = select(*ROW).where(*conditions(dialect, filters))
    if start is not None:
        key = tuple_(event_logs.c.time_ms, event_logs.c.message_id)
        end = tuple_(literal(start.time_ms, BigInteger), literal(start.message_id))
        statement = statement.where(key < end if order == "newest" else key > end)
    return statement.order_by(*_ordering(event_logs.c, order)).limit(limit)


def conditions(dialect: Dialect, filters: Filters) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions that *filters* stand for.
    """
    every: list[ColumnElement[bool]] = []
    for name, values in filters.columns.items():
        column = event_logs.c[name]
        if not values:
            every.append(false())
        else:
            every.append(column == values[0] if len(values) == 1 else column.in_(values))
    if filters.patterns:
        every.append(matching.is_named(dialect, event_logs.c.event_type, filters.patterns))
    every += time_range(filters)
    every += [matching.equals(dialect, ways, value) for ways, value in filters.equalities]
    every += [matching.contains(dialect, dict(part)) for part in filters.containments]
    if filters.text:
        every.append(matching.has_text(dialect, filters.text))
    return every


def time_range(
    filters: Filters, time_ms: ColumnElement[int] = event_logs.c.time_ms
) -> Sequence[ColumnElement[bool]]:
    """
    Return the conditions on *time_ms* for the time range of *filters*.
    """
    every = []
    if filters.since is not None:
        every.append(time_ms >= filters.since)
    if filters.until is not None:
        every.append(time_ms < filters.until)
    return every


def _ordering(columns: Any, order: str) -> Sequence[ColumnElement[Any]]:
    keys = (columns.time_ms, columns.message_id)
    return keys if order == "oldest" else [key.desc() for key in keys]


def distinct(
    connection: Connection, column: Any, prefix: str = "", most: int = DISTINCT_NAMES
) -> list[str]:
    """
    Return the distinct values of an indexed column, at most *most*, with one index lookup each.
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
