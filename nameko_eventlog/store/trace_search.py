"""
Finding the event logs of a trace: those of all calls that share an origin with a call.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, select

from nameko_eventlog.limits import TRACE_BYTES, TRACE_ROWS, TRACE_STEPS
from nameko_eventlog.store import bulk
from nameko_eventlog.store.answers import EventLogRow, Trace
from nameko_eventlog.store.listing import decoded, portions, take_within
from nameko_eventlog.store.packing import CallContext, call_key
from nameko_eventlog.store.parameters import MAX_VALUES
from nameko_eventlog.store.schema import calls, event_logs
from nameko_eventlog.store.traces import build_trace


class TraceSearch:
    """
    Gathers the event logs of one trace, within limits.

    Args:
        connection: To the database.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._rows: dict[str, EventLogRow] = {}
        self._calls: set[str] = set()
        self._bytes = 0

    def find(self, call_id: str) -> Trace | None:
        """
        Return the trace of a call, or None if neither it nor its children have event logs.
        """
        origin, is_origin = self._origin_of(call_id)
        is_complete = True
        for call in {call_id, origin}:  # event logs without a call stack name no origin
            own = calls.c.call_key == call_key(call)
            is_complete &= self._gather(own, calls.c.origin_key.is_(None))
        new, seen, steps = {origin}, set[str](), 0
        while new and is_complete:
            for some in portions(sorted(new), MAX_VALUES):
                steps += 1
                led_to = calls.c.origin_key.in_(list(map(call_key, some)))
                is_complete = steps <= TRACE_STEPS and self._gather(led_to)
                if not is_complete:
                    break
            seen |= new
            new = self._calls - seen
        rows = list(self._rows.values())
        # the summary of a large body may have only the ends of the call stack
        is_complete &= is_origin and not any("omitted_bytes" in row for row in rows)
        return build_trace(origin, rows, not is_complete) if rows else None

    def _origin_of(self, call_id: str) -> tuple[str, bool]:
        """
        Return the origin of a call, and whether the search for it was completed.

        Nameko cuts long call stacks, so the first call of a stack may have callers of its own.
        """
        origin = call_id
        seen: set[str] = set()
        while origin not in seen:
            if len(seen) == TRACE_STEPS:
                return origin, False
            seen.add(origin)
            for known_by in (calls.c.call_key, calls.c.parent_key):
                above = self._connection.scalar(
                    select(calls.c.context)
                    .where(known_by == call_key(origin), calls.c.origin_key.is_not(None))
                    .limit(1)
                )
                if above is not None:
                    origin = CallContext.read(decoded(above)).origin or origin
                    break
        return origin, len(seen) < TRACE_STEPS

    def _gather(self, *conditions: ColumnElement[bool]) -> bool:
        """
        Add the event logs of the calls that meet *conditions*.

        Returns:
            Whether there was room for all of them.
        """
        room = TRACE_ROWS - len(self._rows)
        some = select(calls.c.id).where(*conditions).order_by(calls.c.first).limit(room + 1)
        positions: list[bytes] = []
        for numbers in bulk.portions(list(self._connection.scalars(some))):
            found = (
                select(event_logs.c.position)
                .where(event_logs.c.call.in_(numbers))
                .order_by(event_logs.c.position)
                .limit(room + 1)
            )
            positions = sorted([*positions, *self._connection.scalars(found)])[: room + 1]
        taken = take_within(self._connection, positions[:room], TRACE_BYTES - self._bytes)
        self._bytes += taken.size
        for row in taken.rows:
            self._rows[row["message_id"]] = row
            if call_id := row["body"].get("call_id"):
                self._calls.add(str(call_id))
        return taken.number == len(positions)
