"""
Latencies: how many calls there were, how many failed, and how long they took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, func, literal, select

from nameko_eventlog.store import statements
from nameko_eventlog.store.answers import Latency
from nameko_eventlog.store.counting import Piece, cut, first_within, range_of, united
from nameko_eventlog.store.outcomes import EXPECTED, FAILED, OUTCOMES
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.schema import call_counts, calls, durations, series
from nameko_eventlog.store.sql_functions import BucketOf
from nameko_eventlog.store.summaries import CALL_SPAN, duration_in
from nameko_eventlog.store.times import format_time, now_ms


PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
"""The shares of calls that are at most as long."""

Group = tuple[str, str | None, int]
"""A service, an entrypoint, and the beginning of a span of time in milliseconds since 1970."""


@dataclass(slots=True)
class _Numbers:
    """
    How many calls of a group had each outcome, and a duration in each bucket.
    """

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    buckets: dict[int, int] = field(default_factory=lambda: defaultdict(int))


def find_latencies(
    connection: Connection, filters: Filters, bucket: int | None, limit: int
) -> list[Latency]:
    """
    Return the latencies of entrypoints, those with the most calls first; of each by time.

    Args:
        connection: To the database.
        filters: Which services and entrypoints, and the range.
        bucket: The length of a span of time, in seconds; None for one that is the whole range.
        limit: How many entrypoints, at most.
    """
    begin, end = range_of(filters)
    spans = [CALL_SPAN] if bucket is None or bucket % CALL_SPAN == 0 else []
    pieces = cut(begin, end, spans)
    numbers: dict[Group, _Numbers] = defaultdict(_Numbers)
    for *group, outcome, many in connection.execute(
        _outcomes(connection, filters, pieces, bucket)
    ):
        numbers[_group(group)].outcomes[OUTCOMES[outcome]] += int(many)
    for statement in _durations(connection, filters, pieces, bucket):
        for *group, one, many in connection.execute(statement):
            numbers[_group(group)].buckets[int(one)] += int(many)
    elapsed = min(end, max(now_ms(), begin + 1)) - begin
    return _answers(numbers, bucket, elapsed, limit)


def _group(values: Sequence[Any]) -> Group:
    service, entrypoint, begin = values
    return service, entrypoint or None, int(begin)


def _span(begin_ms: ColumnElement[int], bucket: int | None) -> ColumnElement[int]:
    if bucket is None:
        return begin_ms * 0  # of a plain 0, PostgreSQL would think that it is a column's number
    return begin_ms - begin_ms % literal(bucket * 1000, BigInteger)


def _outcomes(
    connection: Connection, filters: Filters, pieces: Sequence[Piece], bucket: int | None
) -> Select[Any]:
    """
    Count calls by group and outcome.
    """
    counted = united([_outcomes_in(piece) for piece in pieces])
    names = statements.name_conditions(connection.dialect, filters)
    span = _span(counted.c.begin_ms, bucket).label("span")
    group = (series.c.service_name, series.c.entrypoint_name, span)
    return (
        select(*group, counted.c.outcome, func.sum(counted.c.number))
        .join_from(counted, series, series.c.id == counted.c.series_id)
        .where(series.c.in_call, *names)
        .group_by(*group, counted.c.outcome)
    )


def _outcomes_in(piece: Piece) -> Select[Any]:
    row, call = call_counts.c, calls.c
    if piece.span:
        return select(row.begin_ms, row.series_id, row.outcome, row.number).where(
            row.begin_ms >= piece.begin, row.begin_ms < piece.end
        )
    one = literal(1, BigInteger).label("number")
    return select(call.first_ms.label("begin_ms"), call.series_id, call.outcome, one).where(
        *first_within(piece.begin, piece.end)
    )


def _durations(
    connection: Connection, filters: Filters, pieces: Sequence[Piece], bucket: int | None
) -> Iterator[Select[Any]]:
    """
    Count durations by group and bucket.
    """
    for piece in pieces:
        if piece.span:
            row = durations.c
            group = (row.service_name, row.entrypoint_name, _span(row.begin_ms, bucket))
            names = [
                row[name].in_(filters.columns[name])
                for name in ("service_name", "entrypoint_name")
                if name in filters.columns
            ]
            in_piece = (row.begin_ms >= piece.begin, row.begin_ms < piece.end, *names)
            statement = select(*group, row.bucket, func.sum(row.number)).where(*in_piece)
            yield statement.group_by(*group, row.bucket)
            continue
        span = _span(calls.c.first_ms, bucket).label("span")
        own = (series.c.service_name, series.c.entrypoint_name, span)
        number = BucketOf(calls.c.duration).label("bucket")
        yield (
            select(*own, number, func.count())
            .join_from(calls, series, series.c.id == calls.c.series_id)
            .where(
                calls.c.duration.is_not(None),
                series.c.in_call,
                *first_within(piece.begin, piece.end),
                *statements.name_conditions(connection.dialect, filters),
            )
            .group_by(*own, number)
        )


def _answers(
    numbers: Mapping[Group, _Numbers], bucket: int | None, milliseconds: int, limit: int
) -> list[Latency]:
    seconds = milliseconds / 1000 if bucket is None else float(bucket)
    of_entrypoint: dict[tuple[str, str | None], list[Latency]] = defaultdict(list)
    for (service, entrypoint, begin), one in sorted(numbers.items(), key=lambda pair: pair[0][2]):
        many = sum(one.outcomes.values())
        if not many:
            continue
        percentiles = {name: _percentile(one.buckets, at) for name, at in PERCENTILES.items()}
        of_entrypoint[service, entrypoint].append(
            {
                "service_name": service,
                "entrypoint_name": entrypoint,
                "time": None if bucket is None else format_time(begin),
                "calls": many,
                "rate": many / seconds,
                "failures": one.outcomes[FAILED],
                "expected": one.outcomes[EXPECTED],
                "p50": percentiles["p50"],
                "p95": percentiles["p95"],
                "p99": percentiles["p99"],
            }
        )
    busiest = sorted(
        of_entrypoint.items(),
        key=lambda pair: (-sum(one["calls"] for one in pair[1]), pair[0][0], pair[0][1] or ""),
    )
    return [one for _, some in busiest[:limit] for one in some]


def _percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """
    Return a duration that *share* of all do not exceed.
    """
    total = sum(buckets.values())
    if total <= 0:
        return None
    so_far = 0
    for bucket in sorted(buckets):
        so_far += buckets[bucket]
        if so_far >= share * total:
            break
    return float(f"{duration_in(bucket):.3g}")
