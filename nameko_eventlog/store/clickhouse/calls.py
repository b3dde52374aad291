"""
Calls, put together from their parts.

A call has a part for each ten minutes in which it has event logs: nearly always one, or two. A
call whose parts are farther apart than `FAR_MS` is several.

Most calls have a single row, and are that. The others are found by a hash of their ids, and put
together; so it does not matter whether rows are merged yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Integer,
    Select,
    Subquery,
    and_,
    case,
    func,
    literal,
    or_,
    select,
    union_all,
)

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store.backends import CallEnd, StoredCall
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.clickhouse.conditions import in_series, name_conditions, within
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.schema import (
    NO_KEY,
    SPAN,
    Key,
    call_parts,
    element,
    event_logs,
    series,
    series_days,
    time_of,
)
from nameko_eventlog.store.outcomes import OUTCOMES, RUNNING
from nameko_eventlog.store.packing import CallContext
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.positions import time_of as time_of_bytes
from nameko_eventlog.store.summaries import BUCKETS_PER_DOUBLING, SHORTEST


FAR_MS = 6 * 3_600_000
"""How far apart the parts of a call may be, in milliseconds."""

_FIRST_WINDOW = 3_600_000  # milliseconds in which the newest or oldest calls are looked for first
_GROWTH = 8

_part = call_parts.c


def calls_in(begin: int, end: int) -> Subquery:
    """
    Select the calls whose first event log is in a range of time.

    Args:
        begin: Where it begins, in milliseconds since 1970.
        end: Where it ends.
    """
    near = _part.span.between(_span_of(begin - FAR_MS), _span_of(end + FAR_MS))
    hashed: ColumnElement[int] = func.reinterpretAsUInt64(_part.id)
    several = select(hashed).where(near).group_by(hashed).having(func.count() > 1)
    whole = select(
        _part.id, _part.first, _part.last_ms, _part.ended, _part.severity, _part.is_failed,
        _part.span,
    ).where(
        _part.span.between(_span_of(begin), _span_of(end)), hashed.not_in(several),
        *within(begin, end, element(_part.first, 1, Key())),
    )  # fmt: skip
    first = func.min(_part.first)
    put_together = (
        select(
            _part.id, first.label("first"), func.max(_part.last_ms), func.max(_part.ended),
            func.max(_part.severity), func.max(_part.is_failed), func.min(_part.span),
        )
        .where(near, hashed.in_(several))
        .group_by(_part.id)
    ).subquery()  # fmt: skip
    is_here = within(begin, end, element(put_together.c.first, 1, Key()))
    return union_all(whole, select(put_together).where(*is_here)).subquery()


def _span_of(time_ms: int) -> int:
    return min(max(time_ms // 1000, 0) // SPAN * SPAN, 2**32 - SPAN)


class CallColumns:
    """
    The columns of `calls_in`.

    Args:
        found: What it returned.
    """

    def __init__(self, found: Subquery) -> None:
        self.id, first, self.last_ms, ended, self.severity, self.is_failed, self.span = found.c
        self.position: ColumnElement[bytes] = element(first, 1, Key())
        self.first_ms = time_of(self.position)
        self.series_id: ColumnElement[int] = element(first, 2, BigInteger())
        self.ended: ColumnElement[bytes] = element(ended, 2, Key())
        self.has_ended: ColumnElement[bool] = self.ended != NO_KEY
        self.duration: ColumnElement[float] = element(ended, 3, Float())
        outcome: ColumnElement[int] = element(ended, 4, Integer())
        self.outcome = case((self.has_ended, outcome), else_=OUTCOMES.index(RUNNING))


def find_calls(
    connection: Connection, wanted: CallFilters, order: str, limit: int, end: CallEnd | None
) -> Sequence[StoredCall]:
    """
    Return the first calls in an order.
    """
    begin, until = wanted.names.range
    if order == "longest":
        return _details(connection, _page(connection, wanted, (begin, until), order, limit, end))
    found: list[Any] = []
    for window in _windows(connection, begin, until, order == "newest", end):
        found += _page(connection, wanted, window, order, limit - len(found), end)
        if len(found) == limit:
            break
    return _details(connection, found)


def _windows(
    connection: Connection, begin: int, until: int, is_newest: bool, end: CallEnd | None
) -> Iterator[tuple[int, int]]:
    """
    Yield ranges of time, in the order of a page, each longer than the one before.
    """
    bounds = _bounds(connection)
    if bounds is None:
        return
    begin, until = max(begin, bounds[0]), min(until, bounds[1])
    if end is not None:
        at = time_of_bytes(end.first)
        begin, until = (begin, min(until, at + 1)) if is_newest else (max(begin, at), until)
    length = _FIRST_WINDOW
    while begin < until:
        if is_newest:
            middle = max(begin, until - length)
            yield middle, until
            until = middle
        else:
            middle = min(until, begin + length)
            yield begin, middle
            begin = middle
        length *= _GROWTH


def _page(
    connection: Connection,
    wanted: CallFilters,
    window: tuple[int, int],
    order: str,
    limit: int,
    end: CallEnd | None,
) -> Sequence[Any]:
    call = CallColumns(calls_in(*window))
    by_name = in_series(connection, wanted.names.within(*window), call.series_id)
    if by_name is None:
        return []
    every: list[ColumnElement[bool]] = list(by_name)
    if wanted.outcomes:
        every.append(call.outcome.in_([OUTCOMES.index(one) for one in wanted.outcomes]))
    if wanted.min_duration is not None:
        every += [call.has_ended, call.duration >= wanted.min_duration]
    if wanted.max_duration is not None:
        every += [call.has_ended, call.duration <= wanted.max_duration]
    position = call.position
    ordering: list[Any] = [position.desc() if order == "newest" else position]
    if order == "longest":
        every.append(call.has_ended)
        ordering = [call.duration.desc(), position.desc()]
    if end is not None:
        after = literal(end.first, Key())
        if order == "longest":
            is_same = and_(call.duration == end.duration, position < after)
            every.append(or_(call.duration < end.duration, is_same))
        else:
            every.append(position < after if order == "newest" else position > after)
    statement = (
        select(
            call.id, position, call.series_id, call.last_ms, call.ended, call.duration,
            call.outcome, call.severity, call.span,
        )
        .where(*every)
        .order_by(*ordering)
        .limit(limit)
    )  # fmt: skip
    return connection.execute(statement, is_merged=False)


def _details(connection: Connection, found: Sequence[Any]) -> list[StoredCall]:
    """
    Add what only the calls of a page need: names, contexts, and numbers of event logs.
    """
    if not found:
        return []
    column = series.c
    names = {
        number: values
        for number, *values in connection.execute(
            select(
                column.id, column.service_name, column.entrypoint_name,
                column.entrypoint_protocol, column.caller,
            ).where(column.id.in_({one[2] for one in found}))
        )
    }  # fmt: skip
    ids = [bytes(one[0]) for one in found]
    contexts = {
        bytes(one): CallContext.read(decode_json(context))
        for one, context in connection.execute(
            select(_part.id, _part.context).where(
                _part.span.in_({one[8] for one in found}), _part.id.in_(ids)
            )
        )
    }
    row = event_logs.c
    first = min(bytes(one[1]) for one in found)
    last = first_at(max(one[3] for one in found) + 1)
    numbers = {
        bytes(one): number
        for one, number in connection.execute(
            select(row.call, func.count())
            .where(row.position >= first, row.position < last, row.call.in_(ids))
            .group_by(row.call)
        )
    }
    calls = []
    for id_, position, series_id, _, ended, duration, outcome, severity, _ in found:
        service, entrypoint, protocol, caller = names[series_id]
        has_ended = bytes(ended) != NO_KEY
        calls.append(
            StoredCall(
                bytes(position),
                time_of_bytes(bytes(position)),
                bytes(ended) if has_ended else None,
                duration if has_ended else None,
                outcome,
                severity,
                numbers.get(bytes(id_), 0),
                contexts[bytes(id_)],
                service,
                entrypoint,
                protocol,
                caller,
            )
        )
    return calls


def count_links(
    connection: Connection, filters: Filters, limit: int
) -> list[tuple[str | None, str, int, int, int]]:
    """
    Count the calls between services, by names and times alone.
    """
    call = CallColumns(_calls_of_range(connection, filters))
    by_name = in_series(connection, filters, call.series_id)
    if by_name is None:
        return []
    some = (
        select(
            call.series_id.label("series_id"),
            func.count().label("number"),
            func.sum(call.is_failed).label("failures"),
        )
        .where(*by_name)
        .group_by("series_id")
        .subquery()
    )
    row = event_logs.c
    of_rows = in_series(connection, filters, row.series_id) or ()
    begin, end = filters.range
    counted = (
        select(row.series_id, func.count().label("number"))
        .where(
            row.position >= literal(first_at(begin), Key()),
            row.position < literal(first_at(end), Key()),
            *of_rows,
        )
        .group_by(row.series_id)
        .subquery()
    )
    calls = {
        (caller, service): (int(number), int(failures))
        for caller, service, number, failures in connection.execute(
            _by_pair(some, some.c.number, some.c.failures), is_merged=False
        )
    }
    rows = {
        (caller, service): int(number)
        for caller, service, number in connection.execute(_by_pair(counted, counted.c.number))
    }
    found = [(*pair, *numbers, rows.get(pair, 0)) for pair, numbers in calls.items()]
    found.sort(key=lambda one: (-one[2], one[0] is not None, one[0] or "", one[1]))
    return found[:limit]


def _by_pair(counted: Subquery, *numbers: ColumnElement[int]) -> Select[Any]:
    """
    Sum numbers by caller and service in the place of series.
    """
    named = _named()
    pair = (named.c.caller, named.c.service_name)
    return (
        select(*pair, *map(func.sum, numbers))
        .join_from(counted, named, named.c.id == counted.c.series_id)
        .group_by(*pair)
    )


def _named(*conditions: ColumnElement[bool]) -> Subquery:
    """
    Select the series of calls, each once.
    """
    column = series.c
    names = (column.id, column.service_name, column.entrypoint_name, column.caller)
    return select(*names).where(column.in_call == 1, *conditions).distinct().subquery()


def _calls_of_range(connection: Connection, filters: Filters) -> Subquery:
    begin, end = filters.range
    bounds = _bounds(connection) or (begin, end)
    return calls_in(begin, min(end, bounds[1]))


def _bounds(connection: Connection) -> tuple[int, int] | None:
    """
    Return the time of the first event log, and one after that of the last; None if there is none.
    """
    day = series_days.c
    statement = select(func.min(day.first), func.max(day.last), func.count())
    ((first, last, number),) = connection.execute(statement)
    if not number:
        return None
    return time_of_bytes(bytes(first)), time_of_bytes(bytes(last)) + 1


def count_by_entrypoint(
    connection: Connection, filters: Filters, bucket_ms: int | None, *, is_by_duration: bool
) -> Iterator[tuple[str, str | None, int, int, int]]:
    """
    Count calls by service, entrypoint, span of time, and either outcome or bucket of duration.
    """
    call = CallColumns(_calls_of_range(connection, filters))
    span: Any = literal(0, Integer()) if bucket_ms is None else _floor(call.first_ms, bucket_ms)
    kind: Any = _bucket_of(call.duration) if is_by_duration else call.outcome
    counted = select(
        call.series_id.label("series_id"), span.label("begin"), kind.label("kind"),
        func.count().label("number"),
    )  # fmt: skip
    if is_by_duration:
        counted = counted.where(call.has_ended)
    some = counted.group_by("series_id", "begin", "kind").subquery()
    named = _named(*name_conditions(filters))
    group = (named.c.service_name, named.c.entrypoint_name, some.c.begin, some.c.kind)
    statement: Select[Any] = (
        select(*group, func.sum(some.c.number))
        .join_from(some, named, named.c.id == some.c.series_id)
        .group_by(*group)
    )
    found = connection.execute(statement, is_merged=False)
    for service, entrypoint, begin, one, number in found:
        yield service, entrypoint, int(begin), int(one), int(number)


def _floor(time_ms: ColumnElement[int], milliseconds: int) -> ColumnElement[int]:
    return time_ms - time_ms % milliseconds


def _bucket_of(duration: ColumnElement[float]) -> ColumnElement[int]:
    longest = func.greatest(duration, SHORTEST)
    bucket: ColumnElement[int] = func.toInt32(
        func.ceil(func.log2(longest) * BUCKETS_PER_DOUBLING), type_=Integer()
    )
    return bucket
