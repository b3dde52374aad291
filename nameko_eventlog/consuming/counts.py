"""
Counts of what consumers have done.
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
        received: Deliveries from the broker.
        handled: Acknowledged after the method returned.
        skipped: Acknowledged without a call: the method does not want their event type.
        dead_letters: Moved to the queue of dead letters.
        isolated: Moved to the queue of event logs that are handled alone.
        returned: Returned to the broker, or lost with the connection; they are redelivered.
        retries: Calls of the method after the first.
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
        Count settled messages.
        """
        setattr(self, outcome, getattr(self, outcome) + number)

    @property
    def waiting(self) -> int:
        """
        How many are received and not settled: in a call, or before it.
        """
        done = self.handled + self.skipped + self.dead_letters + self.isolated + self.returned
        return self.received - done


@dataclass(slots=True)
class StoreCounts:
    """
    What the store has written and deleted.

    Args:
        rows: Event logs inserted.
        duplicates: Event logs that existed already.
        rejects: Messages kept as rejects.
        write_seconds: The time spent waiting for the database while writing.
        purged: Event logs and rejects deleted by retention.
    """

    rows: int = 0
    duplicates: int = 0
    rejects: int = 0
    write_seconds: float = 0.0
    purged: int = 0

    def as_dict(self) -> dict[str, float]:
        """
        Return the counts by name.
        """
        return asdict(self)


class Counted(Protocol):
    """
    A running consumer.
    """

    @property
    def label(self) -> str: ...

    def stats(self) -> dict[str, float]: ...


_running: weakref.WeakSet[Counted] = weakref.WeakSet()


def register(consumer: Counted) -> None:
    """
    Include *consumer* in `consumer_stats` until `unregister`.
    """
    _running.add(consumer)


def unregister(consumer: Counted) -> None:
    """
    Exclude *consumer* from `consumer_stats`.
    """
    _running.discard(consumer)


def consumer_stats() -> dict[str, dict[str, float]]:
    """
    Return the counts of each handler of event logs that runs in this process.

    Returns:
        By service and method, ``"eventlog_store.store"``, the counts of the reference. Those of
        several instances of a service are added up, except ``held_seconds``, where the maximum
        is taken.

    .. versionadded:: 0.1.0
    """
    found: dict[str, dict[str, float]] = {}
    for consumer in list(_running):
        known = found.setdefault(consumer.label, {})
        for name, count in consumer.stats().items():
            before = known.get(name, 0)
            known[name] = max(before, count) if name == "held_seconds" else before + count
    return found
