"""
What consumers have done, in numbers.
"""

from __future__ import annotations

import weakref
from dataclasses import asdict, dataclass
from typing import Literal, Protocol


Outcome = Literal["handled", "skipped", "dead_letters", "isolated"]


@dataclass(slots=True)
class ConsumerCounts:
    """
    What became of the event logs that a consumer has received.

    Args:
        received: Deliveries of the broker's.
        handled: Acknowledged after the method has returned.
        skipped: Acknowledged without a call: of an event type that the method does not want.
        dead_letters: Moved to the queue of dead letters.
        isolated: Moved to the queue of those that are handled alone.
        returned: Given back to the broker, or lost with the connection: delivered again.
        retries: Calls of the method beyond the first.
    """

    received: int = 0
    handled: int = 0
    skipped: int = 0
    dead_letters: int = 0
    isolated: int = 0
    returned: int = 0
    retries: int = 0

    def add(self, outcome: Outcome, number: int) -> None:
        """
        Count what is done with.
        """
        setattr(self, outcome, getattr(self, outcome) + number)

    @property
    def waiting(self) -> int:
        """
        How many are received and not done with: in a call, or before one.
        """
        done = self.handled + self.skipped + self.dead_letters + self.isolated + self.returned
        return self.received - done


@dataclass(slots=True)
class StoreCounts:
    """
    What the store has written and deleted; what writes and deletes adds to them.

    Args:
        rows: Event logs that were inserted.
        duplicates: Event logs that were there before.
        rejects: Messages that were kept as rejects.
        write_seconds: For how long the database was waited for by writing.
        purged: Event logs and rejects that retention has deleted.
    """

    rows: int = 0
    duplicates: int = 0
    rejects: int = 0
    write_seconds: float = 0.0
    purged: int = 0

    def as_dict(self) -> dict[str, float]:
        """
        Return them by their names.
        """
        return asdict(self)


class Counted(Protocol):
    """
    A consumer that runs.
    """

    @property
    def label(self) -> str:
        """
        The service and the method, with a dot between them.
        """

    def stats(self) -> dict[str, float]:
        """
        Return its counts.
        """


_running: weakref.WeakSet[Counted] = weakref.WeakSet()


def register(consumer: Counted) -> None:
    """
    Let `consumer_stats` return the counts of *consumer*, until `unregister`.
    """
    _running.add(consumer)


def unregister(consumer: Counted) -> None:
    """
    End that.
    """
    _running.discard(consumer)


def consumer_stats() -> dict[str, dict[str, float]]:
    """
    Return the counts of each handler of event logs that runs in this process.

    Returns:
        By service and method, ``"eventlog_store.store"``, the counts of the reference; those of
        several instances of one service are added up, but for ``held_seconds``, which is the
        longest.

    .. versionadded:: 0.1.0
    """
    found: dict[str, dict[str, float]] = {}
    for consumer in list(_running):
        known = found.setdefault(consumer.label, {})
        for name, count in consumer.stats().items():
            before = known.get(name, 0)
            known[name] = max(before, count) if name == "held_seconds" else before + count
    return found
