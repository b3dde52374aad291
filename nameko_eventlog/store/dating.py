"""
The time of an event log, as far as its sender's clock can be trusted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from nameko_eventlog.limits import AHEAD_SECONDS
from nameko_eventlog.store.times import parse_time


EARLIEST_MS = 946_684_800_000
"""The year 2000: a clock before that was never set."""

AGREE_MS = 10_000
"""
How far the times of a message id and of its body may differ.

The body's time has whole seconds, and when a clock goes back by a second, ids follow only later.
"""

AHEAD = "ahead"
"""The body's time is more than `AHEAD_SECONDS` after the store received it."""

PAST = "past"
"""The body's time is before the year 2000."""

UNREADABLE = "unreadable"
"""The body has no readable time."""

DIFFERS = "differs"
"""The message id has another time than the body; the body's time is used."""

NOTES = (AHEAD, PAST, UNREADABLE, DIFFERS)
"""What can be wrong with the time of an event log."""

_USUAL_LENGTH = len("2026-11-24T08:00:00.000000+00:00")
_parse_usual = lru_cache(1024)(parse_time)  # many event logs share a second


def claimed_time(value: Any) -> int | None:
    """
    Return the milliseconds since 1970 of a body's timestamp, or None if it cannot be read.
    """
    try:
        if type(value) is str and len(value) <= _USUAL_LENGTH:
            return _parse_usual(value)
        return parse_time(value)
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None


def decide_time(body_ms: int | None, id_ms: int | None, now: int) -> tuple[int, str | None]:
    """
    Decide under which time an event log is stored.

    The time of the message id keeps one sender's event logs in order; it is used where it agrees
    with the body's time. Otherwise the body's time is used if it is plausible, then the id's, then
    the present.

    Args:
        body_ms: The body's time, in milliseconds since 1970, if it is readable.
        id_ms: The message id's time, if it has one.
        now: The present.

    Returns:
        The time, between the year 2000 and `AHEAD_SECONDS` from now; and what is wrong with the
        sender's time, one of `NOTES`, or None.
    """
    now = max(now, EARLIEST_MS)
    latest = now + AHEAD_SECONDS * 1000
    is_alike = id_ms is None or body_ms is None or abs(id_ms - body_ms) <= AGREE_MS
    if id_ms is not None and not EARLIEST_MS <= id_ms <= latest:
        id_ms = None
    if body_ms is not None and EARLIEST_MS <= body_ms <= latest:
        if not is_alike:
            return body_ms, DIFFERS
        return (body_ms if id_ms is None else id_ms), None
    note = UNREADABLE if body_ms is None else PAST if body_ms < EARLIEST_MS else AHEAD
    return (now if id_ms is None else id_ms), note
