"""
The calls of a handler, each in a worker of its service, with a time limit.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import eventlet
from nameko.exceptions import ContainerBeingKilled

from nameko_eventlog import compat
from nameko_eventlog.consuming.batches import Attempt, Batch


_log = logging.getLogger("nameko_eventlog")

_AGAIN = 1.0  # seconds after which a call that survived a kill is killed again


class Calls:
    """
    Calls the handler with batches; each call waits for a worker in its own green thread.

    Args:
        entrypoint: The handler's entrypoint, bound to a container.
        is_single: Whether the handler takes one event log instead of a list.
        seconds: The time limit of a call, after which it is killed and has failed; None for none.
        on_end: Called when a call has ended and is in `ended`.
    """

    def __init__(
        self,
        entrypoint: Any,
        is_single: bool,
        seconds: float | None,
        on_end: Callable[[], None],
    ) -> None:
        self._entrypoint = entrypoint
        self._container = entrypoint.container
        self._is_single = is_single
        self._seconds = seconds
        self._on_end = on_end
        self._begun: set[Attempt] = set()
        self.ended: deque[Attempt] = deque()
        """Calls that have ended, each with its exception, until `forget`."""
        self.weight = 0
        """The total weight of the batches in calls."""

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, batch: Batch) -> None:
        """
        Call the handler with *batch* as soon as a worker is free.
        """
        attempt = Attempt(batch)
        self._begun.add(attempt)
        self.weight += batch.weight
        # spawning a worker blocks while the pool is full; the thread with the heartbeats must not
        attempt.thread = self._container.spawn_managed_thread(
            partial(self._work, attempt), identifier="event logs"
        )

    def forget(self, attempt: Attempt) -> None:
        """
        Stop counting *attempt*, which has ended.
        """
        self._begun.discard(attempt)
        self.weight -= attempt.batch.weight

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._begun)

    def of(self, connection: int | None) -> list[Attempt]:
        """
        Return the calls whose batches one connection has delivered.
        """
        return [attempt for attempt in self._begun if attempt.batch.connection == connection]

    def is_alone(self) -> bool:
        """
        Tell whether the only running call handles an event log that is handled alone.
        """
        return len(self._begun) == 1 and next(iter(self._begun)).batch.is_alone

    def drop_waiting(self) -> None:
        """
        Drop the calls without a worker: the connection is lost, and their batches are redelivered.
        """
        for attempt in list(self._begun):
            if attempt.worker is None and not attempt.is_over:
                attempt.is_over = True
                self.forget(attempt)
                attempt.thread.kill()

    def _work(self, attempt: Attempt) -> None:
        batch = attempt.batch
        args: Sequence[Any] = (batch.values[0] if self._is_single else batch.values,)
        try:
            worker_ctx = self._container.spawn_worker(
                self._entrypoint,
                args,
                {},
                context_data=dict(batch.context),  # Nameko removes the call stack from it
                handle_result=partial(self._handle_result, attempt),
            )
            attempt.worker = compat.worker_thread(self._container, worker_ctx)
            self._wait_for(attempt)
        except ContainerBeingKilled:
            return  # the batch goes back to the queue when the connection closes
        except BaseException as exc:  # Nameko does not report an eventlet.Timeout
            if not compat.is_being_killed(self._container):
                self._end(attempt, exc)

    def _wait_for(self, attempt: Attempt) -> None:
        worker = attempt.worker
        if self._seconds is None:
            worker.wait()
            return
        with eventlet.Timeout(self._seconds, False):
            worker.wait()
            return
        reason = f"the call took longer than handler_timeout={self._seconds:g} s"
        _log.warning("%s: %s; killing it", self._entrypoint.label, reason)
        while not worker.dead:
            worker.kill()
            if not worker.dead:  # it caught the kill, or is cleaning up
                eventlet.sleep(_AGAIN)
        self._end(attempt, TimeoutError(reason))

    def _handle_result(
        self, attempt: Attempt, worker_ctx: Any, result: Any, exc_info: Any
    ) -> tuple[Any, Any]:
        self._end(attempt, exc_info and exc_info[1])
        return result, exc_info

    def _end(self, attempt: Attempt, exc: BaseException | None) -> None:
        if not attempt.is_over:
            attempt.is_over = True
            attempt.exc = exc
            self.ended.append(attempt)
            self._on_end()
