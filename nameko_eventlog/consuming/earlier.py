"""
Calls that outlive the connection that delivered their event logs.

The broker delivers these event logs again, and the copies must not be handled at the same time.
"""

from __future__ import annotations

from collections.abc import Iterable

from nameko_eventlog import limits
from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.consuming.batches import Attempt, Batch


class EarlierCalls:
    """
    Recognises the copies by their message ids; an event log without an id is handled again.
    """

    def __init__(self) -> None:
        self._running: dict[str, Attempt] = {}
        self._copies: dict[str, tuple[ReceivedMessage, bool]] = {}
        self._handled: dict[str, None] = {}  # in the order in which their calls ended

    def connection_lost(self, attempts: Iterable[Attempt]) -> None:
        """
        Note which calls go on, and drop the copies that an earlier connection delivered.
        """
        self._copies.clear()
        for attempt in attempts:
            for message in attempt.batch.messages:
                if (message_id := _id(message)) is not None:
                    self._running[message_id] = attempt

    def was_handled(self, message: ReceivedMessage) -> bool:
        """
        Tell, once, whether a call with *message* has returned since the connection was lost.
        """
        message_id = _id(message)
        if message_id is None or message_id not in self._handled:
            return False
        del self._handled[message_id]
        return True

    def keep(self, message: ReceivedMessage, is_alone: bool = False) -> bool:
        """
        Keep *message* if a call with it is running, until the call has ended.

        Returns:
            Whether it is kept.
        """
        message_id = _id(message)
        if message_id is None or message_id not in self._running:
            return False
        self._copies[message_id] = (message, is_alone)
        return True

    def ended(self, attempt: Attempt, connection: int | None) -> Batch | None:
        """
        Note that a call has ended.

        Returns:
            A batch of the copies that were delivered, to be settled like the call, or None.
        """
        batch = attempt.batch
        copy = Batch([], [], connection, batch.context, attempts=batch.attempts)
        for message, value in zip(batch.messages, batch.values, strict=True):
            message_id = _id(message)
            if message_id is None or self._running.get(message_id) is not attempt:
                continue
            del self._running[message_id]
            found = self._copies.pop(message_id, None)
            if found is not None:
                copy.messages.append(found[0])
                copy.values.append(value)
                copy.is_alone = found[1]
                copy.weight += message.decoded_weight
            elif attempt.exc is None:
                self._handled[message_id] = None
        while len(self._handled) > limits.REMEMBERED_IDS:
            del self._handled[next(iter(self._handled))]
        return copy if copy.messages else None


def _id(message: ReceivedMessage) -> str | None:
    message_id = message.properties.get("message_id")
    return message_id if isinstance(message_id, str) and message_id else None
