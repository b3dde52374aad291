"""
An event log in the outbox: the message that travels, and what becomes of it.
"""

from __future__ import annotations

from nameko_eventlog.amqp.message import Message
from nameko_eventlog.delivery.waiting import Waiter


class OutboxEntry(Message, gc=False, eq=False):
    """
    A message, and what becomes of it; one object, since a log call makes one.

    Args:
        waiter: Who waits for the confirm, if anybody does.
        failures: How often it ended a connection, alone.
        was_sent: Whether it was published before.
        refusals: How often the broker refused it.
        place: A handle that the spool gives it once it is on disk; only the spool looks into it.
    """

    waiter: Waiter | None = None
    failures: int = 0
    was_sent: bool = False
    refusals: int = 0
    place: object | None = None
