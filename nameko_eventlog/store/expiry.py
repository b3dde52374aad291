"""
Which event logs are too old now, by the rules of retention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, func, select

from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.rules import Rule, choose
from nameko_eventlog.store.schema import counts, event_logs, rejects, series
from nameko_eventlog.store.summaries import COUNT_SPANS


QUIET_MS = 86_400_000
"""How long after the newest event log the clock alone is trusted: a day."""

HOUR_MS = 3_600_000

_MILLISECOND = timedelta(milliseconds=1)


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
            .where(column.span == span, column.begin_ms >= since, column.begin_ms < until)
            .group_by(column.series_id)
        )
        for series_id, number in connection.execute(statement):
            found[series_id] += int(number)
    return +found


@dataclass(frozen=True)
class Expiry:
    """
    From before which time each series is deleted.

    Args:
        rules: The rules.
        now: The time, in milliseconds since 1970.
        rule_of: The number of the rule of each series that one of them selects.
    """

    rules: Sequence[Rule]
    now: int
    rule_of: Mapping[int, int]

    @classmethod
    def read(cls, connection: Connection, rules: Sequence[Rule], now: int) -> Expiry:
        """
        Apply *rules* to the series of a database.
        """
        first = choose(rules)
        column = series.c
        names = select(column.id, column.service_name, column.event_type, column.level)
        found = ((number, first(*names)) for number, *names in connection.execute(names))
        return cls(rules, now, {number: rule for number, rule in found if rule is not None})

    def before_by(self, rule: int) -> int:
        """
        Return from before which time a rule deletes: a full minute, in milliseconds since 1970; 0
        for never.

        Only full minutes have counts.
        """
        days = self.rules[rule].days
        if days is None:
            return 0
        before = self.now - timedelta(days=days) // _MILLISECOND
        return max(before - before % (min(COUNT_SPANS) * 1000), 0)

    def before_of(self, series_id: int) -> int:
        """
        Return from before which time a series is deleted; 0 for never.
        """
        rule = self.rule_of.get(series_id)
        return 0 if rule is None else self.before_by(rule)

    @property
    def times(self) -> list[int]:
        """
        The times from before which rules delete, in order.
        """
        return sorted({before for at in range(len(self.rules)) if (before := self.before_by(at))})

    def by_rule(self, number: Mapping[int, int]) -> Counter[int]:
        """
        Return numbers of event logs by rule instead of series.
        """
        found: Counter[int] = Counter()
        for series_id, one in number.items():
            found[self.rule_of[series_id]] += one
        return found


@dataclass(frozen=True)
class Plan:
    """
    What retention would delete now.

    Args:
        expiry: From before which times.
        number: How many event logs that is, by rule.
        is_most: Whether that is more than half of all.
    """

    expiry: Expiry
    number: Counter[int]
    is_most: bool


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
    expiry = Expiry.read(connection, rules, now)
    number: Counter[int] = Counter()
    for before in expiry.times:
        found = count_by_series(connection, 0, before)
        number += expiry.by_rule(
            {one: found[one] for one in found if expiry.before_of(one) == before}
        )
    total = select(func.sum(counts.c.number)).where(counts.c.span == max(COUNT_SPANS))
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
