"""
Pages of calls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nameko_eventlog.store.answers import CallPage, FoundCall
from nameko_eventlog.store.backends import CallEnd, Reading, StoredCall
from nameko_eventlog.store.call_filters import ORDERS, CallFilters
from nameko_eventlog.store.cursors import decode_parts, encode_parts, foreign, read_position
from nameko_eventlog.store.levels import level_name
from nameko_eventlog.store.outcomes import OUTCOMES
from nameko_eventlog.store.parameters import (
    InvalidQuery,
    check_choice,
    check_limit,
    default_since,
)
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.times import format_time


def find_calls(
    reading: Reading,
    wanted: CallFilters,
    order: str,
    limit: int,
    cursor: str | None,
) -> CallPage:
    """
    Return a page of calls.

    Raises:
        InvalidQuery: A parameter is invalid.
    """
    check_choice("order", order, ORDERS)
    limit = check_limit(limit)
    end = None
    if cursor is not None:
        wanted, end = _read_cursor(cursor, wanted, order)
    elif order == "longest" and wanted.names.since is None:
        since = default_since(wanted.names.until)
        wanted = replace(wanted, names=replace(wanted.names, since=since))
    if cursor is None:
        wanted = replace(wanted, names=wanted.names.up_to_now())
    found = reading.find_calls(wanted, order, limit + 1, end)
    following = None
    if len(found) > limit:
        last = found[limit - 1]
        names = wanted.names
        following = encode_parts(
            [wanted.digest, order, names.since, names.until, last.duration, last.first.hex()]
        )
    return {"calls": [_answer(one) for one in found[:limit]], "cursor": following}


def _read_cursor(text: Any, wanted: CallFilters, order: str) -> tuple[CallFilters, CallEnd]:
    kinds = tuple[str, str, int | None, int | None, float | None, str]
    digest, order_then, since, until, duration, first = decode_parts(text, kinds)
    if digest != wanted.digest or order_then != order:
        raise foreign(text)
    position = read_position(first, text)
    if order == "longest" and duration is None:
        raise InvalidQuery("cursor", text, "pass the cursor of a page, unchanged")
    names = replace(wanted.names, since=since, until=until)
    return replace(wanted, names=names), CallEnd(duration, position)


def _answer(found: StoredCall) -> FoundCall:
    context = found.context
    stack = context.call_stack
    started = found.first_ms
    if found.ended is not None and found.duration is not None:
        # its first event log may be later than its beginning
        started = min(started, time_of(found.ended) - round(found.duration * 1000))
    return {
        "call_id": context.call_id or "",
        "origin_call_id": context.origin,
        "parent_call_id": stack[-2] if len(stack) > 1 else None,
        "service_name": found.service_name,
        "entrypoint_name": found.entrypoint_name,
        "entrypoint_protocol": found.entrypoint_protocol,
        "caller": found.caller,
        "started": format_time(started),
        "duration": found.duration,
        "outcome": OUTCOMES[found.outcome],
        "level": level_name(found.severity),
        "event_logs": found.number,
    }
