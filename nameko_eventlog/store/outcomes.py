"""
How a call ended, as its event logs tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nameko_eventlog.checking import is_seconds
from nameko_eventlog.store.answers import ENTRYPOINT_FAILED


RUNNING = "running"
"""No event log tells of an end: the call goes on, or its service does not capture ends."""

COMPLETED = "completed"
FAILED = "failed"

EXPECTED = "failed as expected"
"""It ended with one of its entrypoint's ``expected_exceptions``."""

OUTCOMES = (RUNNING, COMPLETED, FAILED, EXPECTED)
"""What a call may be; the tables have the places in this tuple."""

_CAPTURED = {"entrypoint_completed": COMPLETED, ENTRYPOINT_FAILED: FAILED}


def is_captured_end(event_type: str) -> bool:
    """
    Tell whether auto capture reports the end of a call by this event type.
    """
    return event_type in _CAPTURED


def duration_of(body: Mapping[str, Any]) -> float | None:
    """
    Return the duration of a call, in seconds, if this event log tells its end.

    A class attribute may change the event type of an end. So any event log with a duration is one,
    but those of the usual types come first.
    """
    duration = body.get("duration")
    return float(duration) if is_seconds(duration) else None


def outcome_of(body: Mapping[str, Any]) -> str:
    """
    Return the outcome of a call that this event log ends.
    """
    outcome = _CAPTURED.get(body["event_type"]) or (FAILED if "exception" in body else COMPLETED)
    return EXPECTED if outcome == FAILED and body.get("expected") is True else outcome
