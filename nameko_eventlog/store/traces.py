"""
The tree of calls, built from the call stacks of event logs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from nameko_eventlog.limits import TRACE_CALLS
from nameko_eventlog.store.answers import Call, EventLogRow, Trace
from nameko_eventlog.store.call_ids import names_of
from nameko_eventlog.store.outcomes import (
    EXPECTED,
    FAILED,
    duration_of,
    is_captured_end,
    outcome_of,
)
from nameko_eventlog.store.times import format_time, parse_time


def build_trace(origin: str, rows: Iterable[EventLogRow], truncated: bool) -> Trace:
    """
    Build a trace.

    Args:
        origin: The call that led to all others.
        rows: The event logs, in any order.
        truncated: Whether some are missing.
    """
    of_call: dict[str, list[EventLogRow]] = defaultdict(list)
    parents: dict[str, str | None] = {origin: None}
    for row in sorted(rows, key=lambda row: (row["time"], row["message_id"])):
        stack = list(row["body"].get("call_stack") or [])
        call_id = row["body"].get("call_id")
        if call_id:
            of_call[call_id].append(row)
            if stack[-1:] != [call_id]:
                stack.append(call_id)
        for parent, child in zip([None, *stack], stack, strict=False):
            if parents.get(child) is None:
                if len(parents) >= TRACE_CALLS and child not in parents:
                    truncated = True
                    break
                parents[child] = parent
    calls = {
        call_id: _call(call_id, parent, of_call.get(call_id, []))
        for call_id, parent in parents.items()
    }
    return {
        "origin_call_id": origin,
        "calls": _in_order(calls, origin),
        "truncated": truncated,
    }


def _in_order(calls: dict[str, Call], origin: str) -> list[Call]:
    """
    Sort *calls* in the order of the tree, and set their depths.
    """
    children: dict[str | None, list[str]] = defaultdict(list)
    for call_id, call in calls.items():
        children[call["parent_call_id"]].append(call_id)
    for siblings in children.values():
        siblings.sort(key=lambda call_id: calls[call_id]["started"] or "")
    ordered: list[Call] = []
    seen: set[str] = set()
    # the calls after the roots are only reached if their parents form a cycle
    roots = [origin, *children[None], *calls]
    for root in roots:
        waiting = [(root, 0)]
        while waiting:
            call_id, depth = waiting.pop()
            if call_id in seen:
                continue
            seen.add(call_id)
            calls[call_id]["depth"] = depth
            ordered.append(calls[call_id])
            waiting += [(child, depth + 1) for child in reversed(children[call_id])]
    return ordered


def _call(call_id: str, parent: str | None, rows: list[EventLogRow]) -> Call:
    service, entrypoint = names_of(call_id)
    end = _end(rows)
    duration = end["body"]["duration"] if end else None
    started = rows[0]["time"] if rows else None
    if end is not None:  # its first event log may be much later than its start
        began = parse_time(end["time"]) - round(end["body"]["duration"] * 1000)
        started = format_time(min(began, parse_time(rows[0]["time"])))
    return {
        "call_id": call_id,
        "parent_call_id": parent,
        "depth": 0,
        "service_name": rows[0]["body"]["service_name"] if rows else service,
        "entrypoint_name": (rows[0]["body"].get("entrypoint_name") if rows else None)
        or entrypoint,
        "started": started,
        "duration": duration,
        "status": _status(end),
        "known": bool(rows),
        "event_logs": rows,
    }


def _end(rows: list[EventLogRow]) -> EventLogRow | None:
    """
    Return the event log that tells the end of a call.
    """
    timed = [row for row in rows if duration_of(row["body"]) is not None]
    captured = [row for row in timed if is_captured_end(row["body"]["event_type"])]
    return next(reversed(captured or timed), None)


def _status(end: EventLogRow | None) -> str | None:
    if end is None:
        return None
    outcome = outcome_of(end["body"])
    return FAILED if outcome == EXPECTED else outcome
