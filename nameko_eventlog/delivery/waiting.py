"""
Waiting, in green threads and in OS threads, on an eventlet hub.
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any, Protocol

import eventlet
from eventlet import hubs, patcher
from greenlet import getcurrent


_os_thread = patcher.original("_thread")
_os_threading = patcher.original("threading")
_os_time = patcher.original("time")

_SIGNALS = tuple(signal.valid_signals())

# that of ``signal`` looks each up in an enumeration: a hundred microseconds for all
_get_handler: Callable[[int], Any] = import_module("_signal").getsignal


class Waiter(Protocol):
    """
    Somebody who waits until the outbox has done with a message.
    """

    def take(self) -> bool:
        """
        Claim the message for sending it: only the first to claim it succeeds, however often.
        """

    def take_back(self) -> bool:
        """
        Claim it for withdrawing it, in the same way.
        """

    def confirm(self) -> None:
        """
        Say that the broker has it.
        """

    def fail(self, reason: str, sent: bool) -> None:
        """
        Say that it will not be delivered, why, and whether it was sent nevertheless.
        """

    def wait(self, seconds: float) -> bool:
        """
        Wait until one of the two is said, and tell whether it was confirmed.
        """


class _Ticket:
    """
    What both kinds of waiter share: the claim, and the outcome.
    """

    def __init__(self) -> None:
        self._claims: dict[None, str] = {}
        self.confirmed = False
        self.reason: str | None = None
        self.sent = False

    def take(self) -> bool:
        """
        Claim the message for sending it.

        Who was interrupted after that may ask again.
        """
        return self._claims.setdefault(None, "relay") == "relay"  # one step, whatever thread

    def take_back(self) -> bool:
        """
        Claim the message for withdrawing it.
        """
        return self._claims.setdefault(None, "waiter") == "waiter"


class GreenWaiter(_Ticket):
    """
    A green thread of the relay's own hub.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: Any = None

    def confirm(self) -> None:
        """
        Say that the broker has it.
        """
        self.confirmed = True
        if self._waiting is not None:
            hubs.get_hub().schedule_call_global(0, self._wake)

    def fail(self, reason: str, sent: bool) -> None:
        """
        Say that it will not be delivered, why, and whether it was sent nevertheless.
        """
        self.sent = sent
        self.reason = reason
        if self._waiting is not None:
            hubs.get_hub().schedule_call_global(0, self._wake)

    def _wake(self) -> None:
        if self._waiting is not None:
            self._waiting.switch()

    def wait(self, seconds: float) -> bool:
        """
        Wait, letting other green threads run.

        An eventlet Event does the same in twice the time.
        """
        if self.confirmed or self.reason is not None:
            return self.confirmed
        hub = hubs.get_hub()
        self._waiting = getcurrent()
        timer = hub.schedule_call_global(seconds, self._wake)
        try:
            hub.switch()
        finally:
            self._waiting = None  # a wake-up that is under way comes too late
            timer.cancel()
        return self.confirmed


class ThreadWaiter(_Ticket):
    """
    A real OS thread, which must not touch the hub: it waits on an unpatched primitive.
    """

    def __init__(self) -> None:
        super().__init__()
        self._done = _os_threading.Event()

    def confirm(self) -> None:
        """
        Say that the broker has it.
        """
        self.confirmed = True
        self._done.set()

    def fail(self, reason: str, sent: bool) -> None:
        """
        Say that it will not be delivered, why, and whether it was sent nevertheless.
        """
        self.sent = sent
        self.reason = reason
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """
        Wait, blocking this OS thread alone.
        """
        self._done.wait(seconds)
        return self.confirmed


class HubThread:
    """
    The OS thread whose hub a relay runs on, and what may be done from there.
    """

    def __init__(self) -> None:
        self._ident = _os_threading.get_ident()

    @property
    def is_here(self) -> bool:
        """
        Whether the code that asks runs in this OS thread.
        """
        return bool(_os_threading.get_ident() == self._ident)

    def can_wait(self) -> bool:
        """
        Whether the code that asks is a green thread of this hub, which others can relieve.
        """
        return self.is_here and getcurrent() is not hubs.get_hub().greenlet

    def waiter(self) -> GreenWaiter | ThreadWaiter:
        """
        Make a waiter for the code that asks.
        """
        return GreenWaiter() if self.is_here else ThreadWaiter()

    def sleep(self, seconds: float) -> None:
        """
        Sleep, in the way of the code that asks.
        """
        if self.is_here:
            eventlet.sleep(seconds)
        else:
            _os_time.sleep(seconds)


def run_in_thread(call: Callable[[], object]) -> None:
    """
    Run *call* in an OS thread of its own, while other green threads run in this one.

    ``eventlet.tpool`` tells of the end by a socket: a forked child that runs a hub reads it as
    well, and then the parent waits for ever.

    Raises:
        Exception: What *call* raises.
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
    Tell whether the running code stands a switch to another green thread.

    A signal handler or a ``__del__`` interrupts code that does not expect one.
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
    Let one green thread wait for a socket, a ring, or the end of a time, whichever is first.

    ``hubs.trampoline`` waits for a socket or a time; whoever rings switches into it, which is
    what eventlet's own primitives do with those who wait.
    """

    def __init__(self, home: HubThread) -> None:
        self._home = home
        self._waiting: Any = None
        self._rung = False
        self._parked: list[Any] = []
        self._until = 0.0  # when whoever waits should be awake again

    def ring(self) -> None:
        """
        Wake who waits; from another OS thread, which has no way to, do nothing.
        """
        if self._rung:
            return
        waiting = self._waiting
        if waiting is None:
            self._rung = True
        elif self._home.is_here:
            self._rung = True
            self._waiting = None  # one ring is enough
            hubs.get_hub().schedule_call_global(0, self._wake, waiting)

    def wake_overdue(self, seconds: float) -> None:
        """
        Wake who has waited for so much longer than it meant to.

        A signal handler that raises within eventlet's hub takes a timer with it.
        """
        waiting = self._parked
        if waiting and _os_time.monotonic() > self._until + seconds:
            hubs.get_hub().schedule_call_global(0, self._wake, waiting)

    def _wake(self, waiting: list[Any]) -> None:
        if waiting:
            waiting[0].switch()

    def wait(self, seconds: float, socket: Any = None) -> None:
        """
        Wait until a ring, until *socket* can be read, or for *seconds*.
        """
        if self._rung:
            self._rung = False
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
            waiting.clear()  # a wake-up that is under way comes too late
            self._waiting = None
            self._rung = False


class _Elapsed(Exception):
    """
    The time is up.
    """
