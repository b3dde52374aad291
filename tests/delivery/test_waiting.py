"""
Waiting, in green threads and in OS threads.
"""

import functools
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any

import eventlet
import pytest
from eventlet import hubs, tpool

from nameko_eventlog.delivery.waiting import (
    GreenWaiter,
    HubThread,
    Notifier,
    ThreadWaiter,
    may_yield,
)


class TestWaiters:
    @pytest.mark.parametrize("waiter_class", [GreenWaiter, ThreadWaiter])
    def test_claim(self, waiter_class: Any) -> None:
        """
        A message is claimed for sending or for withdrawing it; who has it may ask again.
        """
        waiter = waiter_class()

        assert [True, False, True] == [waiter.take(), waiter.take_back(), waiter.take()]

    @pytest.mark.parametrize("waiter_class", [GreenWaiter, ThreadWaiter])
    def test_said_before(self, waiter_class: Any) -> None:
        """
        Who waits too late does not wait.
        """
        confirmed, failed = waiter_class(), waiter_class()
        confirmed.confirm()
        failed.fail("full", sent=True)

        assert confirmed.wait(10)
        assert not failed.wait(10)
        assert ("full", True) == (failed.reason, failed.sent)

    @pytest.mark.parametrize("waiter_class", [GreenWaiter, ThreadWaiter])
    def test_never_said(self, waiter_class: Any) -> None:
        """
        Who waits in vain is told so in time, and may be answered later.
        """
        waiter = waiter_class()

        assert not waiter.wait(0.01)
        waiter.fail("late", sent=False)
        waiter.fail("later", sent=False)

    def test_green(self) -> None:
        """
        A green thread that waits lets the one run that wakes it.
        """
        waiter = GreenWaiter()
        eventlet.spawn(waiter.confirm)

        assert waiter.wait(10)

    def test_os_thread(self) -> None:
        """
        An OS thread waits on a primitive of its own, while the hub goes on.
        """
        home = HubThread()
        made: list[Any] = []

        def wait() -> bool:
            made.append(home.waiter())
            return bool(made[0].wait(10))

        waiting = eventlet.spawn(tpool.execute, wait)
        while not made:
            eventlet.sleep(0.001)
        made[0].confirm()

        assert isinstance(made[0], ThreadWaiter)
        assert waiting.wait()


class TestHomeThread:
    def test_here(self) -> None:
        """
        A green thread of the hub can wait; so can not the hub's own greenlet.
        """
        home = HubThread()
        found: list[bool] = []
        hubs.get_hub().schedule_call_global(0, lambda: found.append(home.can_wait()))
        eventlet.sleep(0.01)

        assert home.is_here
        assert home.can_wait()
        assert [False] == found

    def test_elsewhere(self) -> None:
        """
        An OS thread is not at home, and sleeps by itself.
        """
        home = HubThread()

        assert not tpool.execute(lambda: home.is_here)
        assert not tpool.execute(home.can_wait)
        tpool.execute(home.sleep, 0.001)


class Recorder:
    """
    Ask `may_yield` in all sorts of callables.
    """

    def __init__(self) -> None:
        self.found: list[bool] = []

    def ask(self, *args: object) -> None:
        """
        Ask.
        """
        self.found.append(may_yield())

    def __call__(self, *args: object) -> None:
        self.ask()


@pytest.fixture
def free_signal() -> Iterator[int]:
    """
    A signal whose handler may be replaced.
    """
    before = signal.getsignal(signal.SIGUSR1)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


class TestMayYield:
    def test_plain(self) -> None:
        """
        Ordinary code stands a switch.
        """
        assert may_yield()

    @pytest.mark.parametrize("kind", ["function", "method", "partial", "callable"])
    def test_signal_handler(self, kind: str, free_signal: int) -> None:
        """
        A signal handler does not, in whichever way it was made.
        """
        recorder = Recorder()
        handlers: dict[str, Any] = {
            "function": lambda *args: recorder.ask(),
            "method": recorder.ask,
            "partial": functools.partial(functools.partial(recorder.ask, 1), 2),
            "callable": recorder,
        }
        signal.signal(free_signal, handlers[kind])
        os.kill(os.getpid(), free_signal)

        assert [False] == recorder.found

    def test_finalizer(self) -> None:
        """
        Neither does ``__del__``.
        """
        recorder = Recorder()

        class Dying:
            def __del__(self) -> None:
                recorder.ask()

        Dying()

        assert [False] == recorder.found


class TestNotifier:
    def test_notified_before(self) -> None:
        """
        A notification that arrives early ends the next wait.
        """
        notifier = Notifier(HubThread())
        notifier.notify()
        began = time.monotonic()
        notifier.wait(10)

        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("with_socket", [False, True])
    def test_notified_meanwhile(self, with_socket: bool) -> None:
        """
        A notification ends a wait, for a socket as well; more notifications do no harm.
        """
        notifier = Notifier(HubThread())
        ours, theirs = socket.socketpair()
        eventlet.spawn(lambda: (notifier.notify(), notifier.notify()))
        began = time.monotonic()
        notifier.wait(10, ours if with_socket else None)
        ours.close()
        theirs.close()

        assert time.monotonic() - began < 5

    def test_socket(self) -> None:
        """
        So does what comes from the socket.
        """
        notifier = Notifier(HubThread())
        ours, theirs = socket.socketpair()
        eventlet.spawn(theirs.sendall, b"x")
        began = time.monotonic()
        notifier.wait(10, ours)
        ours.close()
        theirs.close()

        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("with_socket", [False, True])
    def test_time(self, with_socket: bool) -> None:
        """
        Otherwise the wait ends with its time, and a later notification is for the next wait.
        """
        notifier = Notifier(HubThread())
        ours, theirs = socket.socketpair()
        for _ in range(3):
            notifier.wait(0.01, ours if with_socket else None)
        ours.close()
        theirs.close()

        assert notifier._waiting is None

    def test_other_thread(self) -> None:
        """
        A notification from an OS thread does not use the hub, and ends the next wait.
        """
        notifier = Notifier(HubThread())
        tpool.execute(notifier.notify)
        began = time.monotonic()
        notifier.wait(10)

        assert time.monotonic() - began < 5

    def test_notified_at_the_timeout(self) -> None:
        """
        A notification at the moment of the timeout wakes the thread only once.
        """
        notifier = Notifier(HubThread())
        for _ in range(50):
            eventlet.spawn_after(0.001, notifier.notify)
            notifier.wait(0.001)
        eventlet.sleep(0.01)

        assert notifier._waiting is None
