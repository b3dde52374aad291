"""
What becomes of a message that nobody could handle: itself again, with the reason.
"""

from __future__ import annotations

import reprlib
from typing import Any

from amqp.serialization import dumps

from nameko_eventlog.consuming.received import ATTEMPTS, ReceivedMessage


LEFT_OUT = "x-eventlog-left-out"
"""The header that says what of the message could not be sent again."""

MAX_REASON = 1000
"""The longest reason, in characters."""

MAX_HEADERS = 100_000
"""Bytes: all properties of a message travel in one frame, of 128 KiB at the most."""

_PROPERTIES = ("message_id", "timestamp", "type", "app_id", "correlation_id")

_short = reprlib.Repr()
_short.maxother = MAX_REASON


def told(exc: BaseException) -> str:
    """
    Return an exception as text, whatever its ``__repr__`` does.
    """
    return _short.repr(exc)


def dead_letter(message: ReceivedMessage, reason: str) -> dict[str, Any]:
    """
    Make the dead letter of *message*.

    Returns:
        The arguments of kombu's ``publish``, but for where to.
    """
    added = {
        "x-eventlog-reason": reason[:MAX_REASON].encode(errors="backslashreplace").decode(),
        "x-eventlog-exchange": message.exchange,
        "x-eventlog-routing-key": message.routing_key,
    }
    headers = {**message.headers, **added}
    headers.pop(ATTEMPTS, None)  # of the queue that it was in: moved back, it begins anew
    if not _can_be_sent(headers):
        headers = {**added, LEFT_OUT: "the headers"}
    return {
        "body": message.body,
        "content_type": message.content_type or "application/octet-stream",
        "content_encoding": message.content_encoding or "binary",
        "headers": headers,
        "delivery_mode": 2,
        **{name: value for name, value in message.properties.items() if name in _PROPERTIES},
    }


def _can_be_sent(headers: dict[str, Any]) -> bool:
    try:
        return len(dumps("F", (headers,))) <= MAX_HEADERS
    except Exception:  # they can be read, which does not mean that py-amqp can write them
        return False
