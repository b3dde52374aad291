"""
The event logs accepted and not yet confirmed, and the count of what became of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, KeysView
from contextlib import suppress
from enum import IntEnum
from typing import Any, Protocol

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.holding import hold, release
from nameko_eventlog.delivery.steps import move, remove_and_count


class Ledger:
    """
    Count every accepted event log once, under what became of it.

    The outbox counts what is taken from its queue, and what leaves it, in the step that does so:
    a signal handler may raise between any two of Python's steps, but not within a call that is
    written in C. What is still in the queue counts by being there, so that a log call has
    nothing to count.
    """

    def __init__(self) -> None:
        self.entered = Counter()
        """Those that were accepted, but for those that are still queued."""
        self.queued: Callable[[], int] = int
        """Returns how many are; the outbox puts its own here."""
        self.withdrawn = Counter()
        """Those that were taken, and taken back: their callers heard that they were not kept."""
        self.confirmed = Counter()
        self.undelivered = Counter()
        self.rejected = Counter()
        """Those that found no room; they count as accepted and as undelivered."""
        self.republished = Counter()

    def enter(self) -> None:
        """
        Count an event log that was accepted, and is not queued.
        """
        self.entered.increment()

    def stats(self) -> dict[str, int]:
        """
        Return the counts; ``accepted`` is the sum of the next three.
        """
        rejected = self.rejected.value
        confirmed = self.confirmed.value
        undelivered = self.undelivered.value + rejected
        withdrawn = self.withdrawn.value
        # read last: whatever happens meanwhile counts as waiting, never below zero
        accepted = self._entered_and_queued() - withdrawn + rejected
        return {
            "accepted": accepted,
            "confirmed": confirmed,
            "waiting": accepted - confirmed - undelivered,
            "undelivered": undelivered,
            "republished": self.republished.value,
        }

    def _entered_and_queued(self) -> int:
        while True:
            entered, queued = self.entered.value, self.queued()
            if entered == self.entered.value:  # or the relay has taken some meanwhile
                return entered + queued


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
    Where accepted event logs are until the broker has them, and what counts them.

    ``put`` and ``withdraw`` are called from any thread; everything else from the relay's.
    """

    def put(self, message: OutboxEntry) -> Level:
        """
        Keep *message* and count it as accepted, unless there is no room.

        Returns:
            How full the outbox was; ``FULL`` if *message* is not kept.
        """

    def take(self, limit: int) -> list[OutboxEntry]:
        """
        Return the next messages, first in, first out; they stay kept, in `taken`, until settled.
        """

    @property
    def taken(self) -> KeysView[OutboxEntry]:
        """
        What was taken and is not settled, in the order in which it was taken.

        After an interruption there may be more than what `take` has returned.
        """

    def settle(self, message: OutboxEntry, counter: Counter) -> None:
        """
        Let go of a message that was taken, and count what became of it, once.
        """

    def settle_all(self, messages: list[OutboxEntry], counter: Counter) -> None:
        """
        Do so for several, in one step.
        """

    def withdraw(self, message: OutboxEntry) -> bool:
        """
        Let go of a message that its waiter has claimed back, and tell whether that is so.
        """

    def holds(self, message: OutboxEntry) -> bool:
        """
        Tell whether *message* is kept; slowly.
        """

    def start(self) -> None:
        """
        Begin: the hub runs.
        """

    def close(self) -> list[OutboxEntry]:
        """
        End, and return what would be lost by it; that stays kept until it is settled.
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
    def unpersisted_count(self) -> int:
        """
        How many messages are lost if the process is killed.
        """

    @property
    def stalled_seconds(self) -> float:
        """
        For how long its disk has not answered.
        """

    @property
    def level(self) -> Level:
        """
        How full it is.
        """

    @property
    def oldest(self) -> OutboxEntry | None:
        """
        The oldest message, if it is in memory.
        """


def claimed(
    messages: Iterable[OutboxEntry], outbox: Outbox, counter: Counter
) -> list[OutboxEntry]:
    """
    Claim *messages* for sending, and return those that are not claimed back by who waits.

    Args:
        messages: What was taken; a claim that was made before holds.
        outbox: Lets go of the others.
        counter: Counts them.
    """
    found = []
    for message in messages:
        waiter = message.waiter
        # who waits is safe with what is on disk, and cannot claim it back
        if waiter is None or message.place is not None or waiter.take():
            found.append(message)
        else:
            outbox.settle(message, counter)
    return found


class MemoryOutbox:
    """
    An outbox in memory, bounded by number and by bytes.

    Args:
        size: The most messages.
        size_bytes: The most bytes, of all that the messages take in memory.
        ledger: Where to count.
    """

    def __init__(self, size: int, size_bytes: int, ledger: Ledger) -> None:
        self._size = size
        self._size_bytes = size_bytes
        self._high = size * HIGH_WATER
        self._high_bytes = size_bytes * HIGH_WATER
        self._turn_at = TURN  # in the queue
        self._entered = ledger.entered
        self._withdrawn = ledger.withdrawn
        self._queue: deque[OutboxEntry] = deque()
        self._taken: dict[OutboxEntry, Any] = {}
        ledger.queued = self._queue.__len__
        self._bytes = 0

    def put(self, message: OutboxEntry) -> Level:
        """
        Keep *message* and count it as accepted, unless there is no room.

        Whatever its size, one message is let into an empty outbox.

        Returns:
            How full the outbox was; ``FULL`` if *message* is not kept.
        """
        queue = self._queue
        waiting = len(queue) + len(self._taken)
        kept = self._bytes + hold(message)
        level = _LOW
        if waiting >= self._high or kept > self._high_bytes:
            level = self._level(waiting, kept)
            if level is Level.FULL:
                release(message)
                return level
        elif len(queue) >= self._turn_at:
            self._turn_at += TURN
            level = Level.GATHERED
        self._bytes = kept
        queue.append(message)
        return level

    def take(self, limit: int) -> list[OutboxEntry]:
        """
        Return the next messages, first in, first out; they stay kept until settled.

        What a waiter has claimed back meanwhile is let go of.
        """
        batch: list[OutboxEntry] = []
        while self._queue and len(batch) < limit:
            moved = move(self._queue, self._taken, limit - len(batch), self._entered)
            batch += claimed(moved, self, self._withdrawn)
        self._turn_at = len(self._queue) + TURN
        return batch

    @property
    def taken(self) -> KeysView[OutboxEntry]:
        """
        What was taken and is not settled, in the order in which it was taken.
        """
        return self._taken.keys()

    def settle(self, message: OutboxEntry, counter: Counter) -> None:
        """
        Let go of a message that was taken, and count what became of it, once.
        """
        self.settle_all([message], counter)

    def settle_all(self, messages: list[OutboxEntry], counter: Counter) -> None:
        """
        Do so for several, in one step.
        """
        self._forget(remove_and_count(self._taken, messages, counter))

    def withdraw(self, message: OutboxEntry) -> bool:
        """
        Let go of a message that its waiter has claimed back; the relay may have, before.
        """
        with suppress(ValueError):
            self._queue.remove(message)  # compares identities: one step, and quick
            self._forget([message])
        return True

    def holds(self, message: OutboxEntry) -> bool:
        """
        Tell whether *message* is kept; slowly.
        """
        return message in self._queue or message in self._taken

    def start(self) -> None:
        """
        Do nothing: memory is there.
        """

    def close(self) -> list[OutboxEntry]:
        """
        Return everything; it stays kept until it is settled.
        """
        self.take(len(self._queue))
        return list(self._taken)

    def abandon(self) -> None:
        """
        Do nothing: the child has a copy of its own.
        """

    def _forget(self, messages: list[OutboxEntry]) -> None:
        # a bound, not a ledger: an OS thread may come between the reading and the writing,
        # and the count begins anew whenever the outbox is empty
        self._bytes -= sum(map(release, messages))
        if not self.waiting:
            self._bytes = 0

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        return len(self._queue) + len(self._taken)

    @property
    def unpersisted_count(self) -> int:
        """
        How many messages are lost if the process is killed: all of them.
        """
        return self.waiting

    @property
    def stalled_seconds(self) -> float:
        """
        For how long its disk has not answered: it has none.
        """
        return 0.0

    @property
    def level(self) -> Level:
        """
        How full it is, by number or by bytes, whichever is more.
        """
        return self._level(self.waiting, self._bytes)

    @property
    def oldest(self) -> OutboxEntry | None:
        """
        The oldest message.
        """
        return oldest(self._taken, self._queue)

    def _level(self, waiting: int, kept: int) -> Level:
        return fill_level(waiting, self._size, kept, self._size_bytes)


def oldest(*kept: Iterable[OutboxEntry]) -> OutboxEntry | None:
    """
    Return the first message of the first that has one, or None.
    """
    for messages in kept:
        with suppress(RuntimeError):  # it changes while an OS thread looks
            for message in messages:
                return message
    return None
