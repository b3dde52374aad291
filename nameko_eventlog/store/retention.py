"""
Deleting what is old, in steps that lock nobody out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import monotonic

from sqlalchemy import Connection, Engine, delete, func, select

from nameko_eventlog.store.background import Background
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.schema import event_logs, rejects
from nameko_eventlog.store.times import format_time, now_ms, parse_time


_log = logging.getLogger("nameko_eventlog")

QUIET_MS = 86_400_000
"""For how long after the newest event log the clock alone is believed: a day."""

HOLD_SECONDS = 86_400.0
"""For how long retention waits before it deletes more than half of the event logs: a day."""


@dataclass(frozen=True)
class Plan:
    """
    What retention would delete now.

    Args:
        before: The time, in milliseconds since 1970, before which it deletes.
        number: How many event logs are older.
        is_most: Whether these are more than half of all.
    """

    before: int
    number: int
    is_most: bool


class Retention:
    """
    Deletes what is older than a number of days, as far as the clock can be believed.

    A clock that is wrong for a minute must not cost months of event logs. So the age of an event
    log counts from the clock or from a day after the newest event log, whichever is earlier; and
    more than half of the event logs are deleted only if they have been too old for a day.

    Args:
        uri: The database's address.
        days: How old event logs become.
        clock: Returns the time in milliseconds since 1970.
        elapsed: Returns seconds that no change of the clock moves.
    """

    def __init__(
        self,
        uri: str,
        days: float,
        clock: Callable[[], int] = now_ms,
        elapsed: Callable[[], float] = monotonic,
    ) -> None:
        self._uri = uri
        self._days = days
        self._clock = clock
        self._elapsed = elapsed
        self._held_since: float | None = None
        self.purged = 0
        """How many event logs and rejects were deleted so far."""

    def run(self, thread: Background, rest: Callable[[], None]) -> int:
        """
        Delete what is too old, and log how much that was.

        Args:
            thread: Waits for the database.
            rest: Called after each step: others write, too.

        Returns:
            How many event logs and rejects were deleted.

        Raises:
            DatabaseError: If the database cannot be used.
        """
        engine = open_engine(self._uri)
        try:
            plan = thread.run(partial(_plan, engine, self._clock(), self._days))
        finally:
            close_engine(engine)
        if self._is_held(plan):
            return 0
        before = format_time(plan.before)
        steps = purge(self._uri, datetime.fromisoformat(before))
        deleted = 0
        try:
            while step := thread.run(partial(next, steps, 0)):
                deleted += step
                self.purged += step
                rest()
        finally:
            if deleted:
                _log.info(
                    "deleted %d event logs and rejects from before %s (older than %g days)",
                    deleted,
                    before,
                    self._days,
                )
        return deleted

    def _is_held(self, plan: Plan) -> bool:
        if not plan.is_most:
            self._held_since = None
            return False
        now = self._elapsed()
        if self._held_since is None:
            self._held_since = now
            _log.error(
                "%d event logs, more than half of all, are from before %s and therefore older than"
                " %g days; they are deleted only if that is still so in a day. If the clock is"
                " right, delete them now with `nameko-eventlog purge`; if it is not, correct it",
                plan.number,
                format_time(plan.before),
                self._days,
            )
        return now - self._held_since < HOLD_SECONDS


def _plan(engine: Engine, now: int, days: float) -> Plan:
    check_exists(engine.url)
    with database_errors(engine.url), engine.begin() as connection:
        newest = connection.scalar(select(func.max(event_logs.c.time_ms)))
        if newest is None:
            newest = connection.scalar(select(func.max(rejects.c.rejected_ms)))
        if newest is not None:
            now = min(now, newest + QUIET_MS)
        before = now - timedelta(days=days) // timedelta(milliseconds=1)
        number = _count(connection, before)
        return Plan(before, number, number > 0 and not _has_rows(connection, 2 * number))


def _count(connection: Connection, before: int) -> int:
    counted = select(func.count()).where(event_logs.c.time_ms < before)
    return connection.scalar(counted) or 0


def _has_rows(connection: Connection, number: int) -> bool:
    """
    Tell whether there are *number* event logs, without counting more than that.
    """
    some = select(event_logs.c.time_ms).limit(number).subquery()
    return connection.scalar(select(func.count()).select_from(some)) == number


def purge(uri: str, before: datetime, step: int = 1000) -> Iterator[int]:
    """
    Delete the event logs, and the rejects, of before a time.

    Args:
        uri: The database's address.
        before: The time.
        step: How many rows a transaction deletes at the most.

    Returns:
        An iterator that deletes: how many were deleted, after each transaction. It raises
        `DatabaseError` if the database cannot be used.

    Raises:
        DatabaseError: If *uri* is no address of a database that can be used.
    """
    return _purge(open_engine(uri, writes=True), before, step)


def _purge(engine: Engine, before: datetime, step: int) -> Iterator[int]:
    try:
        check_exists(engine.url)
        for key, time_ms in (
            (event_logs.c.message_id, event_logs.c.time_ms),
            (rejects.c.id, rejects.c.rejected_ms),
        ):
            old = (
                select(key)
                .where(time_ms < parse_time(before))
                .order_by(time_ms)
                .limit(step)
                # another instance, at the same, has other rows
                .with_for_update(skip_locked=True)
            )
            while True:
                with database_errors(engine.url), engine.begin() as connection:
                    deleted = connection.execute(delete(key.table).where(key.in_(old))).rowcount
                if not deleted:
                    break
                yield deleted
    finally:
        close_engine(engine)


def count_before(uri: str, before: datetime) -> int:
    """
    Count what `purge` would delete.

    Raises:
        DatabaseError: If the database cannot be used.
    """
    engine = open_engine(uri)
    try:
        check_exists(engine.url)
        with database_errors(engine.url), engine.begin() as connection:
            return sum(
                connection.scalar(
                    select(func.count())
                    .select_from(time_ms.table)
                    .where(time_ms < parse_time(before))
                )
                or 0
                for time_ms in (event_logs.c.time_ms, rejects.c.rejected_ms)
            )
    finally:
        close_engine(engine)
