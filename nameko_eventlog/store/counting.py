"""
Counts from summaries: what looks at a range costs what it has of minutes and series, not of rows.

A range is cut into spans for which there are counts. Only for its ends, less than the smallest
span, rows are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    Subquery,
    case,
    func,
    literal,
    select,
    union_all,
)

from nameko_eventlog.store import statements
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.schema import Key, call_counts, calls, counts, event_logs, series
from nameko_eventlog.store.sql_functions import TimeOf
from nameko_eventlog.store.summaries import CALL_SPAN, COUNT_SPANS


_LATEST = 2**48 - 1  # milliseconds since 1970, of a position


class Piece(NamedTuple):
    """
    A part of a range of time.

    Args:
        span: The length, in seconds, of the spans that make it up; 0 if rows are to be counted.
        begin: Where it begins, in milliseconds since 1970.
        end: Where the next one begins.
    """

    span: int
    begin: int
    end: int


def cut(begin: int, end: int, spans: Sequence[int]) -> list[Piece]:
    """
    Cut a range into pieces that are made up of spans, and others.

    Args:
        begin: Where it begins, in milliseconds since 1970.
        end: Where it ends.
        spans: Lengths in seconds; each is a multiple of the next.
    """
    if begin >= end:
        return []
    if not spans:
        return [Piece(0, begin, end)]
    length = spans[0] * 1000
    first, last = -(-begin // length) * length, end // length * length
    if first >= last:
        return cut(begin, end, spans[1:])
    return [
        *cut(begin, first, spans[1:]),
        Piece(spans[0], first, last),
        *cut(last, end, spans[1:]),
    ]


def count(
    connection: Connection,
    filters: Filters,
    group: ColumnElement[Any] | int,
    limit: int,
) -> list[tuple[Any, int]]:
    """
    Count event logs by group.

    Args:
        connection: To the database.
        filters: Which event logs.
        group: A column of series; or, for groups by time, their length in milliseconds.
        limit: How many groups, at most: the largest, or the latest.

    Returns:
        The groups, with their numbers; those by time begin with the latest.
    """
    is_by_time = isinstance(group, int)
    if _needs_rows(filters):
        counted = _of_rows(connection, filters, is_by_time)
    else:
        seconds, rest = divmod(group, 1000) if isinstance(group, int) else (0, 0)
        spans = [
            span for span in sorted(COUNT_SPANS, reverse=True) if not (seconds % span or rest)
        ]
        if not spans:
            filters = _latest(connection, filters, group, limit)
        counted = _of_spans(filters, spans, is_by_time and not spans)
    label: ColumnElement[Any]
    if isinstance(group, int):
        length = literal(group, BigInteger)
        label = (counted.c.begin_ms - counted.c.begin_ms % length).label("of")
    else:
        label = group.label("of")
    number = func.sum(counted.c.number)
    names = statements.name_conditions(connection.dialect, filters)
    statement = (
        select(label, number)
        .join(series, series.c.id == counted.c.series_id)
        .where(*names)
        .group_by(label)
        .having(number > 0)
        .order_by(label.desc() if is_by_time else number.desc(), label.nulls_first())
        .limit(limit)
    )
    return [(of, int(many)) for of, many in connection.execute(statement)]


def _needs_rows(filters: Filters) -> bool:
    return bool(filters.needs_range or statements.id_conditions(filters))


def _of_rows(connection: Connection, filters: Filters, is_by_time: bool) -> Subquery:
    """
    Count the rows that meet *filters*.
    """
    every = statements.conditions(connection.dialect, filters)
    return _count_rows(every, is_by_time, 0).subquery()


def _count_rows(
    conditions: Sequence[ColumnElement[bool]], is_by_time: bool, begin: int
) -> Select[Any]:
    row = event_logs.c
    if is_by_time:
        one = literal(1, BigInteger).label("number")
        return select(TimeOf(row.position).label("begin_ms"), row.series_id, one).where(
            *conditions
        )
    return (
        select(
            literal(begin, BigInteger).label("begin_ms"),
            row.series_id,
            func.count().label("number"),
        )
        .where(*conditions)
        .group_by(row.series_id)
    )


def _of_spans(filters: Filters, spans: Sequence[int], is_by_time: bool) -> Subquery:
    row = counts.c
    begin, end = range_of(filters)
    selects: list[Select[Any]] = []
    for piece in cut(begin, end, spans):
        if piece.span:
            in_piece = (
                row.span == piece.span,
                row.begin_ms >= piece.begin,
                row.begin_ms < piece.end,
            )
            selects.append(select(row.begin_ms, row.series_id, row.number).where(*in_piece))
        else:
            whole = filters.within(piece.begin, piece.end)
            in_range = statements.position_range(whole)
            selects.append(_count_rows(in_range, is_by_time, piece.begin))
    return united(selects)


def united(selects: Sequence[Select[Any]]) -> Subquery:
    """
    Return the rows of several selections as one table.
    """
    return union_all(*selects).subquery() if len(selects) > 1 else selects[0].subquery()


def range_of(filters: Filters) -> tuple[int, int]:
    since = filters.since or 0
    return since, _LATEST if filters.until is None else max(filters.until, since)


def _latest(
    connection: Connection, filters: Filters, group: ColumnElement[Any] | int, limit: int
) -> Filters:
    """
    Let the range begin where the latest *limit* groups by time must have been found.
    """
    begin, _ = range_of(filters)
    minute = min(COUNT_SPANS)
    length = group if isinstance(group, int) else 0
    most = limit * (length // (minute * 1000) + 2)
    names = statements.name_conditions(connection.dialect, filters)
    found = (
        select(counts.c.begin_ms)
        .join(series, series.c.id == counts.c.series_id)
        .where(
            counts.c.span == minute,
            counts.c.begin_ms > begin - minute * 1000,
            counts.c.number > 0,
            *names,
        )
        .distinct()
        .order_by(counts.c.begin_ms.desc())
        .offset(most)
        .limit(1)
    )
    earliest = connection.scalar(found)
    return filters if earliest is None else filters.within(max(begin, earliest), filters.until)


def count_calls(
    connection: Connection, filters: Filters, limit: int
) -> list[tuple[str | None, str, int, int, int]]:
    """
    Count the calls between services.

    Args:
        connection: To the database.
        filters: Which event logs.
        limit: How many pairs of services, at most.

    Returns:
        For each pair of services the caller, if it is known, the called service, and the numbers
        of calls, of those that failed, and of event logs; most calls first.
    """
    is_summary = not _needs_rows(filters) and not (
        filters.patterns or filters.columns.keys() & {"event_type", "level", "time_note"}
    )
    if not is_summary:
        return _count_calls_by_rows(connection, filters, limit)
    counted = of_calls(filters)
    numbers: dict[tuple[str | None, str], tuple[int, int, int]] = {}
    failures = case((counted.c.is_failed, counted.c.number), else_=0)
    for caller, service, many, failed in connection.execute(
        _by_pair(connection, filters, counted, func.sum(counted.c.number), func.sum(failures))
    ):
        numbers[caller, service] = (int(many), int(failed), 0)
    rows = _of_spans(filters, sorted(COUNT_SPANS, reverse=True), False)
    for caller, service, many in connection.execute(
        _by_pair(connection, filters, rows, func.sum(rows.c.number))
    ):
        known = numbers.get((caller, service), (0, 0, 0))
        numbers[caller, service] = (*known[:2], int(many))
    found = [
        (caller, service, *three) for (caller, service), three in numbers.items() if any(three)
    ]
    found.sort(key=lambda one: (-one[2], one[0] is not None, one[0] or "", one[1]))
    return found[:limit]


def _by_pair(
    connection: Connection, filters: Filters, counted: Subquery, *numbers: ColumnElement[Any]
) -> Select[Any]:
    names = statements.name_conditions(connection.dialect, filters)
    pair = (series.c.caller, series.c.service_name)
    return (
        select(*pair, *numbers)
        .join_from(counted, series, series.c.id == counted.c.series_id)
        .where(series.c.in_call, *names)
        .group_by(*pair)
    )


def of_calls(filters: Filters) -> Subquery:
    """
    Count calls by series, and by whether they failed.
    """
    row, call = call_counts.c, calls.c
    begin, end = range_of(filters)
    selects: list[Select[Any]] = []
    for piece in cut(begin, end, [CALL_SPAN]):
        if piece.span:
            in_piece = (row.begin_ms >= piece.begin, row.begin_ms < piece.end)
            selects.append(select(row.series_id, row.is_failed, row.number).where(*in_piece))
        else:
            selects.append(
                select(call.series_id, call.is_failed, func.count().label("number"))
                .where(*first_within(piece.begin, piece.end))
                .group_by(call.series_id, call.is_failed)
            )
    return united(selects)


def first_within(begin: int, end: int) -> Sequence[ColumnElement[bool]]:
    """
    Make the conditions that a call's first event log is in a range.
    """
    return (
        calls.c.first >= literal(first_at(begin), Key()),
        calls.c.first < literal(first_at(end), Key()),
    )


def _count_calls_by_rows(
    connection: Connection, filters: Filters, limit: int
) -> list[tuple[str | None, str, int, int, int]]:
    row = event_logs.c
    many = func.count(row.call.distinct())
    failures = func.count(case((statements.is_failure(), row.call)).distinct())
    pair = (series.c.caller, series.c.service_name)
    statement = (
        select(*pair, many, failures, func.count())
        .join_from(event_logs, series, series.c.id == row.series_id)
        .where(series.c.in_call, *statements.conditions(connection.dialect, filters))
        .group_by(*pair)
        .order_by(many.desc(), series.c.caller.nulls_first(), series.c.service_name)
        .limit(limit)
    )
    return [(one[0], one[1], *one[2:5]) for one in connection.execute(statement)]
