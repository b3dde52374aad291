"""
The event logs that are accepted and not yet confirmed, and the counts of their outcomes.
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
    Count every accepted event log once, by its outcome.

    The outbox counts messages atomically when it takes them from its queue and when it lets go of
    them: see `steps`. Messages in the queue are counted by its length, so that a log call need not
    count.
    """

    def __init__(self) -> None:
        self.entered = Counter()
        """Accepted event logs, except those that are still queued."""
        self.queued: Callable[[], int] = int
        """Returns how many are queued; the outbox sets it."""
        self.withdrawn = Counter()
        """Event logs that were accepted, then withdrawn: their callers got `NotConfirmed`."""
        self.confirmed = Counter()
        self.undelivered = Counter()
        self.rejected = Counter()
        """Event logs that found no room; they count as accepted and as undelivered."""
        self.republished = Counter()

    def enter(self) -> None:
        """
        Count an event log that is accepted and not queued.
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
        # read last: event logs accepted meanwhile count as waiting, which is never below zero
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
            if entered == self.entered.value:  # else the relay has taken some meanwhile
                return entered + queued


class Level(IntEnum):
    """
    How full an outbox is, which decides how often a log call yields to the relay.
    """

    LOW = 0
    GATHERED = 1
    """`TURN` messages have gathered since the relay last ran: the log call yields once."""
    HIGH = 2
    """Every log call yields once."""
    NEARLY_FULL = 3
    """
    A log call yields until there is room again, while the broker confirms.

    The remaining room is for callers that cannot yield: OS threads, signal handlers, the hub.
    """
    FULL = 4


_LOW = Level.LOW

TURN = 100
"""After how many messages a log call yields to the relay, so that the broker is kept busy."""

HIGH_WATER = 0.5
NEARLY_FULL_WATER = 0.9
"""The fractions of an outbox above which its level is `HIGH` or `NEARLY_FULL`."""


def fill_level(waiting: int, size: int, kept: int, size_bytes: int) -> Level:
    """
    Return the level by number or by bytes, whichever is higher.

    An empty outbox accepts one message of any size.

    Args:
        waiting: How many messages the outbox has.
        size: The most messages.
        kept: How many bytes it would have.
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
    Keeps and counts accepted event logs until the broker has them.

    ``put`` and ``withdraw`` may be called from any thread, the others from the relay's thread.
    """

    def put(self, message: OutboxEntry) -> Level:
        """
        Keep *message* and count it as accepted, if there is room.

        An empty outbox accepts one message of any size.

        Returns:
            How full the outbox was; ``FULL`` if *message* is not kept.
        """

    def take(self, limit: int) -> list[OutboxEntry]:
        """
        Return the next messages, first in, first out. They stay in `taken` until settled.

        Messages that their waiters have claimed back are dropped.
        """

    @property
    def taken(self) -> KeysView[OutboxEntry]:
        """
        The messages that were taken and are not settled, in the order in which they were taken.

        After an interruption there may be more than `take` has returned.
        """

    def settle(self, message: OutboxEntry, counter: Counter) -> None:
        """
        Let go of a message that was taken, and count its outcome, once.
        """

    def settle_all(self, messages: list[OutboxEntry], counter: Counter) -> None:
        """
        Settle several messages atomically.
        """

    def withdraw(self, message: OutboxEntry) -> bool:
        """
        Let go of a message that its waiter has claimed back; return whether it is gone.
        """

    def holds(self, message: OutboxEntry) -> bool:
        """
        Tell whether *message* is kept. This is slow.
        """

    def start(self) -> None:
        """
        Begin work that needs the hub.
        """

    def close(self) -> list[OutboxEntry]:
        """
        Close the outbox, and return the messages that would be lost; they stay until settled.
        """

    def abandon(self) -> None:
        """
        In a forked child, leave everything to the parent.
        """

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """

    @property
    def unpersisted_count(self) -> int:
        """
        How many messages would be lost if the process were killed.
        """

    @property
    def stalled_seconds(self) -> float:
        """
        How many seconds the disk has not responded.
        """

    @property
    def level(self) -> Level:
        """
        How full the outbox is.
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
    Claim *messages* for sending, and return those that their waiters have not claimed back.

    Args:
        messages: The messages that were taken; an earlier claim stays valid.
        outbox: Lets go of the others.
        counter: Counts the others.
    """
    found = []
    for message in messages:
        waiter = message.waiter
        # a message on disk is safe: its caller does not wait, and cannot claim it back
        if waiter is None or message.place is not None or waiter.take():
            found.append(message)
        else:
            outbox.settle(message, counter)
    return found


class MemoryOutbox:
    """
    An outbox in memory, bounded by number and by bytes. `Outbox` describes the methods.

    Args:
        size: The most messages.
        size_bytes: The most bytes that the messages take in memory.
        ledger: Counts the outcomes.
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
        batch: list[OutboxEntry] = []
        while self._queue and len(batch) < limit:
            moved = move(self._queue, self._taken, limit - len(batch), self._entered)
            batch += claimed(moved, self, self._withdrawn)
        self._turn_at = len(self._queue) + TURN
        return batch

    @property
    def taken(self) -> KeysView[OutboxEntry]:
        return self._taken.keys()

    def settle(self, message: OutboxEntry, counter: Counter) -> None:
        self.settle_all([message], counter)

    def settle_all(self, messages: list[OutboxEntry], counter: Counter) -> None:
        self._forget(remove_and_count(self._taken, messages, counter))

    def withdraw(self, message: OutboxEntry) -> bool:
        with suppress(ValueError):  # the relay may have dropped it already
            self._queue.remove(message)  # compares identities: atomic, and fast
            self._forget([message])
        return True

    def holds(self, message: OutboxEntry) -> bool:
        return message in self._queue or message in self._taken

    def start(self) -> None:
        """
        Do nothing: memory needs no hub.
        """

    def close(self) -> list[OutboxEntry]:
        self.take(len(self._queue))
        return list(self._taken)

    def abandon(self) -> None:
        """
        Do nothing: the child has its own copy of the memory.
        """

    def _forget(self, messages: list[OutboxEntry]) -> None:
        # only a bound: an OS thread may interrupt between reading and writing; the count is
        # reset whenever the outbox is empty
        self._bytes -= sum(map(release, messages))
        if not self.waiting:
            self._bytes = 0

    @property
    def waiting(self) -> int:
        return len(self._queue) + len(self._taken)

    @property
    def unpersisted_count(self) -> int:
        """
        All messages: none of them would survive the process.
        """
        return self.waiting

    @property
    def stalled_seconds(self) -> float:
        """
        Always 0: there is no disk.
        """
        return 0.0

    @property
    def level(self) -> Level:
        return self._level(self.waiting, self._bytes)

    @property
    def oldest(self) -> OutboxEntry | None:
        return oldest(self._taken, self._queue)

    def _level(self, waiting: int, kept: int) -> Level:
        return fill_level(waiting, self._size, kept, self._size_bytes)


def oldest(*kept: Iterable[OutboxEntry]) -> OutboxEntry | None:
    """
    Return the first message of the first collection that is not empty, or None.
    """
    for messages in kept:
        with suppress(RuntimeError):  # another OS thread changes it meanwhile
            for message in messages:
                return message
    return None
