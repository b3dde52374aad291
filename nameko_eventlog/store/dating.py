"""
When an event log was made, as far as its sender's clock can be believed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from nameko_eventlog.limits import AHEAD_SECONDS
from nameko_eventlog.store.times import parse_time


EARLIEST_MS = 946_684_800_000
"""The year 2000: a clock that tells less has never been set."""

AGREE_MS = 10_000
"""
How far the times of a message id and of its body may differ.

The body's has seconds alone, and an id follows a clock that goes back by a second only later.
"""

AHEAD = "ahead"
"""The body's time is later than `AHEAD_SECONDS` from when the store has received it."""

PAST = "past"
"""The body's time is before the year 2000."""

UNREADABLE = "unreadable"
"""The body has no time, or none that can be read."""

DIFFERS = "differs"
"""The message id bears another time than the body, which is believed."""

NOTES = (AHEAD, PAST, UNREADABLE, DIFFERS)
"""What may be odd about the time of an event log."""

_USUAL_LENGTH = len("2026-11-24T08:00:00.000000+00:00")
_parse_usual = lru_cache(1024)(parse_time)  # a hundred event logs have one second


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
    Decide for when an event log is stored.

    The time of its message id puts event logs of one sender in order, and is taken where it
    agrees with the body's. Else the body's is, if it can be; else the id's; else the present.

    Args:
        body_ms: What the body says, in milliseconds since 1970.
        id_ms: What the message id says, if it bears a time.
        now: The time.

    Returns:
        The time, between the year 2000 and `AHEAD_SECONDS` from now; and what is odd about the
        sender's, one of `NOTES`, if anything is.
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
