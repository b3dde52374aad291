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

from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.sql import searching, statements
from nameko_eventlog.store.sql.functions import TimeOf
from nameko_eventlog.store.sql.schema import Key, call_counts, calls, counts, event_logs, series
from nameko_eventlog.store.summaries import CALL_SPANS, COUNT_SPANS, EVERY_SERIES


_GROWTH = 8  # how many times more minutes are looked at, if the last ones were too few


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
    if not isinstance(group, int):
        return _count_by_name(connection, filters, group, limit)
    seconds, rest = divmod(group, 1000)
    spans = [span for span in COUNT_SPANS if not (seconds % span or rest)]
    if spans or _needs_rows(filters):
        return _count_by_time(connection, filters, group, limit, spans)
    begin, end = filters.range
    minutes = limit * group // 60_000 + 2
    while True:  # there are no counts of such short spans: look at the latest rows first
        since = max(begin, _latest_minute(connection, filters, minutes))
        found = _count_by_time(connection, filters.within(since, end), group, limit, spans)
        if len(found) == limit or since == begin:
            return found
        minutes *= _GROWTH


def _count_by_name(
    connection: Connection, filters: Filters, group: ColumnElement[Any], limit: int
) -> list[tuple[Any, int]]:
    if _needs_rows(filters):
        counted = _of_rows(connection, filters, is_by_time=False)
    else:
        counted = _of_spans(connection, filters, COUNT_SPANS)
    some = _by_series(counted)
    label, number = group.label("of"), func.sum(some.c.number)
    statement = (
        select(label, number)
        .join(series, series.c.id == some.c.series_id)
        .group_by(label)
        .having(number > 0)
        .order_by(number.desc(), label.nulls_first())
        .limit(limit)
    )
    return [(of, int(many)) for of, many in connection.execute(statement)]


def _by_series(counted: Subquery) -> Subquery:
    """
    Add numbers up by series before their names are looked up: there are fewer series than numbers.
    """
    number = func.sum(counted.c.number).label("number")
    return select(counted.c.series_id, number).group_by(counted.c.series_id).subquery()


def _count_by_time(
    connection: Connection, filters: Filters, group: int, limit: int, spans: Sequence[int]
) -> list[tuple[Any, int]]:
    if _needs_rows(filters):
        counted = _of_rows(connection, filters, is_by_time=True)
    else:
        counted = _of_spans(connection, filters, spans, is_by_time=True)
    length = literal(group, BigInteger)
    label = (counted.c.begin_ms - counted.c.begin_ms % length).label("of")
    number = func.sum(counted.c.number)
    statement = (
        select(label, number)
        .group_by(label)
        .having(number > 0)
        .order_by(label.desc())
        .limit(limit)
    )
    return [(of, int(many)) for of, many in connection.execute(statement)]


def _needs_rows(filters: Filters) -> bool:
    return bool(filters.needs_range or statements.id_conditions(filters))


def _of_rows(connection: Connection, filters: Filters, *, is_by_time: bool) -> Subquery:
    """
    Count the rows that meet *filters*.
    """
    every = searching.conditions(connection, filters)
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


def _of_spans(
    connection: Connection, filters: Filters, spans: Sequence[int], *, is_by_time: bool = False
) -> Subquery:
    """
    Count event logs by the names and times of *filters*, from counts as far as there are some.

    Args:
        connection: To the database.
        filters: Which event logs.
        spans: The lengths of the counts to use.
        is_by_time: Whether the series do not matter, but the times do.
    """
    row = counts.c
    begin, end = filters.range
    selects: list[Select[Any]] = []
    for piece in cut(begin, end, spans):
        if piece.span:
            own = _in_series(connection, filters, row.series_id)
            if not own:
                is_total = row.series_id == EVERY_SERIES
                own = [is_total if is_by_time else ~is_total]
            conditions = [
                row.span == piece.span, row.begin_ms >= piece.begin, row.begin_ms < piece.end, *own
            ]  # fmt: skip
            selects.append(select(row.begin_ms, row.series_id, row.number).where(*conditions))
        else:
            conditions = [
                *statements.position_range(filters.within(piece.begin, piece.end)),
                *_in_series(connection, filters, event_logs.c.series_id),
            ]
            selects.append(_count_rows(conditions, is_by_time and not spans, piece.begin))
    return united(selects)


def _in_series(
    connection: Connection, filters: Filters, series_id: ColumnElement[int]
) -> Sequence[ColumnElement[bool]]:
    names = statements.name_conditions(connection.dialect, filters)
    return [series_id.in_(select(series.c.id).where(*names))] if names else ()


def united(selects: Sequence[Select[Any]]) -> Subquery:
    """
    Return the rows of several selections as one table.
    """
    return union_all(*selects).subquery() if len(selects) > 1 else selects[0].subquery()


def _latest_minute(connection: Connection, filters: Filters, number: int) -> int:
    """
    Return where the last *number* minutes begin in which there is an event log, or 0.
    """
    row = counts.c
    begin, end = filters.range
    own = _in_series(connection, filters, row.series_id) or [row.series_id == EVERY_SERIES]
    found = (
        select(row.begin_ms)
        .where(
            row.span == min(COUNT_SPANS),
            row.begin_ms > begin - min(COUNT_SPANS) * 1000,
            row.begin_ms < end,
            row.number > 0,
            *own,
        )
        .distinct()
        .order_by(row.begin_ms.desc())
        .offset(number - 1)
        .limit(1)
    )
    return connection.scalar(found) or 0


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
    numbers: dict[tuple[str | None, str], tuple[int, int, int]] = {}
    counted = of_calls(connection, filters)
    failures = case((counted.c.is_failed, counted.c.number), else_=0)
    some = (
        select(
            counted.c.series_id,
            func.sum(counted.c.number).label("number"),
            func.sum(failures).label("failures"),
        )
        .group_by(counted.c.series_id)
        .subquery()
    )
    for caller, service, many, failed in connection.execute(
        _by_pair(some, func.sum(some.c.number), func.sum(some.c.failures))
    ):
        numbers[caller, service] = (int(many), int(failed), 0)
    rows = _by_series(_of_spans(connection, filters, COUNT_SPANS))
    for caller, service, many in connection.execute(_by_pair(rows, func.sum(rows.c.number))):
        known = numbers.get((caller, service), (0, 0, 0))
        numbers[caller, service] = (*known[:2], int(many))
    found = [
        (caller, service, *three) for (caller, service), three in numbers.items() if any(three)
    ]
    found.sort(key=lambda one: (-one[2], one[0] is not None, one[0] or "", one[1]))
    return found[:limit]


def _by_pair(counted: Subquery, *numbers: ColumnElement[Any]) -> Select[Any]:
    pair = (series.c.caller, series.c.service_name)
    return (
        select(*pair, *numbers)
        .join_from(counted, series, series.c.id == counted.c.series_id)
        .where(series.c.in_call)
        .group_by(*pair)
    )


def of_calls(connection: Connection, filters: Filters) -> Subquery:
    """
    Count calls by series, and by whether they failed, by the names and times of *filters*.
    """
    row, call = call_counts.c, calls.c
    begin, end = filters.range
    selects: list[Select[Any]] = []
    for piece in cut(begin, end, CALL_SPANS):
        if piece.span:
            conditions = [
                row.span == piece.span, row.begin_ms >= piece.begin, row.begin_ms < piece.end,
                *_in_series(connection, filters, row.series_id),
            ]  # fmt: skip
            selects.append(select(row.series_id, row.is_failed, row.number).where(*conditions))
        else:
            conditions = [
                *first_within(piece.begin, piece.end),
                *_in_series(connection, filters, call.series_id),
            ]
            selects.append(
                select(call.series_id, call.is_failed, func.count().label("number"))
                .where(*conditions)
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
        .where(series.c.in_call, *searching.conditions(connection, filters))
        .group_by(*pair)
        .order_by(many.desc(), series.c.caller.nulls_first(), series.c.service_name)
        .limit(limit)
    )
    return [(one[0], one[1], *one[2:5]) for one in connection.execute(statement)]
