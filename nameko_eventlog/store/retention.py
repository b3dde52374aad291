"""
Retention: deleting old event logs, in steps short enough for other writers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, literal, select

from nameko_eventlog.store.background import Background
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.deleting import delete_first, delete_unused
from nameko_eventlog.store.positions import first_at, time_of
from nameko_eventlog.store.schema import Key, event_logs, rejects
from nameko_eventlog.store.times import format_time, now_ms, parse_time


T = TypeVar("T")

_log = logging.getLogger("nameko_eventlog")

QUIET_MS = 86_400_000
"""How long after the newest event log the clock alone is trusted: a day."""

HOLD_SECONDS = 86_400.0
"""How long retention waits before it deletes more than half of the event logs: a day."""


@dataclass(frozen=True)
class Plan:
    """
    What retention would delete now.

    Args:
        before: It deletes what is from before this time, in milliseconds since 1970.
        number: How many event logs that is.
        is_most: Whether that is more than half of all.
    """

    before: int
    number: int
    is_most: bool


class Retention:
    """
    Deletes what is older than a number of days, as far as the clock can be trusted.

    A clock that is wrong for a minute must not cost months of event logs. So the age of an event
    log is measured from the clock or from a day after the newest event log, whichever is earlier.
    More than half of the event logs are deleted only after they have been too old for a day.

    Args:
        uri: The database's address.
        days: The greatest age of an event log.
        clock: Returns the time in milliseconds since 1970.
        elapsed: Returns the seconds of a monotonic clock.
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
        """How many event logs and rejects have been deleted."""

    def run(self, thread: Background, rest: Callable[[], None]) -> int:
        """
        Delete what is too old, and log how much it was.

        Args:
            thread: Runs the database calls.
            rest: Called after each step, to let others write.

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
                    "retention: deleted %d event logs and rejects from before %s (older than %g"
                    " days)",
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
                "retention: %d event logs, more than half of all, are from before %s (older than"
                " %g days); deleting them in a day, if that is still so. If the clock is right,"
                " delete them now with `nameko-eventlog purge`; if it is wrong, correct it",
                plan.number,
                format_time(plan.before),
                self._days,
            )
        return now - self._held_since < HOLD_SECONDS


def _plan(engine: Engine, now: int, days: float) -> Plan:
    check_exists(engine.url)
    with database_errors(engine.url), engine.begin() as connection:
        position = event_logs.c.position
        last = connection.scalar(select(position).order_by(position.desc()).limit(1))
        newest = None if last is None else time_of(last)
        if newest is None:
            newest = connection.scalar(select(func.max(rejects.c.rejected_ms)))
        if newest is not None:
            now = min(now, newest + QUIET_MS)
        before = now - timedelta(days=days) // timedelta(milliseconds=1)
        number = _count(connection, before)
        return Plan(before, number, number > 0 and not _has_rows(connection, 2 * number))


def _count(connection: Connection, before: int) -> int:
    counted = select(func.count()).where(_is_before(before))
    return connection.scalar(counted) or 0


def _is_before(time_ms: int) -> ColumnElement[bool]:
    return event_logs.c.position < literal(first_at(time_ms), Key())


def _has_rows(connection: Connection, number: int) -> bool:
    """
    Tell whether there are at least *number* event logs, without counting more.
    """
    some = select(event_logs.c.position).limit(number).subquery()
    return connection.scalar(select(func.count()).select_from(some)) == number


def purge(uri: str, before: datetime, step: int = 1000) -> Iterator[int]:
    """
    Delete the event logs and the rejects from before a time.

    Args:
        uri: The database's address.
        before: The time.
        step: How many rows a transaction deletes, at most.

    Returns:
        An iterator: each step runs a transaction, and yields how many rows it deleted. It raises
        `DatabaseError` if the database cannot be used.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """
    return _purge(open_engine(uri, writes=True), before, step)


def _purge(engine: Engine, before: datetime, step: int) -> Iterator[int]:
    try:
        check_exists(engine.url)
        before_ms = parse_time(before)
        has_deleted = False
        while deleted := _step(engine, partial(_delete_old, before_ms=before_ms, step=step)):
            has_deleted = True
            yield deleted
        first: int | None = 0 if has_deleted else None
        while first is not None:
            first = _step(
                engine, partial(delete_unused, before_ms=before_ms, first=first, most=step)
            )
        old = (
            select(rejects.c.id)
            .where(rejects.c.rejected_ms < before_ms)
            .order_by(rejects.c.rejected_ms)
            .limit(step)
            # another instance that is deleting takes other rows
            .with_for_update(skip_locked=True)
        )
        statement = delete(rejects).where(rejects.c.id.in_(old))
        while deleted := _step(engine, lambda connection: connection.execute(statement).rowcount):
            yield deleted
    finally:
        close_engine(engine)


def _delete_old(connection: Connection, before_ms: int, step: int) -> int:
    return delete_first(connection, _is_before(before_ms), step)


def _step(engine: Engine, work: Callable[[Connection], T]) -> T:
    with database_errors(engine.url), engine.begin() as connection:
        return work(connection)


def count_before(uri: str, before: datetime) -> int:
    """
    Count the rows that `purge` would delete.

    Raises:
        DatabaseError: If the database cannot be used.
    """
    engine = open_engine(uri)
    try:
        check_exists(engine.url)
        with database_errors(engine.url), engine.begin() as connection:
            before_ms = parse_time(before)
            old_rejects = select(func.count()).where(rejects.c.rejected_ms < before_ms)
            return _count(connection, before_ms) + (connection.scalar(old_rejects) or 0)
    finally:
        close_engine(engine)
