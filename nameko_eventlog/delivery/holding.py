"""
How much memory the messages take that an outbox holds.

Headers are those of a worker, and all of its messages share them: they count once, as long as one
of these is held. This is a bound and no ledger: OS threads that come between each other's steps
may make it wrong by a message.
"""

from __future__ import annotations

from nameko_eventlog.amqp.tables import SharedTable, weigh
from nameko_eventlog.delivery.entry import OutboxEntry


OVERHEAD = 400
"""
About what a message takes in memory beside its body and headers, in bytes.

Its event type is a literal of the service's, mostly.
"""


def hold(message: OutboxEntry) -> int:
    """
    Return how many bytes more are held with *message*.
    """
    size = OVERHEAD + len(message.body)
    headers = message.headers
    if type(headers) is SharedTable:
        holders = headers.holders
        headers.holders = holders + 1
        return size if holders else size + headers.weight
    return size + weigh(headers) if headers else size


def release(message: OutboxEntry) -> int:
    """
    Return how many bytes less are held without *message*.
    """
    size = OVERHEAD + len(message.body)
    headers = message.headers
    if type(headers) is SharedTable:
        holders = headers.holders = headers.holders - 1
        return size if holders > 0 else size + headers.weight
    return size + weigh(headers) if headers else size
