"""
The statements of queries: nothing that was asked for gets into their text, only bound.
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
from nameko_eventlog.store.parameters import MAX_VALUES, Cursor, Filters
from nameko_eventlog.store.schema import event_logs


# of several filters, the one whose index is used: those that leave the fewest first
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
    The size of a body, which is not loaded for it if it is large.
    """

    type = BigInteger()
    inherit_cache = True


# more of them in one statement take longer to plan than their rows to be looked at
_MOST_CONDITIONS = 500

# by default a function counts 0.0025, whatever it takes, and to begin with several processes 1000
_PARALLEL = "SET LOCAL cpu_operator_cost = 0.1; SET LOCAL parallel_setup_cost = 0"


@compiles(_StoredBytes, "sqlite")
def _bytes_in_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    body = compiler.process(element.clauses, **kwargs)
    if sqlite3.sqlite_version_info >= (3, 43):  # it need not read all of the body for this
        return f"octet_length({body})"
    return f"length(CAST({body} AS BLOB))"


@compiles(_StoredBytes, "postgresql")
def _bytes_in_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    # what is large as it is stored is not decompressed; what is small may be, to much more
    body = compiler.process(element.clauses, **kwargs)
    return (
        f"CASE WHEN pg_column_size({body}) > {LISTED_BODY_BYTES} THEN pg_column_size({body})"
        f" ELSE octet_length(CAST({body} AS TEXT)) END"
    )


_SIZE = _StoredBytes(event_logs.c.body)

WRITTEN = func.octet_length(cast(event_logs.c.body, Text))
"""The size of a body as it is sent: PostgreSQL keeps it compressed."""

ROW = (
    event_logs.c.message_id,
    event_logs.c.time_ms,
    event_logs.c.time_note,
    type_coerce(
        case((_SIZE <= LISTED_BODY_BYTES, event_logs.c.body)), event_logs.c.body.type
    ).label("body"),
    _SIZE.label("size"),
)
"""What a list has of each event log: of a large one no body, but its size in bytes."""

COLUMNS = tuple(column for column in event_logs.c if column.name != "body")
"""What is told of an event log without its body."""

WHOLE = (
    event_logs.c.message_id,
    event_logs.c.time_ms,
    event_logs.c.time_note,
    event_logs.c.body,
    _SIZE.label("size"),
)
"""All of an event log."""


def allow_parallel(connection: Connection, filters: Filters) -> None:
    """
    Let PostgreSQL look for text with several processes, until the transaction ends.

    It would do so by itself if it knew what that takes. The rows still come in the order of an
    index, and no more of them are looked at than the page needs, but for some milliseconds' worth.
    """
    if filters.text and connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_PARALLEL)


def page(
    dialect: Dialect, filters: Filters, order: str, limit: int, start: Cursor | None
) -> Select[Any]:
    """
    Make the statement for a page.

    A column of several values has its rows in order for each of them, not for all: so each
    gives its first rows, and the first of these are the page.
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
    Return the conditions that *filters* mean.
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
    Return the conditions on *time_ms* that the time range of *filters* means.
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
    Return the values of an indexed column by one look into its index for each: of more than
    *most* the first.
    """

    def least(condition: ColumnElement[bool]) -> Any:
        # one bound alone: of two, SQLite may search the index by the lesser
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
