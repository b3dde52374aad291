"""
Deleting event logs, with the changes of their summaries, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from nameko_eventlog.store import bulk, full_text
from nameko_eventlog.store.inserting import (
    CHANGED,
    SUMMARY,
    as_key,
    lock_writers,
    read_summary,
    values_of,
    write_changes,
)
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.schema import (
    call_counts,
    calls,
    counts,
    durations,
    event_logs,
    series,
)
from nameko_eventlog.store.summaries import CallSummary, Changes, Logged, summarize


def delete_first(connection: Connection, condition: ColumnElement[bool], most: int) -> int:
    """
    Delete the oldest event logs that meet a condition.

    Args:
        connection: To the database.
        condition: Which event logs.
        most: How many, at most.

    Returns:
        How many were deleted.
    """
    lock_writers(connection)
    row = event_logs.c
    found = connection.execute(
        select(row.position, row.series_id, row.call)
        .where(condition)
        .order_by(row.position)
        .limit(most)
    ).all()
    if not found:
        return 0
    changes = Changes()
    deleted_of: dict[int, int] = {}
    for position, series_id, call in found:
        changes.count(time_of(position), series_id, -1)
        if call is not None:
            deleted_of[call] = deleted_of.get(call, 0) + 1
    full_text.forget(connection, [position for position, *_ in found])
    connection.execute(
        delete(event_logs).where(row.position.in_([position for position, *_ in found]))
    )
    _summarize_again(connection, deleted_of, changes)
    write_changes(connection, changes)
    return len(found)


def _summarize_again(connection: Connection, deleted_of: dict[int, int], changes: Changes) -> None:
    """
    Change the summaries of calls that have lost event logs, and delete the calls that have none.
    """
    column = calls.c
    before = {
        number: read_summary(values)
        for number, *values in bulk.find(connection, column.id, deleted_of, column.id, *SUMMARY)
    }
    gone = [call for call, summary in before.items() if summary.number <= deleted_of[call]]
    left: dict[int, list[Logged]] = {
        call: [] for call in before if before[call].number > deleted_of[call]
    }
    for call, logged in read_logged(connection, list(left)):
        left[call].append(logged)
    changed = []
    for call, summary in before.items():
        after: CallSummary | None = None
        if some := left.get(call):
            after = summarize(None, some)
            changed.append((*values_of(after), call))
        changes.change_call(summary, after)
    bulk.update_rows(connection, CHANGED, changed)
    for some_gone in bulk.portions(gone):
        connection.execute(delete(calls).where(column.id.in_(some_gone)))


def read_logged(connection: Connection, numbers: Sequence[int]) -> Iterable[tuple[int, Logged]]:
    """
    Yield what the summaries of calls need to know of their event logs.

    Args:
        connection: To the database.
        numbers: The calls.
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
            .where(row.call.in_(some))
        )  # fmt: skip
        for one in connection.execute(statement):
            duration, expected = decode_json(one.end) if isinstance(one.end, str) else one.end
            told: dict[str, Any] = {
                "event_type": one.event_type, "duration": duration, "expected": expected,
            }  # fmt: skip
            if one.has_exception:
                told["exception"] = None
            position = as_key(one.position)
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


def delete_unused(connection: Connection, before_ms: int, first: int, most: int) -> int | None:
    """
    Delete what remains of event logs that were deleted: counts of nothing, and series.

    Args:
        connection: To the database.
        before_ms: The time from before which all event logs were deleted, in milliseconds since
            1970.
        first: The lowest number of the series to look at.
        most: At how many.

    Returns:
        The lowest number for the next call; None if there are no more.
    """
    lock_writers(connection)
    if not first:
        for table in (counts, call_counts, durations):
            is_old = table.c.begin_ms < before_ms
            connection.execute(delete(table).where(is_old, table.c.number == 0))
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
    connection.execute(delete(series).where(and_(number.in_(ids), ~or_(*uses))))
    return int(ids[-1]) + 1
