"""
The calls of a handler: each in a worker of its service, and with an end.
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

_AGAIN = 1.0  # seconds after which a call that goes on after it was killed is killed again


class Calls:
    """
    Calls the handler with batches, of which each waits for a worker by itself.

    Args:
        entrypoint: The handler's, which is bound to a container.
        is_single: Whether it is called with one event log, and not with a list.
        seconds: After how long a call is ended, which is a failed attempt; None for never.
        on_end: Called when a call has ended, which is then in `ended`.
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
        """Calls that have ended, each with what it has raised, until `forget`."""
        self.weight = 0
        """Of the batches that the handler is called with."""

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, batch: Batch) -> None:
        """
        Call the handler with *batch* when there is a worker for it.
        """
        attempt = Attempt(batch)
        self._begun.add(attempt)
        self.weight += batch.weight
        # a full pool of workers makes who spawns wait: not the thread with the heartbeats
        attempt.thread = self._container.spawn_managed_thread(
            partial(self._work, attempt), identifier="event logs"
        )

    def forget(self, attempt: Attempt) -> None:
        """
        Count *attempt*, which has ended, no longer.
        """
        self._begun.discard(attempt)
        self.weight -= attempt.batch.weight

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self._begun)

    def of(self, connection: int | None) -> list[Attempt]:
        """
        Return the calls with what one connection has delivered.
        """
        return [attempt for attempt in self._begun if attempt.batch.connection == connection]

    def is_alone(self) -> bool:
        """
        Tell whether the one call that runs is with an event log that is handled alone.
        """
        return len(self._begun) == 1 and next(iter(self._begun)).batch.is_alone

    def drop_waiting(self) -> None:
        """
        Drop what has no worker yet: the connection is lost, and it will be delivered again.
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
                context_data=dict(batch.context),  # Nameko takes the call stack out of it
                handle_result=partial(self._handle_result, attempt),
            )
            attempt.worker = compat.worker_thread(self._container, worker_ctx)
            self._wait_for(attempt)
        except ContainerBeingKilled:
            return  # it goes back to the queue with the connection
        except BaseException as exc:  # Nameko tells of no eventlet.Timeout, for one
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
        reason = f"a call took longer than handler_timeout={self._seconds:g} s"
        _log.warning("%s: %s and is ended", self._entrypoint.label, reason)
        while not worker.dead:
            worker.kill()
            if not worker.dead:  # it has caught that, or has something to clean up
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
