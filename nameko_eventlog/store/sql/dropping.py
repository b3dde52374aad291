"""
Dropping the event logs of a whole day, and then correcting the summaries.

The event logs go at once, with their partition. The summaries of a day's calls, which may be
millions, are corrected in steps afterwards. Until that is done, the table ``dropped_days`` has the
day, so that another process can go on with it. A step computes a part of the summaries from the
event logs that are there, so it does not matter what is written or deleted between two steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql

from nameko_eventlog.store.expiry import Expiry
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.sql import bulk, partitions
from nameko_eventlog.store.sql.deleting import subtract, summarize_again
from nameko_eventlog.store.sql.expiry import HOUR_MS, count_by_series, read_expiry
from nameko_eventlog.store.sql.inserting import lock_writers, write_changes
from nameko_eventlog.store.sql.partitions import DAY_MS
from nameko_eventlog.store.sql.schema import calls, counts, dropped_days, event_logs, message_ids
from nameko_eventlog.store.sql.statements import between
from nameko_eventlog.store.summaries import COUNT_SPANS, Changes


CALLS_AT_ONCE = 2_000
"""How many calls a transaction corrects, at most."""

Run = Callable[[Callable[[Connection], Any]], Any]
"""Runs a function in a transaction, and returns its result."""


def drop_days(run: Run, expiry: Expiry) -> Iterator[Counter[int]]:
    """
    Drop the days that have nothing to keep.

    Args:
        run: Runs a function in a transaction.
        expiry: Says what to keep.

    Returns:
        An iterator: how many event logs a day had, by rule.

    Raises:
        InUse: Others use the tables now.
    """
    for day in run(partitions.days_of):
        if not expiry.times or (day + 1) * DAY_MS > expiry.times[-1]:
            return
        if run(partial(_expired, expiry=expiry, day=day)) is not None:
            number = run(partial(_drop_day, expiry=expiry, day=day))
            if number is not None:
                yield number


def _drop_day(connection: Connection, expiry: Expiry, day: int) -> Counter[int] | None:
    with partitions.alone(connection):
        if day not in partitions.days_of(connection):  # another process was faster
            return None
        current = read_expiry(connection, expiry.rules, expiry.now)
        number = _expired(connection, current, day)
        if number is None:
            return None
        partitions.drop(connection, day)
    if number:
        values = postgresql.insert(dropped_days).values(begin_ms=day * DAY_MS)
        connection.execute(values.on_conflict_do_nothing())
    return number


def _expired(connection: Connection, expiry: Expiry, day: int) -> Counter[int] | None:
    """
    Return how many event logs a day has, by rule; None if there are any to keep.
    """
    end = (day + 1) * DAY_MS
    number = count_by_series(connection, day * DAY_MS, end)
    if any(expiry.before_of(series_id) < end for series_id in number):
        return None
    return expiry.by_rule(number)


def correct_summaries(run: Run) -> Iterator[None]:
    """
    Correct the summaries of the days that were dropped, in steps.

    Args:
        run: Runs a function in a transaction.

    Returns:
        An iterator, which runs a transaction for each step.
    """
    days = run(lambda connection: connection.scalars(select(dropped_days.c.begin_ms)).all())
    for begin in sorted(days):
        end = begin + DAY_MS
        last: bytes | None = bytes(16)
        while last is not None:
            last = run(partial(_correct_calls, begin=begin, end=end, after=last))
            yield
        for some in bulk.portions(run(partial(_calls_across, begin=begin))):
            run(partial(_correct, lost=dict.fromkeys(some, 0)))
            yield
        for hour in range(begin, end, HOUR_MS):
            run(partial(_correct_counts, begin=hour))
            yield
        is_done = dropped_days.c.begin_ms == begin
        run(partial(Connection.execute, statement=delete(dropped_days).where(is_done)))


def _correct_calls(connection: Connection, begin: int, end: int, after: bytes) -> bytes | None:
    """
    Correct the calls that began on the day.

    Returns:
        Where the last one began; None if there are no more.
    """
    lock_writers(connection)
    column, row = calls.c, event_logs.c
    found = connection.execute(
        select(column.id, column.first, column.last_ms)
        .where(*between(begin, end, column.first), column.first > after)
        .order_by(column.first)
        .limit(CALLS_AT_ONCE)
    ).all()
    if not found:
        return None
    # they came after the day was dropped
    late = set(connection.scalars(select(row.call).where(*between(begin, end)).distinct()))
    lost = {
        number: inf if last_ms < end and number not in late else 0 for number, _, last_ms in found
    }
    _correct(connection, lost)
    return bulk.as_key(found[-1].first)


def _calls_across(connection: Connection, begin: int) -> list[int]:
    """
    Return the calls that began before the day, and did not end before it.
    """
    column = calls.c
    return list(
        connection.scalars(
            select(column.id).where(*between(None, begin, column.first), column.last_ms >= begin)
        )
    )


def _correct(connection: Connection, lost: dict[int, float]) -> None:
    lock_writers(connection)
    changes = Changes()
    summarize_again(connection, lost, changes)
    subtract(connection, changes)


def _correct_counts(connection: Connection, begin: int) -> None:
    """
    Count the event logs of an hour, and delete the message ids of those that are gone.
    """
    lock_writers(connection)
    end = begin + HOUR_MS
    column, row = counts.c, event_logs.c
    for span in COUNT_SPANS:
        connection.execute(
            delete(counts).where(
                column.span == span, column.begin_ms >= begin, column.begin_ms < end
            )
        )
    is_there = select(row.position).where(row.position == message_ids.c.position).exists()
    connection.execute(
        delete(message_ids).where(*between(begin, end, message_ids.c.position), ~is_there)
    )
    changes = Changes()
    for position, series_id in connection.execute(
        select(row.position, row.series_id).where(*between(begin, end))
    ):
        changes.count(time_of(position), series_id)
    writes = bulk.Writes(connection)
    write_changes(connection, changes, writes)
    writes.run()
