"""
What a handler is called with, and when it is called again.
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
    What `EventLogConsumer.read` returns for a message that its handler does not want.
    """


SKIPPED = _Skipped()


@dataclass(slots=True)
class Batch:
    """
    What the handler is called with, until it is done with.
    """

    messages: list[ReceivedMessage]
    values: list[Any]
    connection: int | None
    context: dict[str, Any] = field(default_factory=dict)  # what a single one's worker continues
    weight: int = 0  # bytes that the values may take
    attempts: int = 0
    due: float = 0.0
    failures: int = 0
    reason: str | None = None  # why it is moved to another queue, which is tried again
    is_alone: bool = False  # it is handled while nothing else is
    is_suspect: bool = False  # it is moved to the queue of those that are handled alone

    def postpone(self) -> None:
        """
        Count a failure, after which it is due later.
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
    thread: Any = None  # waits for a worker, and then for its end
    worker: Any = None


def retry_delay(failures: int) -> float:
    """
    Return how many seconds to wait after so many failures in a row.
    """
    return backoff(failures, FIRST_RETRY, LAST_RETRY)
