"""
Summaries as they would be computed now, compared with those that are stored.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, func, select

from nameko_eventlog.store.clickhouse import connections
from nameko_eventlog.store.clickhouse import schema as clickhouse
from nameko_eventlog.store.clickhouse.bodies import WHOLE, Bodies, stored_row
from nameko_eventlog.store.clickhouse.calls import CallColumns, calls_in
from nameko_eventlog.store.packing import CallContext, call_key
from nameko_eventlog.store.positions import digest, time_of
from nameko_eventlog.store.sql.deleting import read_logged
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.inserting import SUMMARY, read_summary
from nameko_eventlog.store.sql.schema import (
    call_counts,
    calls,
    counts,
    dropped_days,
    durations,
    event_logs,
    message_ids,
    series,
)
from nameko_eventlog.store.summaries import CallSummary, Changes, Logged, summarize
from tests.store.tables import is_clickhouse


def check_summaries(database: str) -> None:
    """
    Assert that the summaries are those of the event logs that are stored.
    """
    if is_clickhouse(database):
        _check_clickhouse(database)
        return
    engine = open_engine(database)
    try:
        with engine.begin() as connection:
            assert [] == connection.execute(select(dropped_days)).all()
            _check(connection)
    finally:
        engine.dispose()


def _check(connection: Connection) -> None:
    row = event_logs.c
    odd = select(row.message_id, row.position).where(row.message_id.is_not(None))
    assert set(connection.execute(odd)) == set(connection.execute(select(message_ids)))
    changes = Changes()
    numbers: set[int] = set()
    for position, series_id, call in connection.execute(
        select(row.position, row.series_id, row.call)
    ):
        changes.count(time_of(position), series_id)
        numbers.update([] if call is None else [call])
    logged: dict[int, list[Logged]] = {number: [] for number in numbers}
    for number, one in read_logged(connection, sorted(numbers), None, None):
        logged[number].append(one)
    expected = {number: summarize(None, some) for number, some in logged.items()}
    for summary in expected.values():
        changes.count_call(summary)

    assert expected == _stored_calls(connection)
    names = {
        number: (service, entrypoint or "")
        for number, service, entrypoint in connection.execute(
            select(series.c.id, series.c.service_name, series.c.entrypoint_name).where(
                series.c.in_call
            )
        )
    }
    named: Counter[Any] = Counter()
    for (span, begin, series_id, bucket), number in changes.durations.items():
        if series_id in names:
            named[(span, begin, *names[series_id], bucket)] += number
    for table, computed in (
        (counts, changes.counts),
        (call_counts, changes.calls),
        (durations, named),
    ):
        stored = {tuple(key): number for *key, number in connection.execute(select(table))}
        assert computed == {key: number for key, number in stored.items() if number}


def _stored_calls(connection: Connection) -> dict[int, CallSummary]:
    found = connection.execute(select(calls.c.id, *SUMMARY))
    return {number: read_summary(values) for number, *values in found}


def _check_clickhouse(database: str) -> None:
    connection = connections.Connection(database)
    row, part, day = clickhouse.event_logs.c, clickhouse.call_parts.c, clickhouse.series_days.c
    found = [stored_row(values) for values in connection.execute(select(*WHOLE))]
    odd = sorted((one.message_id, one.position) for one in found if one.message_id)
    named = connection.execute(select(*clickhouse.message_ids.c[:2]))
    assert odd == sorted({(message_id, bytes(position)) for message_id, position in named})
    assert len(found) == len({one.position for one in found})

    series = {
        number: values
        for number, *values in connection.execute(
            select(
                clickhouse.series.c.id, clickhouse.series.c.event_type, clickhouse.series.c.level
            )
        )
    }
    logged: dict[bytes, list[Logged]] = {}
    keys: dict[bytes, tuple[bytes, ...]] = {}
    days: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    bodies = Bodies(connection, found)
    for one in found:
        body = bodies.body(one)
        of_day = (time_of(one.position) // clickhouse.DAY_MS, one.series_id)
        known = days.get(of_day, (one.position, one.position))
        days[of_day] = (min(*known, one.position), max(*known, one.position))
        context = CallContext.of(body)
        call = clickhouse.NO_KEY
        if context is not None:
            call_id, stack = context.keys
            call = digest((call_id + stack).hex())
            origin = clickhouse.NO_KEY if context.origin is None else call_key(context.origin)
            keys[call] = (call_id, origin)
        assert call == one.call
        if context is None:
            continue
        event_type, level = series[one.series_id]
        logged.setdefault(call, []).append(
            Logged.of(
                {
                    "body": {**body, "event_type": event_type}, "event_type": event_type,
                    "level": level, "position": one.position, "time_ms": time_of(one.position),
                    "series_id": one.series_id,
                }
            )
        )  # fmt: skip
    expected = {call: summarize(None, some) for call, some in logged.items()}
    assert expected == _clickhouse_calls(connection)
    stored_keys = connection.execute(select(part.id, part.call_key, part.origin_key))
    assert {(call, *some) for call, some in keys.items()} == {
        tuple(map(bytes, some)) for some in stored_keys
    }
    assert days == {
        (number, series_id): (bytes(first), bytes(last))
        for number, series_id, first, last in connection.execute(
            select(day.day, day.series_id, day.first, day.last)
        )
    }
    ended = connection.execute(select(row.position).where(row.ending != 0))
    assert {bytes(position) for (position,) in ended} == {
        one.position for some in logged.values() for one in some if one.duration is not None
    }
    connection.close()


def _clickhouse_calls(connection: connections.Connection) -> dict[bytes, CallSummary]:
    """
    Return the calls as readers put them together, with the numbers of their event logs.
    """
    row = clickhouse.event_logs.c
    numbers = {
        bytes(call): number
        for call, number in connection.execute(select(row.call, func.count()).group_by(row.call))
    }
    found = calls_in(0, 2**48)
    call = CallColumns(found)
    is_captured = clickhouse.element(found.c[3], 1)
    statement = select(
        call.id, call.series_id, call.position, call.first_ms, call.last_ms, call.has_ended,
        call.ended, is_captured, call.duration, call.outcome, call.severity, call.is_failed,
    )  # fmt: skip
    return {
        bytes(id_): CallSummary(
            series_id,
            bytes(first),
            first_ms,
            last_ms,
            bytes(ended) if has_ended else None,
            bool(has_ended and is_captured_),
            duration if has_ended else None,
            outcome,
            severity,
            bool(is_failed),
            numbers[bytes(id_)],
        )
        for (
            id_, series_id, first, first_ms, last_ms, has_ended, ended, is_captured_, duration,
            outcome, severity, is_failed,
        ) in connection.execute(statement)
    }  # fmt: skip
