"""
How psycopg2 waits for PostgreSQL, in green threads and in real ones.
"""

from __future__ import annotations

from typing import Any

import psycopg2
from eventlet import patcher
from psycopg2 import extensions

from nameko_eventlog.store.deadlines import Deadline


WAIT_SECONDS = 45.0
"""How long a real thread waits for an answer: a server that takes longer is dead."""

GRACE_SECONDS = 1.0
"""How long to wait after the deadline: PostgreSQL usually cancels the query by itself."""

_select = patcher.original("select")
_thread = patcher.original("_thread")


class Connection(extensions.connection):
    """
    A connection of psycopg2 with a deadline.
    """

    deadline: Deadline | None = None


def wait_in_real_threads() -> None:
    """
    Let psycopg2 wait in real threads as if there were no green ones.

    It has one wait callback for all connections of a process. After ``eventlet.monkey_patch`` that
    is eventlet's, which starts a hub in any thread that calls it, and ignores ``connect_timeout``.
    The thread that calls this function keeps eventlet's.
    """
    green = extensions.get_wait_callback()
    if green is None or isinstance(green, _Wait):
        return
    extensions.set_wait_callback(_Wait(green, _thread.get_ident()))


class _Wait:
    """
    Waits until a connection has finished its operation.
    """

    def __init__(self, green: Any, green_thread: int) -> None:
        self._green = green
        self._green_thread = green_thread

    def __call__(self, connection: Any, *args: Any, **kwargs: Any) -> None:
        if _thread.get_ident() == self._green_thread:
            self._green(connection, *args, **kwargs)
            return
        # PostgreSQL cannot cancel some operations, such as a search through a long list
        deadline = getattr(connection, "deadline", None)
        while (state := connection.poll()) != extensions.POLL_OK:
            seconds = WAIT_SECONDS
            if deadline is not None:
                seconds = min(seconds, max(deadline.left(), 0.0) + GRACE_SECONDS)
            event = _select.POLLIN if state == extensions.POLL_READ else _select.POLLOUT
            poll = _select.poll()
            poll.register(connection.fileno(), event)
            if not poll.poll(seconds * 1000):
                # psycopg2 closes the connection after this
                raise psycopg2.OperationalError(f"no answer within {seconds:.3g} s")
