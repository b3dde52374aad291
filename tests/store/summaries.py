"""
Summaries that are computed from the stored event logs, to compare the tables with.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import select

from nameko_eventlog.store.databases import open_engine
from nameko_eventlog.store.deleting import read_logged
from nameko_eventlog.store.inserting import SUMMARY, read_summary
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.schema import (
    call_counts,
    calls,
    counts,
    durations,
    event_logs,
    series,
)
from nameko_eventlog.store.summaries import Changes, summarize


def stored_summaries(uri: str) -> dict[str, Any]:
    """
    Return what the tables of summaries have, without counts of 0.
    """
    engine = open_engine(uri)
    with engine.begin() as connection:
        found: dict[str, Any] = {
            table.name: {
                tuple(key): number for *key, number in connection.execute(select(table)) if number
            }
            for table in (counts, call_counts, durations)
        }
        found["calls"] = {
            number: read_summary(list(values))
            for number, *values in connection.execute(select(calls.c.id, *SUMMARY))
        }
    engine.dispose()
    return found


def computed_summaries(uri: str) -> dict[str, Any]:
    """
    Compute the same from the event logs.
    """
    engine = open_engine(uri)
    changes = Changes()
    of_call: dict[int, Any] = defaultdict(list)
    with engine.begin() as connection:
        numbers = set()
        for position, series_id, call in connection.execute(
            select(event_logs.c.position, event_logs.c.series_id, event_logs.c.call)
        ):
            changes.count(time_of(position), series_id)
            numbers.add(call)
        for call, logged in read_logged(connection, sorted(numbers - {None})):
            of_call[call].append(logged)
        names = {
            number: (service, entrypoint or "", in_call)
            for number, service, entrypoint, in_call in connection.execute(
                select(
                    series.c.id, series.c.service_name, series.c.entrypoint_name, series.c.in_call
                )
            )
        }
    engine.dispose()
    summaries = {call: summarize(None, some) for call, some in of_call.items()}
    for one in summaries.values():
        changes.count_call(one)
    by_name: dict[tuple[Any, ...], int] = defaultdict(int)
    for (begin, series_id, bucket), number in changes.durations.items():
        service, entrypoint, in_call = names[series_id]
        if in_call:
            by_name[begin, service, entrypoint, bucket] += number
    return {
        "counts": dict(changes.counts),
        "call_counts": dict(changes.calls),
        "durations": dict(by_name),
        "calls": summaries,
    }
