"""
Databases beside green threads: what waits for one runs in a thread of ``eventlet.tpool``.
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
        What waits for it, and returns or raises what it does. Nobody else hears of an exception:
        eventlet writes those of its threads to standard error, too.
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
        seconds: For how long: a call that takes longer goes on, and nobody waits for it but
            those that come after it.
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
        # a green thread of its own: who waits may be killed, the call must keep its turn
        wait = spawn(partial(self._run, call))
        with eventlet.Timeout(self._seconds, False):
            return wait()
        reason = f"did not answer within {self._seconds:g} s"
        raise DatabaseError(f"the database {reason}", f"it {reason}")

    def _run(self, call: Callable[[], T]) -> T:
        with self._turn:
            result: T = tpool.execute(call)
            return result
