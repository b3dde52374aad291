"""
Deleting old event logs from ClickHouse, day by day.

The rows of a day are deleted first, and then its summaries are made again from those that are
left. The day is recorded before, so that this is finished later if it is interrupted.

A day of which nothing is kept goes at once, by way of another table: what has arrived in that
moment, and is to be kept, is put back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from sqlalchemy import func, select

from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.rebuilding import date_of, in_day, rebuild
from nameko_eventlog.store.clickhouse.schema import (
    DAY_MS,
    event_logs,
    message_ids,
    rejects,
    repairs,
    series,
    series_days,
)
from nameko_eventlog.store.expiry import QUIET_MS, Expiry, Plan
from nameko_eventlog.store.positions import first_at, time_of
from nameko_eventlog.store.rules import Rule


_column = series_days.c


class ClickHousePurger:
    """
    Implements `backends.Purger`.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._connection = Connection(uri)

    def plan(self, rules: Sequence[Rule], now: int) -> Plan:
        """
        Find out what is too old. What a rule deletes ends with a day.
        """
        with self._connection.errors():
            last = self._connection.scalar(select(func.max(_column.last)))
            newest = time_of(bytes(last)) if last and any(last) else None
            if newest is None:
                newest = self._connection.scalar(select(func.max(rejects.c.rejected_ms))) or None
            if newest is not None:
                now = min(now, newest + QUIET_MS)
            expiry = self._expiry(rules, now)
            number: Counter[int] = Counter()
            for day in self._days_before(expiry):
                number += expiry.by_rule(self._expired(expiry, day))
            total = self._connection.scalar(select(func.count()).select_from(event_logs)) or 0
        return Plan(expiry, number, number.total() * 2 > total)

    def correct(self) -> Iterator[Counter[int]]:
        """
        Make the summaries again of days whose rows were deleted.
        """
        with self._connection.errors():
            if not self._connection.has_table(repairs.name):
                return
            for (day,) in self._connection.execute(
                select(repairs.c.day).where(repairs.c.is_open == 1)
            ):
                if self._connection.has_table("event_logs_dropped"):
                    self._put_back(day)
                self._repair(day)
                yield Counter()

    def delete(self, expiry: Expiry) -> Iterator[Counter[int]]:
        """
        Delete what is too old, a day at a time.
        """
        with self._connection.errors():
            for day in self._days_before(expiry):
                number = self._expired(expiry, day)
                if number.total():
                    self._delete(day, number)
                    yield expiry.by_rule(number)
            default = len(expiry.rules) - 1
            # rejects have no days
            before = replace(expiry, span_ms=1).before_by(default)
            if expiry.rules[default].is_default and before:
                yield Counter({default: self._delete_rejects(before)})

    def purge(self, before: int, rule: Rule | None, step: int | None) -> Iterator[int]:
        """
        Delete what is from before a time, a day at a time.
        """
        with self._connection.errors():
            for day in self._days(before):
                end = before if (day + 1) * DAY_MS > before else None
                number = self._counted(day, self._selected(rule), end)
                if number.total():
                    self._delete(day, number, end)
                    yield number.total()
            if rule is None and (rejected := self._delete_rejects(before)):
                yield rejected

    def count_before(self, before: int, rule: Rule | None) -> int:
        """
        Count what `purge` would delete.
        """
        with self._connection.errors():
            number = 0
            for day in self._days(before):
                end = before if (day + 1) * DAY_MS > before else None
                number += self._counted(day, self._selected(rule), end).total()
            if rule is None:
                number += self._old_rejects(before)
        return number

    def close(self) -> None:
        """
        Close the connection.
        """
        self._connection.close()

    def _expiry(self, rules: Sequence[Rule], now: int) -> Expiry:
        column = series.c
        names = select(column.id, column.service_name, column.event_type, column.level)
        found = self._connection.execute(names)
        return Expiry.of(rules, now, [tuple(one) for one in found], DAY_MS)

    def _selected(self, rule: Rule | None) -> Collection[int] | None:
        return None if rule is None else self._expiry([rule], 0).rule_of.keys()

    def _days(self, before: int) -> list[int]:
        days = select(_column.day).where(_column.day * DAY_MS < before).distinct()
        return [day for (day,) in self._connection.execute(days.order_by(_column.day))]

    def _days_before(self, expiry: Expiry) -> list[int]:
        return self._days(expiry.times[-1]) if expiry.times else []

    def _expired(self, expiry: Expiry, day: int) -> Counter[int]:
        end = (day + 1) * DAY_MS
        of_day = self._connection.execute(select(_column.series_id).where(_column.day == day))
        old = [one for (one,) in of_day if expiry.before_of(one) >= end]
        return self._counted(day, old)

    def _counted(
        self, day: int, numbers: Collection[int] | None, before: int | None = None
    ) -> Counter[int]:
        """
        Count the event logs of a day by series: of some or all, and from before a time or all.
        """
        row = event_logs.c
        end = (day + 1) * DAY_MS if before is None else before
        every = [row.position >= first_at(day * DAY_MS), row.position < first_at(end)]
        if numbers is not None:
            if not numbers:
                return Counter()
            every.append(row.series_id.in_(numbers))
        statement = select(row.series_id, func.count()).where(*every).group_by(row.series_id)
        return Counter({one: int(many) for one, many in self._connection.execute(statement)})

    def _delete(self, day: int, number: Counter[int], before: int | None = None) -> None:
        """
        Delete the event logs of some series of a day, and what tells of them.
        """
        of_day = {
            one
            for (one,) in self._connection.execute(
                select(_column.series_id).where(_column.day == day)
            )
        }
        self._connection.insert("repairs", {"day": [day], "is_open": [1]})
        old = f"series_id IN ({', '.join(map(str, number))})"
        partition = f"PARTITION '{date_of(day)}'"
        if before is None and of_day <= number.keys():
            self._connection.command("CREATE TABLE IF NOT EXISTS event_logs_dropped AS event_logs")
            self._connection.command(
                f"ALTER TABLE event_logs MOVE {partition} TO TABLE event_logs_dropped"
            )
            self._put_back(day, f"NOT {old}")
        else:
            if before is not None:
                old += f" AND position < unhex('{first_at(before).hex()}')"
            self._connection.command(
                f"ALTER TABLE event_logs DELETE IN {partition} WHERE {old}", is_long=True
            )
        self._repair(day)

    def _put_back(self, day: int, kept: str = "true") -> None:
        """
        Put back dropped event logs of a day; if it is not known which are to be kept, all of them.
        """
        self._connection.command(
            f"INSERT INTO event_logs SELECT * FROM event_logs_dropped"  # noqa: S608
            f" WHERE {in_day(day)} AND {kept}",
            is_long=True,
        )
        self._connection.command(
            f"ALTER TABLE event_logs_dropped DROP PARTITION '{date_of(day)}'", is_long=True
        )

    def _repair(self, day: int) -> None:
        rebuild(self._connection, day)
        positions = select(event_logs.c.position).where(event_logs.c.message_id != "")
        column = message_ids.c
        gone = select(column.position).where(column.position.not_in(positions)).limit(1)
        if self._connection.execute(gone):
            self._connection.command(
                f"ALTER TABLE message_ids DELETE IN PARTITION '{date_of(day)}'"  # noqa: S608
                " WHERE position NOT IN (SELECT position FROM event_logs WHERE message_id != '')",
                is_long=True,
            )
        self._connection.insert("repairs", {"day": [day], "is_open": [0]})

    def _old_rejects(self, before: int) -> int:
        column = rejects.c
        statement = select(func.count()).select_from(rejects).where(column.rejected_ms < before)
        return int(self._connection.scalar(statement) or 0)

    def _delete_rejects(self, before: int) -> int:
        number = self._old_rejects(before)
        if number:
            self._connection.command(
                f"DELETE FROM rejects WHERE rejected_ms < {int(before)}",  # noqa: S608
                is_long=True,
            )
        return number
