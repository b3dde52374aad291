"""
Bodies, put together from what several tables hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Integer, Text, case, func, literal, select

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.limits import LISTED_BODY_BYTES
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.schema import (
    NO_KEY,
    SPAN,
    call_parts,
    event_logs,
    series,
)
from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.packing import CallContext, summary_of, unpack
from nameko_eventlog.store.portions import portions
from nameko_eventlog.store.positions import message_id_of, time_of
from nameko_eventlog.store.times import format_time


_AT_ONCE = 1_000  # ids of a condition

_row = event_logs.c
_SIZE = func.length(_row.body, type_=Integer())

PLACED = (
    _row.position, _row.series_id, _row.call, _row.packed, _row.time_offset, _row.message_id,
)  # fmt: skip

LISTED = (
    *PLACED,
    case((_SIZE <= LISTED_BODY_BYTES, _row.body), else_=literal("", Text())).label("body"),
    _SIZE.label("size"),
)
"""The columns of a list of event logs: a large body is left out."""

WHOLE = (*PLACED, _row.body, _SIZE.label("size"))
"""The columns of an event log, with its body."""


class StoredRow(NamedTuple):
    """
    The columns `LISTED` or `WHOLE`.
    """

    position: bytes
    series_id: int
    call: bytes
    packed: int
    time_offset: int | None
    message_id: str
    body: str
    size: int


class Bodies:
    """
    Puts bodies together.

    Args:
        connection: To the database.
        found: The event logs that will be asked for.
    """

    def __init__(self, connection: Connection, found: Sequence[StoredRow]) -> None:
        self._names: dict[int, dict[str, Any]] = {}
        self._contexts: dict[bytes, CallContext] = {}
        column = series.c
        names = [one for one in column if one.name not in ("id", "in_call")]
        for some in portions(list({one.series_id for one in found}), _AT_ONCE):
            statement = select(column.id, *names).where(column.id.in_(some))
            for number, *values in connection.execute(statement):
                self._names[number] = {
                    one.name: value for one, value in zip(names, values, strict=True)
                }
        part = call_parts.c
        wanted = {
            (time_of(one.position) // (SPAN * 1000) * SPAN, one.call)
            for one in found
            if one.call != NO_KEY
        }
        for pairs in portions(sorted(wanted), _AT_ONCE):
            statement = select(part.id, part.context).where(
                part.span.in_(sorted({span for span, _ in pairs})),
                part.id.in_([call for _, call in pairs]),
            )
            for call, context in connection.execute(statement):
                self._contexts[bytes(call)] = CallContext.read(decode_json(context))

    def are_whole(self, found: StoredRow) -> bool:
        """
        Tell whether what the body is made of is there: it is not where the event log has been
        deleted meanwhile.
        """
        return found.series_id in self._names and (
            found.call == NO_KEY or found.call in self._contexts
        )

    def row(self, found: StoredRow) -> EventLogRow:
        """
        Make an answer's row; a large body becomes a summary.
        """
        is_whole = bool(found.body)
        row: EventLogRow = {
            "message_id": found.message_id or message_id_of(found.position),
            "time": format_time(time_of(found.position)),
            "body": self.body(found) if is_whole else self._summary(found),
        }
        if not is_whole:
            row["omitted_bytes"] = found.size
        note = self._names[found.series_id]["time_note"]
        if note is not None:
            row["time_note"] = note
        return row

    def body(self, found: StoredRow) -> dict[str, Any]:
        """
        Return the complete body.
        """
        return self._unpacked(found, decode_json(found.body))

    def json(self, found: StoredRow) -> str:
        """
        Return the complete body as JSON; its stored part is not decoded.
        """
        taken, rest = encode(self._unpacked(found, {})), found.body
        return taken if rest == "{}" else rest if taken == "{}" else f"{taken[:-1]},{rest[1:]}"

    def _unpacked(self, found: StoredRow, rest: dict[str, Any]) -> dict[str, Any]:
        return unpack(
            found.packed,
            None if found.time_offset is None else time_of(found.position) + found.time_offset,
            rest,
            self._names[found.series_id],
            self._context(found),
        )

    def _context(self, found: StoredRow) -> CallContext | None:
        return None if found.call == NO_KEY else self._contexts[found.call]

    def _summary(self, found: StoredRow) -> dict[str, Any]:
        return summary_of(
            self._names[found.series_id], self._context(found), time_of(found.position)
        )


def stored_row(values: Sequence[Any]) -> StoredRow:
    """
    Make a row of what the driver returns.
    """
    position, series_id, call, *rest = values
    return StoredRow(bytes(position), series_id, bytes(call), *rest)
