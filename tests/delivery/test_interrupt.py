"""
Ctrl-C, as the green threads of a service meet it.
"""

import os
import signal
from collections.abc import Callable
from typing import Any

import eventlet
import pytest

from nameko_eventlog.delivery import BrokerDelivery
from nameko_eventlog.delivery.interrupt import Interrupt
from tests.delivery.conftest import Received, check_sum, make_message
from tests.foreground import python_s_own


__all__ = ["python_s_own"]

pytestmark = pytest.mark.usefixtures("python_s_own")


def press() -> None:
    """
    Press Ctrl-C.
    """
    os.kill(os.getpid(), signal.SIGINT)


class TestInterrupt:
    def test_elsewhere(self) -> None:
        """
        It is not raised in the green thread that runs, but in the main one.
        """
        interrupt = Interrupt()
        interrupt.acquire(interrupt)
        passed: list[bool] = []

        def run() -> None:
            press()
            passed.append(True)

        running = eventlet.spawn(run)
        with pytest.raises(KeyboardInterrupt):
            eventlet.sleep(10)
        running.wait()

        assert [True] == passed

    def test_twice(self) -> None:
        """
        A second one ends a green thread that does not yield; and both count.
        """
        interrupt = Interrupt()
        interrupt.acquire(interrupt)
        press()
        with pytest.raises(KeyboardInterrupt):
            press()
        with pytest.raises(KeyboardInterrupt):
            eventlet.sleep(10)

    def test_given_back(self) -> None:
        """
        Python gets it back with the last user, who may release it twice.
        """
        interrupt = Interrupt()
        users = [Interrupt(), Interrupt()]
        for user in users:
            interrupt.acquire(user)
        interrupt.release(users[0])
        interrupt.release(users[0])
        assert interrupt._defer == signal.getsignal(signal.SIGINT)
        interrupt.release(users[1])
        assert signal.default_int_handler is signal.getsignal(signal.SIGINT)

    @pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *args: None])
    def test_somebody_else_s(self, handler: Any) -> None:
        """
        A program that handles it in its own way keeps doing so.
        """
        interrupt = Interrupt()
        signal.signal(signal.SIGINT, handler)
        interrupt.acquire(interrupt)
        assert handler is signal.getsignal(signal.SIGINT)
        interrupt.release(interrupt)
        assert handler is signal.getsignal(signal.SIGINT)


class TestRelay:
    def test_publishing(
        self,
        uri: str,
        received: Received,
        make_delivery: Callable[..., BrokerDelivery],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A relay that is hit while it publishes goes on where it was: nothing comes twice.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        thread = delivery._relay._thread
        publish = delivery._relay._target.publish

        def pressing(*args: Any) -> None:
            monkeypatch.undo()
            press()
            publish(*args)

        monkeypatch.setattr(delivery._relay._target, "publish", pressing)
        for number in range(1, 200):
            delivery.accept(make_message(number))
        with pytest.raises(KeyboardInterrupt):
            eventlet.sleep(10)
        delivery.stop(10)

        assert thread is delivery._relay._thread
        assert list(range(200)) == received.wait_for(200)
        assert 200 == len(received.ids)
        assert 200 == check_sum(delivery)["confirmed"]
        assert signal.default_int_handler is signal.getsignal(signal.SIGINT)
