"""
Limits of the process and of its clocks: open files, a hub that is held up, a clock that jumps.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from eventlet import patcher

from nameko_eventlog.delivery import BrokerDelivery, broker_delivery, identifiers
from tests.delivery.conftest import (
    Lines,
    Received,
    check_sum,
    make_message,
    settled,
)
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


@contextmanager
def no_more_files() -> Iterator[None]:
    """
    Let this process open no more files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fill = [os.dup(0) for _ in range(highest)]  # no number below is free then
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(fill) + 1, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fill:
            os.close(fd)


class TestOpenFiles:
    def test_none_left(
        self,
        uri: str,
        received: Received,
        make_spooled: Make,
        said: Lines,
        undelivered: Lines,
    ) -> None:
        """
        Without files to open neither spool nor connection is had; what waits arrives later.
        """
        delivery = make_spooled(uri, spool_max_bytes=100_000)
        delivery.deliver(make_message(0))
        wait_until(settled(delivery))
        with no_more_files():
            hang_up_without_a_file(delivery)
            wait_until(lambda: said.saying("connection to broker"))
            for number in range(1, 201):
                delivery.accept(make_message(number))
            wait_until(lambda: delivery._relay._failures >= 2)
            root = delivery._outbox._spool.root
            assert said.saying(f"cannot write to spool {root} ([Errno 24] Too many open files")
            assert 200 == check_sum(delivery)["waiting"]

        assert list(range(201)) == received.wait_for(201)
        wait_until(settled(delivery))
        assert 201 == check_sum(delivery)["confirmed"]
        assert not undelivered.records


def hang_up_without_a_file(delivery: BrokerDelivery) -> None:
    """
    End the connection to the broker from this side of it.
    """
    delivery._relay._target.socket.shutdown(2)


class TestHeldUp:
    def test_longer_than_the_confirm_timeout(
        self, uri: str, received: Received, make_delivery: Make, broker: Broker
    ) -> None:
        """
        A worker that computes for longer than ``confirm_timeout`` costs no connection: the
        confirms are there.
        """
        delivery = make_delivery(uri, confirm_timeout=2)
        delivery.deliver(make_message(0))
        for turn in range(2):
            with broker.paused():
                for number in range(1000):
                    delivery.accept(make_message(turn * 1000 + number + 1))
                wait_until(lambda: delivery._relay._in_flight.sent > 0)
            patcher.original("time").sleep(2.5)  # the whole hub
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (2001, 0, 0) == (stats["confirmed"], stats["republished"], stats["reconnects"])

    def test_longer_than_the_heartbeat(
        self, uri: str, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        A process that is stopped until the broker has given it up connects anew.
        """
        delivery = make_delivery(uri, settings={"heartbeat": 1}, spool=None)
        delivery.deliver(make_message(0))
        for number in range(1, 1001):
            delivery.accept(make_message(number))
        patcher.original("time").sleep(4)  # as SIGSTOP does, for this service
        wait_until(lambda: said.saying("connection to broker"))
        wait_until(settled(delivery))

        assert 1001 == check_sum(delivery)["confirmed"]
        assert list(range(1001)) == received.wait_for(1001)
        assert 1 == len(said.saying("connected to broker"))


class TestClock:
    @pytest.mark.parametrize("jump", [-3_600.0, 86_400.0 * 400])
    def test_jumps(
        self,
        uri: str,
        received: Received,
        make_delivery: Make,
        monkeypatch: pytest.MonkeyPatch,
        jump: float,
    ) -> None:
        """
        A wall clock that jumps and jumps back changes neither order nor time limits.
        """
        offset = [0.0]
        now = time.time
        for module in (identifiers, broker_delivery):
            monkeypatch.setattr(module, "time", lambda: now() + offset[0])
        delivery = make_delivery(uri, confirm_timeout=2)
        for number in range(30):
            offset[0] = jump if 10 <= number < 20 else 0.0
            delivery.accept(make_message(number, timestamp=now() + offset[0]))
            assert check_sum(delivery)["oldest_seconds"] < 2 + abs(jump)
        began = time.monotonic()
        wait_until(settled(delivery))

        assert time.monotonic() - began < 30
        assert list(range(30)) == received.wait_for(30)
        assert sorted(received.ids) == received.ids
        assert 0 == check_sum(delivery)["reconnects"]
