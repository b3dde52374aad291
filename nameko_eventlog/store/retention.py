"""
Deleting what is old, in steps that lock nobody out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Engine, delete, func, select

from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.schema import event_logs, rejects
from nameko_eventlog.store.times import parse_time


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
