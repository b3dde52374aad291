"""
Finding calls by their summaries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal, or_, select

from nameko_eventlog.store import statements
from nameko_eventlog.store.answers import CallPage, FoundCall
from nameko_eventlog.store.counting import of_calls
from nameko_eventlog.store.cursors import decode_parts, encode_parts, foreign, read_position
from nameko_eventlog.store.levels import level_name
from nameko_eventlog.store.listing import decoded
from nameko_eventlog.store.outcomes import COMPLETED, OUTCOMES
from nameko_eventlog.store.packing import CallContext
from nameko_eventlog.store.paging import Range, find_in_series
from nameko_eventlog.store.parameters import (
    Filters,
    InvalidQuery,
    check_choice,
    check_limit,
    default_since,
)
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.schema import Key, calls, series
from nameko_eventlog.store.sql_functions import Unindexed
from nameko_eventlog.store.times import format_time


ORDERS = ("newest", "oldest", "longest")
"""In which order calls are returned."""

NAMES = ("service", "entrypoint", "caller")
"""The names by which calls are found."""

_FEW = 50_000  # calls that are sorted rather than searched in the order of their durations
_LONGEST = 10**9  # seconds


@dataclass(frozen=True)
class CallFilters:
    """
    Which calls: the parameters of `EventLogQuery.calls`, validated.
    """

    names: Filters
    outcomes: tuple[str, ...]
    min_duration: float | None
    max_duration: float | None
    digest: str

    @classmethod
    def parse(
        cls,
        *,
        outcome: Any = None,
        min_duration: Any = None,
        max_duration: Any = None,
        **filters: Any,
    ) -> CallFilters:
        """
        Validate parameters.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        for name, value in filters.items():
            if name not in (*NAMES, "since", "until"):
                known = ", ".join((*NAMES, "outcome", "min_duration", "max_duration", "since"))
                raise InvalidQuery(name, value, f"unknown filter; pass one of {known}, until")
        names = Filters.parse(**filters)
        outcomes = _outcomes(outcome)
        least, most = (
            _seconds(name, value)
            for name, value in (("min_duration", min_duration), ("max_duration", max_duration))
        )
        told = [names.digest, outcomes, least, most]
        digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]
        return cls(names, outcomes, least, most, digest)

    def conditions(self) -> list[ColumnElement[bool]]:
        """
        Return the conditions on calls, without those on series.
        """
        column = calls.c
        every: list[ColumnElement[bool]] = list(
            statements.position_range(self.names, column.first)
        )
        if self.outcomes:
            every.append(column.outcome.in_([OUTCOMES.index(one) for one in self.outcomes]))
            if COMPLETED not in self.outcomes:
                every.append(column.outcome != OUTCOMES.index(COMPLETED))  # that of the index
        if self.min_duration is not None:
            every.append(column.duration >= self.min_duration)
        if self.max_duration is not None:
            every.append(column.duration <= self.max_duration)
        return every


def _outcomes(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple, set, frozenset)) or not values:
        raise InvalidQuery("outcome", value, f"pass one of {', '.join(OUTCOMES)}, or a list")
    return tuple(sorted({check_choice("outcome", one, OUTCOMES) for one in values}))


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LONGEST:
        raise InvalidQuery(name, value, "pass a number of seconds, 0 or more")
    return float(value)


@dataclass(frozen=True)
class _End:
    """
    Where a page ended.
    """

    duration: float | None
    first: bytes


def find_calls(
    connection: Connection,
    wanted: CallFilters,
    order: str,
    limit: int,
    cursor: str | None,
) -> CallPage:
    """
    Return a page of calls.

    Raises:
        InvalidQuery: A parameter is invalid.
    """
    check_choice("order", order, ORDERS)
    limit = check_limit(limit)
    end = None
    if cursor is not None:
        wanted, end = _read_cursor(cursor, wanted, order)
    elif order == "longest" and wanted.names.since is None:
        since = default_since(wanted.names.until)
        wanted = replace(wanted, names=replace(wanted.names, since=since))
    if cursor is None:
        wanted = replace(wanted, names=wanted.names.up_to_now())
    if order == "longest":
        found = _longest(connection, wanted, limit + 1, end)
    else:
        found = _by_time(connection, wanted, order == "newest", limit + 1, end)
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        names = wanted.names
        following = encode_parts(
            [wanted.digest, order, names.since, names.until, last.duration, last.first.hex()]
        )
    return {"calls": [_answer(one) for one in found[:limit]], "cursor": following}


def _read_cursor(text: Any, wanted: CallFilters, order: str) -> tuple[CallFilters, _End]:
    kinds = tuple[str, str, int | None, int | None, float | None, str]
    digest, order_then, since, until, duration, first = decode_parts(text, kinds)
    if digest != wanted.digest or order_then != order:
        raise foreign(text)
    position = read_position(first, text)
    if order == "longest" and duration is None:
        raise InvalidQuery("cursor", text, "pass the cursor of a page, unchanged")
    names = replace(wanted.names, since=since, until=until)
    return replace(wanted, names=names), _End(duration, position)


def _columns() -> Select[Any]:
    column = calls.c
    return select(
        column.first, column.first_ms, column.ended, column.duration, column.outcome,
        column.severity, column.number, column.context, series.c.service_name,
        series.c.entrypoint_name, series.c.entrypoint_protocol, series.c.caller,
    ).join(series, series.c.id == column.series_id)  # fmt: skip


def _by_time(
    connection: Connection, wanted: CallFilters, is_newest: bool, limit: int, end: _End | None
) -> Sequence[Any]:
    column = calls.c
    conditions = wanted.conditions()
    if end is not None:
        after = literal(end.first, Key())
        conditions.append(column.first < after if is_newest else column.first > after)
    rows = Range(column.first, column.series_id, is_newest, conditions)
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
        .where(series.c.in_call, *conditions, *names)
        .order_by(ordering.desc() if is_newest else ordering)
        .limit(limit)
    )
    return connection.execute(statement).all()


def _longest(
    connection: Connection, wanted: CallFilters, limit: int, end: _End | None
) -> Sequence[Any]:
    column = calls.c
    conditions = [column.duration.is_not(None), *wanted.conditions()]
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


def _answer(found: Any) -> FoundCall:
    context = CallContext.read(decoded(found.context))
    stack = context.call_stack
    started = found.first_ms
    if found.ended is not None and found.duration is not None:
        # its first event log may be later than its beginning
        started = min(started, time_of(found.ended) - round(found.duration * 1000))
    return {
        "call_id": context.call_id or "",
        "origin_call_id": context.origin,
        "parent_call_id": stack[-2] if len(stack) > 1 else None,
        "service_name": found.service_name,
        "entrypoint_name": found.entrypoint_name,
        "entrypoint_protocol": found.entrypoint_protocol,
        "caller": found.caller,
        "started": format_time(started),
        "duration": found.duration,
        "outcome": OUTCOMES[found.outcome],
        "level": level_name(found.severity),
        "event_logs": found.number,
    }
