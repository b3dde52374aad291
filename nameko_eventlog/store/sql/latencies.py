"""
Counting calls and their durations, for latencies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, func, literal, select

from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.sql import statements
from nameko_eventlog.store.sql.counting import Piece, cut, first_within, united
from nameko_eventlog.store.sql.functions import BucketOf
from nameko_eventlog.store.sql.schema import call_counts, calls, durations, series
from nameko_eventlog.store.summaries import CALL_SPANS


def count_outcomes(
    connection: Connection, filters: Filters, bucket_ms: int | None
) -> Iterator[Any]:
    """
    Count calls by service, entrypoint, span of time and outcome.
    """
    pieces = _pieces(filters, bucket_ms)
    yield from connection.execute(_outcomes(connection, filters, pieces, bucket_ms))


def count_durations(
    connection: Connection, filters: Filters, bucket_ms: int | None
) -> Iterator[Any]:
    """
    Count durations by service, entrypoint, span of time and bucket.
    """
    pieces = _pieces(filters, bucket_ms)
    for statement in _durations(connection, filters, pieces, bucket_ms):
        yield from connection.execute(statement)


def _pieces(filters: Filters, bucket_ms: int | None) -> Sequence[Piece]:
    length = bucket_ms or 0  # a multiple of every span
    spans = [span for span in CALL_SPANS if length % (span * 1000) == 0]
    return cut(*filters.range, spans)


def _span(begin_ms: ColumnElement[int], bucket_ms: int | None) -> ColumnElement[int]:
    if bucket_ms is None:
        return begin_ms * 0  # of a plain 0, PostgreSQL would think that it is a column's number
    return begin_ms - begin_ms % literal(bucket_ms, BigInteger)


def _outcomes(
    connection: Connection, filters: Filters, pieces: Sequence[Piece], bucket_ms: int | None
) -> Select[Any]:
    """
    Count calls by group and outcome.
    """
    counted = united([_outcomes_in(piece) for piece in pieces])
    names = statements.name_conditions(connection.dialect, filters)
    span = _span(counted.c.begin_ms, bucket_ms).label("span")
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
            row.span == piece.span, row.begin_ms >= piece.begin, row.begin_ms < piece.end
        )
    one = literal(1, BigInteger).label("number")
    return select(call.first_ms.label("begin_ms"), call.series_id, call.outcome, one).where(
        *first_within(piece.begin, piece.end)
    )


def _durations(
    connection: Connection, filters: Filters, pieces: Sequence[Piece], bucket_ms: int | None
) -> Iterator[Select[Any]]:
    """
    Count durations by group and bucket.
    """
    for piece in pieces:
        if piece.span:
            row = durations.c
            group = (row.service_name, row.entrypoint_name, _span(row.begin_ms, bucket_ms))
            names = [
                row[name].in_(filters.columns[name])
                for name in ("service_name", "entrypoint_name")
                if name in filters.columns
            ]
            statement = select(*group, row.bucket, func.sum(row.number)).where(
                row.span == piece.span,
                row.begin_ms >= piece.begin,
                row.begin_ms < piece.end,
                *names,
            )
            yield statement.group_by(*group, row.bucket)
            continue
        span = _span(calls.c.first_ms, bucket_ms).label("span")
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
