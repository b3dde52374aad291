"""
The event logs accepted and not yet confirmed, and the count of what became of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.message import Message


class Ledger:
    """
    Count every accepted event log once, under what became of it.
    """

    enter: Callable[[], object]
    """Count an event log that was accepted."""

    def __init__(self) -> None:
        self._entered = Counter()
        self.enter = self._entered.increment
        self._withdrawn = Counter()
        self.confirmed = Counter()
        self.undelivered = Counter()
        self.republished = Counter()

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


class Level(IntEnum):
    """
    How full an outbox is, and so how many turns a log call gives the relay.
    """

    LOW = 0
    GATHERED = 1
    """`TURN` messages since the relay last had a turn: the log call gives it one."""
    HIGH = 2
    """Every log call does."""
    NEARLY_FULL = 3
    """
    That turn lasts until there is room again, while the broker is well.

    The rest is for those who must not wait: OS threads, signal handlers, the hub.
    """
    FULL = 4


_LOW = Level.LOW

TURN = 100
"""After how many messages without a turn the relay is given one: the broker should not wait."""

OVERHEAD = 400
"""About what a message takes in memory beside its body, in bytes."""

HIGH_WATER = 0.5
NEARLY_FULL_WATER = 0.9
"""From which part of an outbox on it is so full."""


def fill_level(waiting: int, size: int, kept: int, size_bytes: int) -> Level:
    """
    Tell how full memory is, by number or by bytes, whichever is more.

    Whatever its size, one message is let into what is empty.

    Args:
        waiting: How many messages are there.
        size: The most messages.
        kept: How many bytes there would be.
        size_bytes: The most bytes.
    """
    if not waiting:
        return Level.LOW
    if waiting >= size or kept > size_bytes:
        return Level.FULL
    fill = max(waiting / size, kept / size_bytes)
    if fill > NEARLY_FULL_WATER:
        return Level.NEARLY_FULL
    return Level.HIGH if fill > HIGH_WATER else Level.LOW


class Outbox(Protocol):
    """
    Where accepted event logs are until the broker has them.

    ``put`` and ``withdraw`` are called from any thread; everything else from the relay's.
    """

    def put(self, message: Message) -> Level:
        """
        Keep *message*, unless there is no room.

        Returns:
            How full the outbox was; ``FULL`` if *message* is not kept.
        """

    def take(self, limit: int) -> list[Message]:
        """
        Return the next messages, first in, first out; they stay kept until settled.
        """

    def settle(self, message: Message) -> None:
        """
        Let go of a message that was taken: it is confirmed, or undelivered.
        """

    def withdraw(self, message: Message) -> bool:
        """
        Let go of a message that its waiter has claimed back, and tell whether that is so.
        """

    def start(self) -> None:
        """
        Begin: the hub runs.
        """

    def close(self, taken: list[Message]) -> list[Message]:
        """
        End, and return what would be lost by it.

        Args:
            taken: What was taken and is not settled.
        """

    def abandon(self) -> None:
        """
        Leave everything to the parent, in a forked child.
        """

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """

    @property
    def at_risk(self) -> int:
        """
        How many messages are lost if the process is killed.
        """

    @property
    def level(self) -> Level:
        """
        How full it is.
        """

    @property
    def oldest(self) -> Message | None:
        """
        The next message, if it is in memory.
        """


class MemoryOutbox:
    """
    An outbox in memory, bounded by number and by bytes.

    Args:
        size: The most messages.
        size_bytes: The most bytes, bodies and what a message costs beside.
    """

    def __init__(self, size: int, size_bytes: int) -> None:
        self._size = size
        self._size_bytes = size_bytes
        self._high = size * HIGH_WATER
        self._high_bytes = size_bytes * HIGH_WATER
        self._turn_at = TURN  # in the queue
        self._queue: deque[Message] = deque()
        self._taken = 0
        self._bytes = 0

    def put(self, message: Message) -> Level:
        """
        Keep *message*, unless there is no room.

        Whatever its size, one message is let into an empty outbox.

        Returns:
            How full the outbox was; ``FULL`` if *message* is not kept.
        """
        queue = self._queue
        waiting = len(queue) + self._taken
        kept = self._bytes + len(message.body) + OVERHEAD
        level = _LOW
        if waiting >= self._high or kept > self._high_bytes:
            level = self._level(waiting, kept)
            if level is Level.FULL:
                return level
        elif len(queue) >= self._turn_at:
            self._turn_at += TURN
            level = Level.GATHERED
        queue.append(message)
        self._bytes = kept
        return level

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
        self._turn_at = len(queue) + TURN
        return batch

    def settle(self, message: Message) -> None:
        """
        Let go of a message that was taken.
        """
        self._taken -= 1
        self._forget(message)

    def withdraw(self, message: Message) -> bool:
        """
        Let go of a message that its waiter has claimed back; the relay may have, before.
        """
        try:
            self._queue.remove(message)  # compares identities: one step, and quick
        except ValueError:
            return True
        self._forget(message)
        return True

    def start(self) -> None:
        """
        Do nothing: memory is there.
        """

    def close(self, taken: list[Message]) -> list[Message]:
        """
        Let go of everything, and return it.
        """
        left = taken + self.take(len(self._queue))
        for message in left:
            self.settle(message)
        return left

    def abandon(self) -> None:
        """
        Do nothing: the child has a copy of its own.
        """

    def _forget(self, message: Message) -> None:
        # a bound, not a ledger: an OS thread may come between the reading and the writing,
        # and the count begins anew whenever the outbox is empty
        self._bytes -= len(message.body) + OVERHEAD
        if not self.waiting:
            self._bytes = 0

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        return len(self._queue) + self._taken

    @property
    def at_risk(self) -> int:
        """
        How many messages are lost if the process is killed: all of them.
        """
        return self.waiting

    @property
    def level(self) -> Level:
        """
        How full it is, by number or by bytes, whichever is more.
        """
        return self._level(self.waiting, self._bytes)

    @property
    def oldest(self) -> Message | None:
        """
        The next message.
        """
        try:
            return self._queue[0]
        except IndexError:
            return None

    def _level(self, waiting: int, kept: int) -> Level:
        return fill_level(waiting, self._size, kept, self._size_bytes)
