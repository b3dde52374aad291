"""
The event logs accepted and not yet confirmed, and the count of what became of each.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.message import Message


class Ledger:
    """
    Count every accepted event log once, under what became of it.
    """

    def __init__(self) -> None:
        self._entered = Counter()
        self._withdrawn = Counter()
        self.confirmed = Counter()
        self.undelivered = Counter()
        self.republished = Counter()

    def enter(self) -> None:
        """
        Count an event log that was accepted.
        """
        self._entered.increment()

    def withdraw(self) -> None:
        """
        Take an event log back that its caller was told was not accepted after all.
        """
        self._withdrawn.increment()

    def stats(self) -> dict[str, int]:
        """
        Return the counts; ``accepted`` is the sum of the next three.
        """
        confirmed = self.confirmed.value
        undelivered = self.undelivered.value
        withdrawn = self._withdrawn.value
        # read last: whatever happens meanwhile counts as waiting, never below zero
        accepted = self._entered.value - withdrawn
        return {
            "accepted": accepted,
            "confirmed": confirmed,
            "waiting": accepted - confirmed - undelivered,
            "undelivered": undelivered,
            "republished": self.republished.value,
        }


class Outbox(Protocol):
    """
    Where accepted event logs are until the broker has them.

    ``put`` and ``withdraw`` are called from any thread; everything else from the relay's.
    """

    def put(self, message: Message) -> bool:
        """
        Keep *message*; False if there is no room.
        """

    def take(self, limit: int) -> list[Message]:
        """
        Return the next messages, first in, first out; they stay kept until settled.
        """

    def settle(self, message: Message) -> None:
        """
        Let go of a message that was taken: it is confirmed, or undelivered.
        """

    def withdraw(self, message: Message) -> None:
        """
        Let go of a message that its waiter has claimed back.
        """

    def close(self) -> list[Message]:
        """
        Let go of everything that was not taken, and return what would be lost by it.
        """

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """

    @property
    def fill(self) -> float:
        """
        How full it is: 0 is empty, 1 full.
        """


class MemoryOutbox:
    """
    An outbox in memory, bounded by number and by bytes.

    Args:
        size: The most messages.
        size_bytes: The most bytes, bodies and what a message costs beside.
    """

    OVERHEAD = 400
    """About what a message takes in memory beside its body, in bytes."""

    def __init__(self, size: int, size_bytes: int) -> None:
        self._size = size
        self._size_bytes = size_bytes
        self._queue: deque[Message] = deque()
        self._taken = 0
        self._bytes = 0

    def put(self, message: Message) -> bool:
        """
        Keep *message*; False if there is no room.
        """
        size = len(message.body) + self.OVERHEAD
        waiting = self.waiting
        # whatever its size, one message is let into an empty outbox
        if waiting and (waiting >= self._size or self._bytes + size > self._size_bytes):
            return False
        self._queue.append(message)
        self._bytes += size
        return True

    def take(self, limit: int) -> list[Message]:
        """
        Return the next messages, first in, first out; they stay kept until settled.

        What a waiter has claimed back meanwhile is let go of.
        """
        batch: list[Message] = []
        queue = self._queue
        while queue and len(batch) < limit:
            message = queue.popleft()
            if message.waiter is not None and not message.waiter.take():
                self._forget(message)
                continue
            self._taken += 1
            batch.append(message)
        return batch

    def settle(self, message: Message) -> None:
        """
        Let go of a message that was taken.
        """
        self._taken -= 1
        self._forget(message)

    def withdraw(self, message: Message) -> None:
        """
        Let go of a message that its waiter has claimed back; the relay may have, before.
        """
        try:
            self._queue.remove(message)  # compares identities: one step, and quick
        except ValueError:
            return
        self._forget(message)

    def close(self) -> list[Message]:
        """
        Let go of everything that was not taken, and return it.
        """
        left = self.take(len(self._queue))
        for message in left:
            self.settle(message)
        return left

    def _forget(self, message: Message) -> None:
        # a bound, not a ledger: an OS thread may come between the reading and the writing,
        # and the count begins anew whenever the outbox is empty
        self._bytes -= len(message.body) + self.OVERHEAD
        if not self.waiting:
            self._bytes = 0

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        return len(self._queue) + self._taken

    @property
    def fill(self) -> float:
        """
        How full it is, by number or by bytes, whichever is more.
        """
        return max(self.waiting / self._size, self._bytes / self._size_bytes)
