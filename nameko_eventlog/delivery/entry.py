"""
An event log in the outbox: its message and its delivery state.
"""

from __future__ import annotations

from nameko_eventlog.amqp.message import Message
from nameko_eventlog.delivery.waiting import Waiter


class OutboxEntry(Message, gc=False, eq=False):
    """
    A message and its delivery state, in one object: every log call makes one.

    Args:
        waiter: The manual call that waits for the confirm, or None.
        failures: How often it was the only message in flight when a connection failed.
        was_sent: Whether it was published before.
        refusals: How often the broker refused it.
        place: A handle from the spool, once it is on disk; only the spool reads it.
    """

    waiter: Waiter | None = None
    failures: int = 0
    was_sent: bool = False
    refusals: int = 0
    place: object | None = None
