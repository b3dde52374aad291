"""
Finding the event logs of a trace: those of all calls that share an origin with a call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nameko_eventlog.limits import TRACE_BYTES, TRACE_ROWS, TRACE_STEPS
from nameko_eventlog.store.answers import EventLogRow, Trace
from nameko_eventlog.store.backends import Reading
from nameko_eventlog.store.packing import call_key
from nameko_eventlog.store.parameters import MAX_VALUES
from nameko_eventlog.store.portions import portions
from nameko_eventlog.store.traces import build_trace


class TraceSearch:
    """
    Gathers the event logs of one trace, within limits.

    Args:
        reading: The database.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
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
            own = partial(self._reading.positions_of_call, call_key(call))
            is_complete &= self._gather(own)
        new, seen, steps = {origin}, set[str](), 0
        while new and is_complete:
            for some in portions(sorted(new), MAX_VALUES):
                steps += 1
                led_to = partial(self._reading.positions_led_to, list(map(call_key, some)))
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
            above = self._reading.call_above(call_key(origin))
            if above is not None:
                origin = above.origin or origin
        return origin, len(seen) < TRACE_STEPS

    def _gather(self, find: Callable[[int], list[bytes]]) -> bool:
        """
        Add event logs.

        Args:
            find: Returns the first positions, at most so many.

        Returns:
            Whether there was room for all of them.
        """
        room = TRACE_ROWS - len(self._rows)
        positions = find(room + 1)
        taken = self._reading.take(positions[:room], TRACE_BYTES - self._bytes)
        self._bytes += taken.size
        for row in taken.rows:
            self._rows[row["message_id"]] = row
            if call_id := row["body"].get("call_id"):
                self._calls.add(str(call_id))
        return taken.number == len(positions)
