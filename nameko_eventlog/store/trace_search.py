"""
Finding the event logs of a trace: those of all calls that share an origin with a call.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, select

from nameko_eventlog.limits import TRACE_BYTES, TRACE_ROWS, TRACE_STEPS
from nameko_eventlog.store import statements
from nameko_eventlog.store.answers import EventLogRow, Trace
from nameko_eventlog.store.listing import portions, read_rows, take_within
from nameko_eventlog.store.parameters import MAX_VALUES, Filters
from nameko_eventlog.store.schema import event_logs
from nameko_eventlog.store.traces import build_trace


_FETCHED = 100  # rows that are fetched at a time

_FIRST = event_logs.c.origin_call_id


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
            own = Filters.parse(call_id=call)
            is_complete &= self._gather(own, _FIRST.is_(None))
        new, seen, steps = {origin}, set[str](), 0
        while new and is_complete:
            for some in portions(sorted(new), MAX_VALUES):
                steps += 1
                led_to = Filters.parse(origin_call_id=some)
                is_complete = steps <= TRACE_STEPS and self._gather(led_to)
                if not is_complete:
                    break
            seen |= new
            new = self._calls - seen
        rows = list(self._rows.values())
        # the summary of a large body has only the ends of the call stack
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
            for known_by in (event_logs.c.call_id, event_logs.c.parent_call_id):
                above = self._connection.scalar(
                    select(_FIRST).where(known_by == origin, _FIRST.is_not(None)).limit(1)
                )
                if above:
                    origin = above
                    break
        return origin, len(seen) < TRACE_STEPS

    def _gather(self, wanted: Filters, *conditions: ColumnElement[bool]) -> bool:
        """
        Add event logs to the trace.

        Returns:
            Whether there was room for all of them.
        """
        room = TRACE_ROWS - len(self._rows)
        statement = statements.page(self._connection.dialect, wanted, "oldest", room + 1, None)
        # otherwise PostgreSQL sends all rows before the first one is read
        found = self._connection.execute(
            statement.where(*conditions),
            execution_options={"stream_results": True, "max_row_buffer": _FETCHED},
        )
        kept, is_all = take_within(found, room, TRACE_BYTES - self._bytes)
        self._bytes += sum(one.size for one in kept if one.body is not None)
        for row in read_rows(self._connection, kept):
            self._rows[row["message_id"]] = row
            if call_id := row["body"].get("call_id"):
                self._calls.add(str(call_id))
        return is_all
