"""
Daily partitions of PostgreSQL's event logs: adding them ahead, and dropping them.

Event logs of days without a partition are in the default partition. Adding and dropping a
partition needs the tables for a moment without readers. As long as it waits for that moment, new
readers wait behind it. So it waits only shortly, and is tried again later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from time import monotonic
from uuid import UUID

from sqlalchemy import Connection, Engine, select, text
from sqlalchemy.exc import DBAPIError

from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.sql.inserting import lock_writers
from nameko_eventlog.store.sql.schema import event_logs
from nameko_eventlog.store.sql.statements import between
from nameko_eventlog.store.times import now_ms


DAY_MS = 86_400_000

LOCK_MS = 200
"""How long to wait for the tables."""

AHEAD_DAYS = 2
"""For how many days after today there are partitions."""

RETRY_SECONDS = 60.0
"""When to try again."""

_MOST_MISSED = 31
"""For how many days there are partitions after a time without a store: the queue may have them."""

_WRITERS_MS = 5_000  # how long to wait for another writer, which holds up no reader
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_NAME = "event_logs_%Y%m%d"


class InUse(Exception):
    """
    Others use the tables now.
    """


class DailyPartitions:
    """
    Adds the partitions of today and of the next days.

    Args:
        engine: An engine that writes to a database of PostgreSQL's.
        clock: Returns the time in milliseconds since 1970.
    """

    def __init__(self, engine: Engine, clock: Callable[[], int] = now_ms) -> None:
        self._engine = engine
        self._clock = clock
        self._added_on: int | None = None
        self._next_try = 0.0
        self.problem: str | None = None
        """What kept it from adding partitions, if it was not a reader."""

    def forget(self) -> None:
        """
        Look again for the partitions at the next call of `add`.
        """
        self._added_on = None
        self._next_try = 0.0

    def add(self) -> None:
        """
        Add partitions that are missing. If that is not possible now, it is tried again later.

        Usually this only compares the date.

        Raises:
            DBAPIError: The connection is lost.
        """
        today = self._clock() // DAY_MS
        if self._added_on == today or monotonic() < self._next_try:
            return
        self._next_try = monotonic() + RETRY_SECONDS
        try:
            with self._engine.begin() as connection:
                days = _missing(days_of(connection), today)
            for day in days:
                with self._engine.begin() as connection, alone(connection):
                    _add(connection, day)
        except InUse:
            self.problem = None
            return
        except DBAPIError as exc:
            if exc.connection_invalidated:
                raise
            self.problem = str(exc.orig)
            return
        self.problem = None
        self._added_on = today


def days_of(connection: Connection) -> list[int]:
    """
    Return the days that have a partition, counted from 1970, in order.
    """
    if connection.dialect.name != "postgresql":
        return []
    names = connection.scalars(
        text(
            "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
            " WHERE inhparent = 'event_logs'::regclass"
        )
    )
    return sorted(
        (datetime.strptime(f"{name}+0000", f"{_NAME}%z") - _EPOCH).days
        for name in names
        if re.fullmatch(r"event_logs_\d{8}", name)
    )


def first_positions(connection: Connection) -> list[bytes]:
    """
    Return the positions with which daily partitions begin, and those after their ends, in order.
    """
    days = days_of(connection)
    return [first_at(day * DAY_MS) for day in sorted({*days, *(day + 1 for day in days)})]


@contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """
    Keep other writers away, and wait only shortly for the tables.

    Raises:
        InUse: Others use them.
    """
    try:
        connection.execute(text(f"SET LOCAL lock_timeout = {_WRITERS_MS}"))
        lock_writers(connection)
        connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_MS}"))
        yield
    except DBAPIError as exc:
        if getattr(exc.orig, "pgcode", None) == "55P03":
            raise InUse from exc
        raise


def drop(connection: Connection, day: int) -> None:
    """
    Drop the partition of a day.
    """
    connection.execute(text(f"DROP TABLE {name_of(day)}"))


def attach(connection: Connection, table: str, day: int) -> None:
    """
    Make a table the partition of a day.
    """
    first, last = (
        f"'{UUID(bytes=first_at(time))}'" for time in (day * DAY_MS, (day + 1) * DAY_MS)
    )
    is_of_day = f"position >= {first} AND position < {last}"
    for statement in (
        # so that it is not scanned; the default partition is, but has nearly nothing
        f"ALTER TABLE {table} ADD CONSTRAINT is_of_day CHECK ({is_of_day})",
        f"ALTER TABLE event_logs ATTACH PARTITION {table} FOR VALUES FROM ({first}) TO ({last})",
        f"ALTER TABLE {table} DROP CONSTRAINT is_of_day",
    ):
        connection.execute(text(statement))


def name_of(day: int) -> str:
    """
    Return the name of a day's partition.
    """
    return (_EPOCH + timedelta(days=day)).strftime(_NAME)


def _missing(days: Collection[int], today: int) -> list[int]:
    first = today - 1
    if days:
        first = min(max(max(days) + 1, today - _MOST_MISSED), today)
    return [day for day in range(first, today + AHEAD_DAYS + 1) if day not in days]


def _add(connection: Connection, day: int) -> None:
    if day in days_of(connection):  # another store was faster
        return
    is_of_day = between(day * DAY_MS, (day + 1) * DAY_MS)
    # they would have to be moved; what the default partition has is deleted there
    if connection.execute(select(event_logs.c.position).where(*is_of_day).limit(1)).all():
        return
    connection.execute(text(f"CREATE TABLE {name_of(day)} (LIKE event_logs INCLUDING ALL)"))
    attach(connection, name_of(day), day)
