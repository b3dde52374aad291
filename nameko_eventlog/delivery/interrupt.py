"""
Raise Ctrl-C's KeyboardInterrupt where it cannot break green threads.
"""

from __future__ import annotations

import signal
import weakref
from types import FrameType

from eventlet import hubs, patcher


_os_threading = patcher.original("threading")


class Interrupt:
    """
    Raise Ctrl-C's KeyboardInterrupt in eventlet's hub, between two of its timers.

    Python raises it between any two bytecode instructions of whichever green thread is running.
    In the relay an event log may just have left the outbox and not be in flight yet; in the hub a
    timer may just have left its queue and not have fired yet. Raised between two timers, eventlet
    passes it to the main green thread, where ``nameko run`` waits for it.

    A program with its own SIGINT handler keeps it. A second Ctrl-C, before the first was raised,
    is raised at once: then some green thread does not yield.
    """

    def __init__(self) -> None:
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._is_pending = False

    def acquire(self, user: object) -> None:
        """
        Replace Python's default handler on behalf of *user*.
        """
        if _os_threading.current_thread() is not _os_threading.main_thread():
            return  # only the main thread receives signals
        self._users.add(user)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._defer)

    def release(self, user: object) -> None:
        """
        Restore Python's default handler when the last user has released it.
        """
        if user not in self._users:
            return
        self._users.remove(user)
        if not self._users and signal.getsignal(signal.SIGINT) == self._defer:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _defer(self, number: int, frame: FrameType | None) -> None:
        if self._is_pending:
            signal.default_int_handler(number, frame)
        self._is_pending = True
        hubs.get_hub().schedule_call_global(0, self._raise)

    def _raise(self) -> None:
        self._is_pending = False
        raise KeyboardInterrupt


interrupt = Interrupt()
