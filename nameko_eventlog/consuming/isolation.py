"""
Event logs that are handled alone, because they may have crashed a process.

A quorum queue counts the deliveries of a message, which are not attempts: a crash or a lost
connection counts for every message that the process held. So a message that was delivered too
often moves to a separate queue. Messages are taken from there one at a time, while nothing else is
handled, so the deliveries that this queue counts are attempts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.consuming.dead_letters import make_dead_letter


_EXCHANGE, _ROUTING_KEY = "x-eventlog-exchange", "x-eventlog-routing-key"
REASON = "x-eventlog-reason"
"""The header with the reason why a message is in the queue that it is in."""


def isolated(message: ReceivedMessage) -> dict[str, Any]:
    """
    Make the message for the queue of event logs that are handled alone.

    Returns:
        The arguments of kombu's ``publish``, except the destination.
    """
    return make_dead_letter(message, "is handled alone")


def restored(message: ReceivedMessage) -> ReceivedMessage:
    """
    Return *message*, taken from that queue, as it was originally.
    """
    headers = dict(message.headers)
    headers.pop(REASON, None)
    return replace(
        message,
        headers=headers,
        exchange=_text(headers.pop(_EXCHANGE, None)),
        routing_key=_text(headers.pop(_ROUTING_KEY, None)),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
