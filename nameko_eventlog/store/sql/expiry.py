"""
Which event logs are too old now, by the rules of retention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from nameko_eventlog.store.expiry import QUIET_MS, Expiry, Plan
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.sql.schema import counts, event_logs, rejects, series
from nameko_eventlog.store.summaries import COUNT_SPANS, EVERY_SERIES


HOUR_MS = 3_600_000


def count_by_series(connection: Connection, begin: int, end: int) -> Counter[int]:
    """
    Return how many event logs each series has in a time, from the counts.

    Args:
        connection: To the database.
        begin: Where it begins, in milliseconds since 1970: a full hour.
        end: Where it ends: a full minute.
    """
    found: Counter[int] = Counter()
    minute, hour = sorted(COUNT_SPANS)
    whole = end // HOUR_MS * HOUR_MS
    column = counts.c
    for span, since, until in ((hour, begin, whole), (minute, whole, end)):
        statement = (
            select(column.series_id, func.sum(column.number))
            .where(
                column.span == span,
                column.begin_ms >= since,
                column.begin_ms < until,
                column.series_id != EVERY_SERIES,
            )
            .group_by(column.series_id)
        )
        for series_id, number in connection.execute(statement):
            found[series_id] += int(number)
    return +found


def read_expiry(connection: Connection, rules: Sequence[Rule], now: int) -> Expiry:
    """
    Apply *rules* to the series of a database. Only full minutes have counts.
    """
    column = series.c
    names = select(column.id, column.service_name, column.event_type, column.level)
    found = connection.execute(names)
    return Expiry.of(rules, now, (tuple(one) for one in found), min(COUNT_SPANS) * 1000)


@dataclass(frozen=True)
class Phase:
    """
    A part of what is deleted: what some series have in a time.

    Args:
        since: Where the time begins, in milliseconds since 1970.
        before: Where it ends.
        series: The series.
        by_series: Whether to search the series one after the other, because most of what is from
            that time belongs to other series.
    """

    since: int
    before: int
    series: Sequence[int]
    by_series: bool


def make_plan(connection: Connection, rules: Sequence[Rule], now: int) -> Plan:
    """
    Find out what is too old.

    Args:
        connection: To the database.
        rules: The rules.
        now: The time of the clock, in milliseconds since 1970, which may be wrong: a day after the
            newest event log is the latest time that counts.
    """
    position = event_logs.c.position
    last = connection.scalar(select(position).order_by(position.desc()).limit(1))
    newest = None if last is None else time_of(last)
    if newest is None:
        newest = connection.scalar(select(func.max(rejects.c.rejected_ms)))
    if newest is not None:
        now = min(now, newest + QUIET_MS)
    expiry = read_expiry(connection, rules, now)
    number: Counter[int] = Counter()
    for before in expiry.times:
        found = count_by_series(connection, 0, before)
        number += expiry.by_rule(
            {one: found[one] for one in found if expiry.before_of(one) == before}
        )
    total = select(func.sum(counts.c.number)).where(
        counts.c.span == max(COUNT_SPANS), counts.c.series_id == EVERY_SERIES
    )
    every = connection.scalar(total) or 0
    return Plan(expiry, number, number.total() * 2 > every)


def make_phase(connection: Connection, expiry: Expiry, since: int, before: int) -> Phase:
    """
    Select the series that are deleted from before a time.
    """
    found = count_by_series(connection, since, before)
    old = [series_id for series_id in found if expiry.before_of(series_id) >= before]
    number = sum(found[series_id] for series_id in old)
    return Phase(since, before, old, by_series=number * 2 < found.total())
