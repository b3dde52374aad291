"""
Summaries as they would be computed now, compared with those that are stored.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection, select

from nameko_eventlog.store.positions import time_of
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


def check_summaries(database: str) -> None:
    """
    Assert that the summaries are those of the event logs that are stored.
    """
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
    for (begin, series_id, bucket), number in changes.durations.items():
        if series_id in names:
            named[(begin, *names[series_id], bucket)] += number
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
