"""
Shrinking the partitions of which little is left: deleted rows leave room that no new row takes.

What is left is copied to a new table while others read and write. Then that takes the partition's
place, if it still has the same event logs; else this is tried again later. The summaries stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from sqlalchemy import Connection, text

from nameko_eventlog.store.expiry import Expiry
from nameko_eventlog.store.positions import first_at
from nameko_eventlog.store.sql import partitions
from nameko_eventlog.store.sql.dropping import Run
from nameko_eventlog.store.sql.expiry import HOUR_MS, count_by_series
from nameko_eventlog.store.sql.partitions import DAY_MS


LEAST_PAGES = 128
"""How many pages, of 8 KiB, a partition has that is worth it."""

_ROWS_PER_PAGE = 2
"""
With fewer, at least half of the pages is empty: rows have 2 KiB at most, and the rest elsewhere
(https://www.postgresql.org/docs/current/storage-toast.html).
"""

_TRIES = 10  # before the copy is given up


def shrink_days(run: Run, expiry: Expiry) -> Iterator[None]:
    """
    Shrink the partitions from which event logs were deleted.

    Args:
        run: Runs a function in a transaction.
        expiry: Says which partitions these may be.

    Returns:
        An iterator, which runs a transaction for each step.
    """
    if not expiry.times:
        return
    for day in run(partial(_find_sparse, before=expiry.times[-1])):
        run(partial(_create, day=day))
        for begin in range(day * DAY_MS, (day + 1) * DAY_MS, HOUR_MS):
            run(partial(_copy, day=day, begin=begin))
            yield
        yield from _replace_patiently(run, day)


def _find_sparse(connection: Connection, before: int) -> list[int]:
    found = []
    for day in partitions.days_of(connection):
        begin, end = day * DAY_MS, (day + 1) * DAY_MS
        if end > before:
            break
        size = connection.scalar(text(f"SELECT pg_relation_size('{partitions.name_of(day)}')"))
        pages = (size or 0) // 8192
        rows = count_by_series(connection, begin, end).total()
        if pages >= LEAST_PAGES and rows < pages * _ROWS_PER_PAGE:
            found.append(day)
    return found


def _replace_patiently(run: Run, day: int) -> Iterator[None]:
    for _ in range(_TRIES):
        try:
            run(partial(_replace, day=day))
            return
        except partitions.InUse:
            yield
    run(partial(_drop_copy, day=day))


def _copy_of(day: int) -> str:
    return f"{partitions.name_of(day)}_copy"


def _drop_copy(connection: Connection, day: int) -> None:
    connection.execute(text(f"DROP TABLE IF EXISTS {_copy_of(day)}"))


def _create(connection: Connection, day: int) -> None:
    _drop_copy(connection, day)  # of a process that has ended meanwhile
    connection.execute(text(f"CREATE TABLE {_copy_of(day)} (LIKE event_logs INCLUDING ALL)"))


def _copy(connection: Connection, day: int, begin: int) -> None:
    connection.execute(
        text(
            f"INSERT INTO {_copy_of(day)} SELECT * FROM {partitions.name_of(day)}"  # noqa: S608
            " WHERE position >= CAST(:begin AS uuid) AND position < CAST(:end AS uuid)"
        ),
        {"begin": first_at(begin).hex(), "end": first_at(begin + HOUR_MS).hex()},
    )


def _replace(connection: Connection, day: int) -> None:
    name, copy = partitions.name_of(day), _copy_of(day)
    with partitions.alone(connection):
        differs = connection.scalar(
            text(
                f"SELECT EXISTS (SELECT FROM {name} AS a FULL JOIN {copy} AS b USING (position)"  # noqa: S608
                " WHERE a.series_id IS DISTINCT FROM b.series_id"
                " OR a.call IS DISTINCT FROM b.call)"
            )
        )
        if differs or day not in partitions.days_of(connection):
            _drop_copy(connection, day)
            return
        connection.execute(text(f"ALTER TABLE event_logs DETACH PARTITION {name}"))
        partitions.drop(connection, day)
        connection.execute(text(f"ALTER TABLE {copy} RENAME TO {name}"))
        partitions.attach(connection, name, day)
