"""
Waiting in green threads and in OS threads.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import eventlet
from eventlet import hubs, patcher
from greenlet import getcurrent


_os_thread = patcher.original("_thread")
_os_threading = patcher.original("threading")
_os_time = patcher.original("time")

_SIGNALS = tuple(signal.valid_signals())

# ``signal.getsignal`` converts to an enumeration, which takes 100 microseconds for all signals
_get_handler: Callable[[int], Any] = import_module("_signal").getsignal


class Waiter:
    """
    A manual call that waits for the outcome of its message.
    """

    def __init__(self) -> None:
        self._claims: dict[None, str] = {}
        self.confirmed = False
        self.reason: str | None = None
        self.sent = False

    def take(self) -> bool:
        """
        Claim the message for sending; return whether it succeeded.

        Either the relay or the waiter can claim it. The one that did may ask again, after an
        interruption for example.
        """
        return self._claims.setdefault(None, "relay") == "relay"  # atomic, in any thread

    def take_back(self) -> bool:
        """
        Claim the message for withdrawing, in the same way.
        """
        return self._claims.setdefault(None, "waiter") == "waiter"

    def confirm(self) -> None:
        """
        Set the outcome: the broker has confirmed the message.
        """
        self.confirmed = True
        self._end()

    def fail(self, reason: str, sent: bool) -> None:
        """
        Set the outcome: the message will not be delivered.

        Args:
            reason: Why not.
            sent: Whether it was sent nevertheless.
        """
        self.sent = sent
        self.reason = reason
        self._end()

    def wait(self, seconds: float) -> bool:
        """
        Wait for the outcome, within *seconds*; return whether the message was confirmed.
        """
        raise NotImplementedError

    def _end(self) -> None:
        """
        End `wait`.
        """
        raise NotImplementedError


class GreenWaiter(Waiter):
    """
    A waiter in a green thread of the relay's hub.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: Any = None

    def _end(self) -> None:
        if self._waiting is not None:
            hubs.get_hub().schedule_call_global(0, self._wake)

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.switch()

    def wait(self, seconds: float) -> bool:
        # eventlet's Event takes twice the time
        if self.confirmed or self.reason is not None:
            return self.confirmed
        hub = hubs.get_hub()
        self._waiting = getcurrent()
        timer = hub.schedule_call_global(seconds, self._wake)
        try:
            hub.switch()
        finally:
            self._waiting = None  # so that a scheduled `_wake` does nothing
            timer.cancel()
        return self.confirmed


class ThreadWaiter(Waiter):
    """
    A waiter in another OS thread, which must not use the hub: it waits on an unpatched primitive.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done = _os_threading.Event()

    def _end(self) -> None:
        self._done.set()

    def wait(self, seconds: float) -> bool:
        self._done.wait(seconds)
        return self.confirmed


class HubThread:
    """
    The OS thread of a relay's hub: the thread that makes this object.
    """

    def __init__(self) -> None:
        self._ident = _os_threading.get_ident()

    @property
    def is_here(self) -> bool:
        """
        Whether the caller runs in this OS thread.
        """
        return bool(_os_threading.get_ident() == self._ident)

    def can_wait(self) -> bool:
        """
        Tell whether the caller is a green thread of this hub, so that it can yield.
        """
        return self.is_here and getcurrent() is not hubs.get_hub().greenlet

    def waiter(self) -> GreenWaiter | ThreadWaiter:
        """
        Make a waiter for the caller.
        """
        return GreenWaiter() if self.is_here else ThreadWaiter()

    def sleep(self, seconds: float) -> None:
        """
        Sleep, in a green thread or in an OS thread.
        """
        if self.is_here:
            eventlet.sleep(seconds)
        else:
            _os_time.sleep(seconds)


def run_in_thread(call: Callable[[], object]) -> None:
    """
    Run *call* in a new OS thread, while other green threads run in this one.

    ``eventlet.tpool`` signals the end through a socket. A forked child that runs a hub reads from
    it as well, and then the parent waits forever.

    Raises:
        Exception: *call* raised it.
    """
    ends: list[Exception | None] = []

    def run() -> None:
        try:
            call()
        except Exception as exc:
            ends.append(exc)
        else:
            ends.append(None)

    _os_thread.start_new_thread(run, ())
    while not ends:
        eventlet.sleep(0.01)
    if ends[0] is not None:
        raise ends[0]


def may_yield() -> bool:
    """
    Tell whether the running code may switch to another green thread.

    A signal handler or a ``__del__`` may not: the code that it interrupts expects no switch.
    """
    handlers = _signal_handlers()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or code in handlers:
            return False
        frame = frame.f_back
    return True


def _signal_handlers() -> set[CodeType]:
    found = set()
    code: CodeType | None
    for number in _SIGNALS:
        handler = _get_handler(number)
        if not callable(handler):
            continue
        while isinstance(handler, functools.partial):
            handler = handler.func
        if isinstance(handler, (FunctionType, MethodType)):
            code = handler.__code__
        else:
            code = getattr(type(handler).__call__, "__code__", None)
        if code is not None:
            found.add(code)
    return found


class Notifier:
    """
    Let one green thread wait for a socket, a `notify`, or a timeout, whichever is first.

    ``hubs.trampoline`` waits for a socket or a timeout. `notify` switches into it, as eventlet's
    own primitives do.
    """

    def __init__(self, hub_thread: HubThread) -> None:
        self._hub_thread = hub_thread
        self._waiting: Any = None
        self._is_notified = False
        self._parked: list[Any] = []
        self._until = 0.0  # when the waiting thread should be awake

    def notify(self) -> None:
        """
        Wake the waiting thread. Another OS thread cannot do that: there, do nothing.
        """
        if self._is_notified:
            return
        waiting = self._waiting
        if waiting is None:
            self._is_notified = True
        elif self._hub_thread.is_here:
            self._is_notified = True
            self._waiting = None  # waking it once is enough
            hubs.get_hub().schedule_call_global(0, self._wake, waiting)

    def wake_overdue(self, seconds: float) -> None:
        """
        Wake the waiting thread if it is overdue by more than *seconds*.

        If a signal handler raises within eventlet's hub, the timer is lost.
        """
        waiting = self._parked
        if waiting and _os_time.monotonic() > self._until + seconds:
            hubs.get_hub().schedule_call_global(0, self._wake, waiting)

    def _wake(self, waiting: list[Any]) -> None:
        if waiting:
            waiting[0].switch()

    def wait(self, seconds: float, socket: Any = None) -> None:
        """
        Wait until `notify`, until *socket* is readable, or until *seconds* are over.
        """
        if self._is_notified:
            self._is_notified = False
            eventlet.sleep(0)
            return
        waiting = [getcurrent()]
        self._until = _os_time.monotonic() + seconds
        self._waiting = self._parked = waiting
        try:
            if socket is None:
                hub = hubs.get_hub()
                timer = hub.schedule_call_global(seconds, self._wake, waiting)
                try:
                    hub.switch()
                finally:
                    timer.cancel()
            else:
                hubs.trampoline(socket, read=True, timeout=seconds, timeout_exc=_Elapsed)
        except _Elapsed:
            pass
        finally:
            waiting.clear()  # so that a scheduled `_wake` does nothing
            self._waiting = None
            self._is_notified = False


class _Elapsed(Exception):
    """
    The timeout of `Notifier.wait`.
    """
