"""
Finding calls by their summaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Join, Select, func, literal, or_, select

from nameko_eventlog.store.backends import CallEnd
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.outcomes import COMPLETED, OUTCOMES
from nameko_eventlog.store.sql import statements
from nameko_eventlog.store.sql.counting import of_calls
from nameko_eventlog.store.sql.functions import OrderedJoin, Unindexed
from nameko_eventlog.store.sql.paging import Range, find_in_series
from nameko_eventlog.store.sql.schema import Key, calls, series


_FEW = 50_000
"""Calls that are sorted rather than searched in the order of the page."""

_FEW_LASTED = 10_000
"""Calls that are looked up by their durations and sorted."""


def find_calls(
    connection: Connection, wanted: CallFilters, order: str, limit: int, end: CallEnd | None
) -> Sequence[Any]:
    """
    Return the first calls in an order, with the names of their first event logs.
    """
    if order == "longest":
        return _longest(connection, wanted, limit, end)
    return _by_time(connection, wanted, order == "newest", limit, end)


def _by_time(
    connection: Connection, wanted: CallFilters, is_newest: bool, limit: int, end: CallEnd | None
) -> Sequence[Any]:
    names = statements.name_conditions(connection.dialect, wanted.names)
    is_timed = wanted.min_duration is not None and not _is_rare(wanted)
    if names and not is_timed and not _is_rare(wanted):
        return _by_series(connection, wanted, is_newest, limit, end, names)
    first: Any = calls.c.first
    lasted = is_timed and _few_lasted(connection, wanted)
    if lasted or (is_timed and _is_few(connection, wanted)):
        first = Unindexed(first)
    statement = (
        _columns(calls_first=lasted)
        .where(series.c.in_call, *_conditions(wanted, first), *names)
        .order_by(first.desc() if is_newest else first)
        .limit(limit)
    )
    if end is not None:
        statement = statement.where(_is_after(end, first, is_newest))
    return connection.execute(statement).all()


def _by_series(
    connection: Connection,
    wanted: CallFilters,
    is_newest: bool,
    limit: int,
    end: CallEnd | None,
    names: Sequence[ColumnElement[bool]],
) -> Sequence[Any]:
    column = calls.c
    every = _conditions(wanted)
    if end is not None:
        every.append(_is_after(end, column.first, is_newest))
    rows = Range(column.first, column.series_id, is_newest, every)
    positions = find_in_series(connection, rows, [series.c.in_call, *names], limit)
    found = connection.execute(_columns().where(column.first.in_(positions))).all()
    return sorted(found, key=lambda one: bytes(one.first), reverse=is_newest)


def _longest(
    connection: Connection, wanted: CallFilters, limit: int, end: CallEnd | None
) -> Sequence[Any]:
    column = calls.c
    first: Any = column.first
    duration: Any = column.duration
    in_order = False
    if _is_few(connection, wanted):
        duration = Unindexed(duration)
    elif not _is_rare(wanted):
        first, in_order = Unindexed(first), True
    names = statements.name_conditions(connection.dialect, wanted.names)
    statement = (
        _columns(calls_first=in_order)
        .where(series.c.in_call, column.duration.is_not(None), *_conditions(wanted, first), *names)
        .order_by(duration.desc(), column.first.desc())
        .limit(limit)
    )
    if end is not None:
        is_next = or_(column.duration < end.duration, _is_after(end, first, is_newest=True))
        statement = statement.where(column.duration <= end.duration, is_next)
    return connection.execute(statement).all()


def _columns(*, calls_first: bool = False) -> Select[Any]:
    """
    Select what is told of a call.

    Args:
        calls_first: Whether to read calls, and to look up the series of each.
    """
    column = calls.c
    join = OrderedJoin if calls_first else Join
    return select(
        column.first, column.first_ms, column.ended, column.duration, column.outcome,
        column.severity, column.number, column.context, series.c.service_name,
        series.c.entrypoint_name, series.c.entrypoint_protocol, series.c.caller,
    ).select_from(join(calls, series, series.c.id == column.series_id))  # fmt: skip


def _conditions(
    wanted: CallFilters, first: ColumnElement[Any] = calls.c.first
) -> list[ColumnElement[bool]]:
    """
    Return the conditions on calls, without those on series.

    Args:
        wanted: Which calls.
        first: The column of their first positions, or this `Unindexed`.
    """
    column = calls.c
    every: list[ColumnElement[bool]] = list(statements.position_range(wanted.names, first))
    if wanted.outcomes:
        every.append(column.outcome.in_([OUTCOMES.index(one) for one in wanted.outcomes]))
    if _is_rare(wanted):
        every.append(column.outcome != OUTCOMES.index(COMPLETED))  # that of the index
    if wanted.min_duration is not None:
        every.append(column.duration >= wanted.min_duration)
    if wanted.max_duration is not None:
        every.append(column.duration <= wanted.max_duration)
    return every


def _is_after(end: CallEnd, first: ColumnElement[Any], is_newest: bool) -> ColumnElement[bool]:
    """
    Return the condition that a call is on the next page.
    """
    last = literal(end.first, Key())
    return first < last if is_newest else first > last


def _is_rare(wanted: CallFilters) -> bool:
    """
    Tell whether the outcomes have an index.
    """
    return bool(wanted.outcomes) and COMPLETED not in wanted.outcomes


def _is_few(connection: Connection, wanted: CallFilters) -> bool:
    """
    Tell whether the names and times select so few calls that they can be sorted.
    """
    counted = of_calls(connection, wanted.names)
    return (connection.scalar(select(func.sum(counted.c.number))) or 0) <= _FEW


def _few_lasted(connection: Connection, wanted: CallFilters) -> bool:
    """
    Tell whether so few calls took so long that they can be sorted.
    """
    timed = replace(wanted, outcomes=())
    some = (
        select(calls.c.duration)
        .where(*_conditions(timed, Unindexed(calls.c.first)))
        .limit(_FEW_LASTED + 1)
    )
    number = connection.scalar(select(func.count()).select_from(some.subquery()))
    return (number or 0) <= _FEW_LASTED
