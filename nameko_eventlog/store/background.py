"""
Blocking database calls beside green threads: they run in threads of ``eventlet.tpool``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import eventlet
from eventlet import tpool
from eventlet.semaphore import Semaphore

from nameko_eventlog.store.databases import DatabaseError


T = TypeVar("T")


def spawn(call: Callable[[], T]) -> Callable[[], T]:
    """
    Run *call* in a green thread of its own.

    Returns:
        A function that waits for the call, and returns its result or raises its exception.
        Eventlet does not see the exception: it would write it to standard error as well.
    """

    def run() -> tuple[T, None] | tuple[None, Exception]:
        try:
            return call(), None
        except Exception as exc:
            return None, exc

    running = eventlet.spawn(run)

    def wait() -> T:
        result, exc = running.wait()
        if exc is not None:
            raise exc
        returned: T = result
        return returned

    return wait


class Background:
    """
    Runs one call at a time in a real thread, and lets green threads wait for it.

    Args:
        seconds: How long to wait for a call. A call that takes longer goes on, and later calls
            wait until it has ended.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = Semaphore()  # green: real threads never see it

    def run(self, call: Callable[[], T]) -> T:
        """
        Run *call*.

        Returns:
            What it returns.

        Raises:
            DatabaseError: If it takes too long.
            Exception: What it raises.
        """
        # in a green thread of its own: the caller may be killed, but the call must keep its turn
        wait = spawn(partial(self._run, call))
        with eventlet.Timeout(self._seconds, False):
            return wait()
        raise DatabaseError(
            f"the database did not answer within {self._seconds:g} s",
            reason=f"The database did not answer within {self._seconds:g} s.",
        )

    def _run(self, call: Callable[[], T]) -> T:
        with self._turn:
            result: T = tpool.execute(call)
            return result
