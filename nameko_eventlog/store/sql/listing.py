"""
Lists of event logs: read by their positions, with complete bodies, except large ones, and kept
within bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.backends import Taken
from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.packing import CallContext, summary_of, unpack
from nameko_eventlog.store.portions import portions
from nameko_eventlog.store.positions import message_id_of, time_of
from nameko_eventlog.store.sql import bulk, statements
from nameko_eventlog.store.sql.schema import calls, event_logs, series
from nameko_eventlog.store.times import format_time


_FETCHED = 100  # rows that are fetched at a time


def take_within(connection: Connection, positions: Sequence[bytes], most_bytes: int) -> Taken:
    """
    Read the event logs at *positions*, in this order, while they are within bounds; at least one.

    An event log that retention has deleted in the meantime is left out.
    """
    taken = Taken([], 0, 0)
    for some in portions(positions, _FETCHED):
        found = {one.position: one for one in connection.execute(_at(some))}
        reader = BodyReader(connection, list(found.values()))
        for position in some:
            one = found.get(position)
            if one is not None:
                size = 0 if one.body is None else one.size
                if taken.rows and taken.size + size > most_bytes:
                    return taken
                taken.rows.append(reader.row(one))
                taken.size += size
            taken.number += 1
    return taken


def _at(positions: Sequence[bytes]) -> Any:
    return select(*statements.ROW).where(event_logs.c.position.in_(positions))


class BodyReader:
    """
    Puts bodies together from what several tables hold.

    Args:
        connection: To the database.
        found: Rows as `statements.ROW` or `statements.WHOLE` select them.
    """

    def __init__(self, connection: Connection, found: Sequence[Any]) -> None:
        self._names = {
            number: dict(zip(_NAMES, names, strict=True))
            for number, *names in bulk.find(
                connection, series.c.id, {one.series_id for one in found}, series.c.id, *_COLUMNS
            )
        }
        numbers = {one.call for one in found if one.call is not None}
        self._contexts = {
            number: CallContext.read(decoded(context))
            for number, context in bulk.find(
                connection, calls.c.id, numbers, calls.c.id, calls.c.context
            )
        }

    def row(self, found: Any) -> EventLogRow:
        """
        Make an answer's row; a large body becomes a summary.
        """
        position = bytes(found.position)
        row: EventLogRow = {
            "message_id": found.message_id or message_id_of(position),
            "time": format_time(time_of(position)),
            "body": self._summary(found) if found.body is None else self.body(found),
        }
        if found.body is None:
            row["omitted_bytes"] = found.size
        note = self._names[found.series_id]["time_note"]
        if note is not None:
            row["time_note"] = note
        return row

    def body(self, found: Any) -> dict[str, Any]:
        """
        Return the complete body.
        """
        return self._unpacked(found, found.body)

    def json(self, found: Any) -> str:
        """
        Return the complete body as JSON; its stored part is not decoded.

        Args:
            found: A row with ``text``, the stored part.
        """
        taken, rest = encode(self._unpacked(found, {})), found.text
        return taken if rest == "{}" else rest if taken == "{}" else f"{taken[:-1]},{rest[1:]}"

    def _unpacked(self, found: Any, rest: dict[str, Any]) -> dict[str, Any]:
        return unpack(
            found.packed,
            None if found.time_offset is None else time_of(found.position) + found.time_offset,
            rest,
            self._names[found.series_id],
            None if found.call is None else self._contexts[found.call],
        )

    def _summary(self, found: Any) -> dict[str, Any]:
        context = None if found.call is None else self._contexts[found.call]
        return summary_of(self._names[found.series_id], context, time_of(found.position))


_COLUMNS = tuple(column for column in series.c if column.name not in ("id", "key"))
_NAMES = tuple(column.name for column in _COLUMNS)


def decoded(context: Any) -> Any:
    """
    Return a context of a call, which the driver of SQLite returns as JSON.
    """
    return decode_json(context) if isinstance(context, str) else context
