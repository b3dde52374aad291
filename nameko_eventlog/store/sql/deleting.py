"""
Deleting event logs, with the changes of their summaries, in one transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    and_,
    cast,
    delete,
    func,
    or_,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.sql import bulk, full_text
from nameko_eventlog.store.sql.inserting import (
    CHANGED,
    SUMMARY,
    lock_writers,
    read_summary,
    write_changes,
)
from nameko_eventlog.store.sql.schema import (
    calls,
    event_logs,
    message_ids,
    series,
)
from nameko_eventlog.store.sql.statements import between
from nameko_eventlog.store.summaries import CallSummary, Changes, Logged, summarize


def delete_first(
    connection: Connection, condition: ColumnElement[bool], most: int, *, by_series: bool = False
) -> Counter[int]:
    """
    Delete the first event logs that meet a condition.

    Args:
        connection: To the database.
        condition: Which event logs.
        most: How many, at most.
        by_series: Whether to take one series after the other, with the index of series. Without,
            the oldest of all are the first.

    Returns:
        How many were deleted of each series.
    """
    lock_writers(connection)
    row = event_logs.c
    order = (row.series_id, row.position) if by_series else (row.position,)
    found = connection.execute(
        select(row.position, row.series_id, row.call, row.message_id)
        .where(condition)
        .order_by(*order)
        .limit(most)
    ).all()
    deleted: Counter[int] = Counter()
    if not found:
        return deleted
    changes = Changes()
    lost: Counter[int] = Counter()
    for position, series_id, call, _ in found:
        changes.count(time_of(position), series_id, -1)
        deleted[series_id] += 1
        if call is not None:
            lost[call] += 1
    full_text.forget(connection, [position for position, *_ in found])
    connection.execute(
        delete(event_logs).where(row.position.in_([position for position, *_ in found]))
    )
    odd = [message_id for *_, message_id in found if message_id is not None]
    for some in bulk.portions(odd):
        connection.execute(delete(message_ids).where(message_ids.c.message_id.in_(some)))
    summarize_again(connection, lost, changes)
    subtract(connection, changes)
    return deleted


def summarize_again(connection: Connection, lost: Mapping[int, float], changes: Changes) -> None:
    """
    Change the summaries of calls that have lost event logs, and delete the calls that have none.

    Args:
        connection: To the database.
        lost: How many event logs each call has lost.
        changes: What this changes in the counts.
    """
    column = calls.c
    before = {
        number: read_summary(values)
        for number, *values in bulk.find(connection, column.id, lost, column.id, *SUMMARY)
    }
    left: dict[int, list[Logged]] = {
        call: [] for call, summary in before.items() if summary.number > lost[call]
    }
    # a summary's times include those of all its event logs: other partitions are not searched
    if left:
        since = min(before[call].first_ms for call in left)
        until = max(before[call].last_ms for call in left) + 1
        for call, logged in read_logged(connection, list(left), since, until):
            left[call].append(logged)
    changed, gone = [], []
    for call, summary in before.items():
        after: CallSummary | None = None
        if some := left.get(call):
            after = summarize(None, some)
            changed.append((*after, call))
        else:
            gone.append(call)
        changes.change_call(summary, after)
    writes = bulk.Writes(connection)
    writes.update(CHANGED, changed)
    writes.run()
    for some_gone in bulk.portions(gone):
        connection.execute(delete(calls).where(column.id.in_(some_gone)))


def subtract(connection: Connection, changes: Changes) -> None:
    """
    Write changes of counts, and delete the counts that have become 0.
    """
    writes = bulk.Writes(connection)
    for table, rows in write_changes(connection, changes, writes):
        lower = [row[:-1] for row in rows if row[-1] < 0]
        writes.delete_zeros(tuple(table.primary_key), lower)
    writes.run()


def read_logged(
    connection: Connection, numbers: Sequence[int], since: int | None, until: int | None
) -> Iterable[tuple[int, Logged]]:
    """
    Yield what the summaries of calls need to know of their event logs.

    Args:
        connection: To the database.
        numbers: The calls.
        since: When their first event log was, in milliseconds since 1970.
        until: Before when their last event log was.
    """
    row = event_logs.c
    if connection.dialect.name == "postgresql":
        body = type_coerce(row.body, JSONB)
        end = func.jsonb_build_array(body["duration"], body["expected"])
        has_exception = body.has_key("exception")
    else:
        text = cast(row.body, Text)
        end = func.json_extract(text, "$.duration", "$.expected")
        has_exception = func.json_type(text, "$.exception").is_not(None)
    for some in bulk.portions(numbers):
        statement = (
            select(
                row.call, row.position, row.series_id, series.c.level, series.c.event_type,
                end.label("end"), has_exception.label("has_exception"),
            )
            .join(series, series.c.id == row.series_id)
            .where(row.call.in_(some), *between(since, until))
        )  # fmt: skip
        for one in connection.execute(statement):
            duration, expected = decode_json(one.end) if isinstance(one.end, str) else one.end
            told: dict[str, Any] = {
                "event_type": one.event_type, "duration": duration, "expected": expected,
            }  # fmt: skip
            if one.has_exception:
                told["exception"] = None
            position = bulk.as_key(one.position)
            yield (
                one.call,
                Logged.of(
                    {
                        "body": told, "event_type": one.event_type, "level": one.level,
                        "position": position, "time_ms": time_of(position),
                        "series_id": one.series_id,
                    }
                ),
            )  # fmt: skip


def delete_unused(connection: Connection, first: int, most: int) -> int | None:
    """
    Delete series that have neither event logs nor calls.

    The last one stays, so that no number is used again: other processes may know it.

    Args:
        connection: To the database.
        first: The lowest number of the series to look at.
        most: At how many.

    Returns:
        The lowest number for the next call; None if there are no more.
    """
    lock_writers(connection)
    number = series.c.id
    ids = list(
        connection.scalars(select(number).where(number >= first).order_by(number).limit(most))
    )
    if not ids:
        return None
    uses = [
        select(table.c.series_id).where(table.c.series_id == number).limit(1).exists()
        for table in (event_logs, calls)
    ]
    last = select(func.max(number)).scalar_subquery()
    connection.execute(delete(series).where(and_(number.in_(ids), number < last, ~or_(*uses))))
    return int(ids[-1]) + 1
