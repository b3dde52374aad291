"""
The memory that the messages in an outbox take.

All messages of a worker share its headers, which count once while the outbox holds any of these
messages. The sum is a bound, not exact: OS threads that interrupt each other may make it wrong by
a message.
"""

from __future__ import annotations

from nameko_eventlog.amqp.tables import SharedTable, weigh
from nameko_eventlog.delivery.entry import OutboxEntry


OVERHEAD = 400
"""
About how many bytes a message takes in addition to its body and headers.

Its event type is not counted: mostly it is a literal in the service's code.
"""


def hold(message: OutboxEntry) -> int:
    """
    Return how many bytes *message* adds to an outbox.
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
    Return how many bytes an outbox frees when it lets go of *message*.
    """
    size = OVERHEAD + len(message.body)
    headers = message.headers
    if type(headers) is SharedTable:
        holders = headers.holders = headers.holders - 1
        return size if holders > 0 else size + headers.weight
    return size + weigh(headers) if headers else size
