"""
Ctrl-C, raised where green threads can stand it.
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

    Python raises it between any two steps of whichever green thread happens to run. In the
    relay that may be after an event log has left the outbox and before it is in flight, and in
    the hub after a timer has left its queue and before it has fired. From between two timers
    eventlet hands it to the main green thread, where ``nameko run`` waits for it.

    A program that handles SIGINT in its own way keeps doing so. A second Ctrl-C, before
    the first was raised, is raised at once: some green thread does not yield.
    """

    def __init__(self) -> None:
        self._users: weakref.WeakSet[object] = weakref.WeakSet()
        self._is_pending = False

    def acquire(self, user: object) -> None:
        """
        Take over from Python's own handler, on behalf of *user*.
        """
        if _os_threading.current_thread() is not _os_threading.main_thread():
            return  # which gets no signals
        self._users.add(user)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._defer)

    def release(self, user: object) -> None:
        """
        Give back to it what no other user needs.
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
