"""
Lists of event logs: large bodies are left out, and the rest is kept within bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, select

from nameko_eventlog.store import statements
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.parameters import MAX_VALUES
from nameko_eventlog.store.schema import event_logs
from nameko_eventlog.store.times import format_time


def take_within(found: Any, limit: int, most_bytes: int) -> tuple[list[Any], bool]:
    """
    Take rows while they are within bounds, at least one.

    Returns:
        The rows, and whether they are all.
    """
    kept: list[Any] = []
    total = 0
    for row in found:
        total += 0 if row.body is None else row.size
        if len(kept) == limit or (kept and total > most_bytes):
            found.close()
            return kept, False
        kept.append(row)
    return kept, True


def read_rows(connection: Connection, found: Sequence[Any]) -> list[EventLogRow]:
    """
    Make the answer's rows from what `statements.ROW` has; large bodies become summaries.
    """
    large = {one.message_id: one.size for one in found if one.body is None}
    summaries: dict[str, dict[str, Any]] = {}
    for some in portions(sorted(large), MAX_VALUES):
        is_one = event_logs.c.message_id.in_(some)
        for columns in connection.execute(select(*statements.COLUMNS).where(is_one)):
            summaries[columns.message_id] = _summary(columns)
    rows: list[EventLogRow] = []
    for one in found:
        if one.body is not None:
            rows.append(read_row(one))
        elif one.message_id in summaries:  # retention may have deleted it in the meantime
            row: EventLogRow = {
                "message_id": one.message_id,
                "time": format_time(one.time_ms),
                "body": summaries[one.message_id],
                "omitted_bytes": one.size,
            }
            rows.append(_with_note(row, one))
    return rows


def read_row(found: Any) -> EventLogRow:
    """
    Make an answer's row from what `statements.WHOLE` has.
    """
    row: EventLogRow = {
        "message_id": found.message_id,
        "time": format_time(found.time_ms),
        "body": found.body,
    }
    return _with_note(row, found)


def portions(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """
    Split *values* into parts of *size*.
    """
    for at in range(0, len(values), size):
        yield values[at : at + size]


def _with_note(row: EventLogRow, found: Any) -> EventLogRow:
    if found.time_note is not None:
        row["time_note"] = found.time_note
    return row


def _summary(columns: Any) -> dict[str, Any]:
    """
    Return the part of a body that is in the table's columns.
    """
    stack = (columns.origin_call_id, columns.parent_call_id, columns.call_id)
    body = {
        "service_name": columns.service_name,
        "entrypoint_protocol": columns.entrypoint_protocol,
        "entrypoint_name": columns.entrypoint_name,
        "call_id": columns.call_id,
        "call_stack": list(dict.fromkeys(one for one in stack if one)),
        "event_type": columns.event_type,
        "timestamp": format_time(columns.time_ms),
        "data": {},
    }
    return body if columns.level is None else {**body, "level": columns.level}
