"""
Finding calls by their summaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal, or_, select

from nameko_eventlog.store.backends import CallEnd
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.outcomes import COMPLETED, OUTCOMES
from nameko_eventlog.store.sql import statements
from nameko_eventlog.store.sql.counting import of_calls
from nameko_eventlog.store.sql.functions import Unindexed
from nameko_eventlog.store.sql.paging import Range, find_in_series
from nameko_eventlog.store.sql.schema import Key, calls, series


_FEW = 50_000  # calls that are sorted rather than searched in the order of their durations


def find_calls(
    connection: Connection, wanted: CallFilters, order: str, limit: int, end: CallEnd | None
) -> Sequence[Any]:
    """
    Return the first calls in an order, with the names of their first event logs.
    """
    if order == "longest":
        return _longest(connection, wanted, limit, end)
    return _by_time(connection, wanted, order == "newest", limit, end)


def _conditions(wanted: CallFilters) -> list[ColumnElement[bool]]:
    """
    Return the conditions on calls, without those on series.
    """
    column = calls.c
    every: list[ColumnElement[bool]] = list(statements.position_range(wanted.names, column.first))
    if wanted.outcomes:
        every.append(column.outcome.in_([OUTCOMES.index(one) for one in wanted.outcomes]))
        if COMPLETED not in wanted.outcomes:
            every.append(column.outcome != OUTCOMES.index(COMPLETED))  # that of the index
    if wanted.min_duration is not None:
        every.append(column.duration >= wanted.min_duration)
    if wanted.max_duration is not None:
        every.append(column.duration <= wanted.max_duration)
    return every


def _columns() -> Select[Any]:
    column = calls.c
    return select(
        column.first, column.first_ms, column.ended, column.duration, column.outcome,
        column.severity, column.number, column.context, series.c.service_name,
        series.c.entrypoint_name, series.c.entrypoint_protocol, series.c.caller,
    ).join(series, series.c.id == column.series_id)  # fmt: skip


def _by_time(
    connection: Connection, wanted: CallFilters, is_newest: bool, limit: int, end: CallEnd | None
) -> Sequence[Any]:
    column = calls.c
    every = _conditions(wanted)
    if end is not None:
        after = literal(end.first, Key())
        every.append(column.first < after if is_newest else column.first > after)
    rows = Range(column.first, column.series_id, is_newest, every)
    names = statements.name_conditions(connection.dialect, wanted.names)
    is_rare = bool(wanted.outcomes) and COMPLETED not in wanted.outcomes
    if names and not is_rare and wanted.min_duration is None:
        positions = find_in_series(connection, rows, [series.c.in_call, *names], limit)
        found = connection.execute(_columns().where(column.first.in_(positions))).all()
        return sorted(found, key=lambda one: bytes(one.first), reverse=is_newest)
    ordering: Any = column.first
    if wanted.min_duration is not None and not is_rare and _is_few(connection, wanted):
        ordering = Unindexed(column.first)
    statement = (
        _columns()
        .where(series.c.in_call, *every, *names)
        .order_by(ordering.desc() if is_newest else ordering)
        .limit(limit)
    )
    return connection.execute(statement).all()


def _longest(
    connection: Connection, wanted: CallFilters, limit: int, end: CallEnd | None
) -> Sequence[Any]:
    column = calls.c
    conditions = [column.duration.is_not(None), *_conditions(wanted)]
    if end is not None:
        after = literal(end.first, Key())
        is_same = and_(column.duration == end.duration, column.first < after)
        conditions.append(or_(column.duration < end.duration, is_same))
    names = statements.name_conditions(connection.dialect, wanted.names)
    duration: Any = column.duration
    if _is_few(connection, wanted):
        duration = Unindexed(duration)
    statement = (
        _columns()
        .where(series.c.in_call, *conditions, *names)
        .order_by(duration.desc(), column.first.desc())
        .limit(limit)
    )
    return connection.execute(statement).all()


def _is_few(connection: Connection, wanted: CallFilters) -> bool:
    """
    Tell whether the names and times select so few calls that they can be sorted.
    """
    counted = of_calls(connection, wanted.names)
    return (connection.scalar(select(func.sum(counted.c.number))) or 0) <= _FEW
