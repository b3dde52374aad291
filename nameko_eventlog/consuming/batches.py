"""
Batches of messages for a handler, and when a failed batch is tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.backoff import backoff


FIRST_RETRY, LAST_RETRY = 0.2, 30.0
"""Seconds before a handler that has failed is tried again."""


class _Skipped:
    """
    The type of `SKIPPED`.
    """


SKIPPED = _Skipped()
"""Returned by `EventLogConsumer.read` for a message that the handler does not want."""


@dataclass(slots=True)
class Batch:
    """
    The messages of one call of the handler, until they are settled.
    """

    messages: list[ReceivedMessage]
    values: list[Any]
    connection: int | None
    context: dict[str, Any] = field(default_factory=dict)  # of a single event log, for its worker
    weight: int = 0  # bytes of memory that the values may need
    attempts: int = 0
    due: float = 0.0
    failures: int = 0
    reason: str | None = None  # why it moves to another queue, while the broker refuses that
    is_alone: bool = False  # nothing else is handled at the same time
    is_suspect: bool = False  # it moves to the queue of event logs that are handled alone

    def postpone(self) -> None:
        """
        Count a failure, and set when to try again.
        """
        self.failures += 1
        self.due = monotonic() + retry_delay(self.failures)


@dataclass(slots=True, eq=False)
class Attempt:
    """
    One call of the handler.
    """

    batch: Batch
    is_over: bool = False
    exc: BaseException | None = None
    thread: Any = None  # waits for a worker, and then for the worker's end
    worker: Any = None


def retry_delay(failures: int) -> float:
    """
    Return how many seconds to wait after so many failures in a row.
    """
    return backoff(failures, FIRST_RETRY, LAST_RETRY)
