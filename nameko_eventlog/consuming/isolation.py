"""
Event logs that are handled alone, because a process may have ended for them.

A quorum queue counts how often it has delivered a message, which are no attempts: a crash, or a
lost connection, counts for all that the process held. So what was delivered too often is moved to
a queue of its own. From there one event log at a time is taken, when nothing else is handled: what
that queue counts are attempts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.consuming.dead_letters import dead_letter


_EXCHANGE, _ROUTING_KEY = "x-eventlog-exchange", "x-eventlog-routing-key"
REASON = "x-eventlog-reason"
"""The header with the reason why a message is in the queue that it is in."""


def isolated(message: ReceivedMessage) -> dict[str, Any]:
    """
    Make what is put into the queue of those that are handled alone.

    Returns:
        The arguments of kombu's ``publish``, but for where to.
    """
    return dead_letter(message, "is handled alone")


def restored(message: ReceivedMessage) -> ReceivedMessage:
    """
    Return *message*, which was taken from that queue, as it was before.
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
