"""
The broker is there, and refuses, drops or is late: what the sending side makes of it.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable
from time import monotonic

import eventlet
import pytest
from kombu import Connection, Exchange

from nameko_eventlog.delivery import BrokerDelivery, relay
from nameko_eventlog.delivery.in_flight import WINDOW
from nameko_eventlog.exceptions import NotConfirmed
from tests.delivery.conftest import (
    EXCHANGE,
    Lines,
    Received,
    check_sum,
    make_message,
    settled,
)
from tests.proxy import Proxy
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]

FULL = {"x-max-length": 50, "x-overflow": "reject-publish"}

FAN_IN = Exchange("eventlog", type="topic", durable=True)


class TestFullQueue:
    """
    Two queues on one exchange, of which one is full and says ``reject-publish``.
    """

    @pytest.mark.parametrize("section", [{}, {"spool": True}], ids=["memory", "spool"])
    def test_others_get_everything(
        self,
        uri: str,
        make_delivery: Make,
        said: Lines,
        tmp_path: pathlib.Path,
        section: dict[str, object],
    ) -> None:
        """
        The other queue gets everything at once, and hardly anything twice; nothing is lost.
        """
        full, other = Received(uri, FULL), Received(uri, name="other")
        if section:
            section = {"spool": str(tmp_path)}
        delivery = make_delivery(uri, **section)
        for number in range(6_000):
            delivery.accept(make_message(number))
            if number % 20 == 0:
                eventlet.sleep(0.005)
        assert 6_000 == len(other.wait_for(6_000))
        wait_until(lambda: said.saying("event logs refused by broker"))

        assert len(other.ids) - 6_000 < 20
        stats = check_sum(delivery)
        assert (6_000, 0) == (stats["accepted"], stats["undelivered"])
        assert stats["refused"] == stats["waiting"] >= 5_900
        assert not delivery._relay.is_healthy
        full.wait_for(6_000)
        wait_until(settled(delivery))
        assert {"confirmed": 6_000, "refused": 0}.items() <= check_sum(delivery).items()
        assert 1 == len(said.saying("event logs refused by broker"))
        wait_until(lambda: said.saying("all refused event logs accepted"))
        full.close()
        other.close()

    def test_bounded(
        self, uri: str, make_delivery: Make, said: Lines, tmp_path: pathlib.Path
    ) -> None:
        """
        With a spool no more wait aside in memory than an outbox in memory would hold.
        """
        full = Received(uri, FULL)
        delivery = make_delivery(uri, spool=str(tmp_path), buffer_size=200)
        for number in range(4_000):
            delivery.accept(make_message(number))
        wait_until(lambda: said.saying("new ones are published when it accepts some"))

        stats = check_sum(delivery)
        assert 4_000 - 50 == stats["waiting"]
        assert 200 <= stats["refused"] <= 200 + WINDOW
        full.wait_for(4_000)
        wait_until(settled(delivery))
        assert 4_000 == check_sum(delivery)["confirmed"]
        full.close()

    def test_manual_call(self, uri: str, make_delivery: Make) -> None:
        """
        A manual call that is refused is told in time; it may still arrive.
        """
        full = Received(uri, {**FULL, "x-max-length": 1})
        delivery = make_delivery(uri, confirm_timeout=0.5)
        delivery.deliver(make_message(0))
        with pytest.raises(NotConfirmed) as raised:
            delivery.deliver(make_message(1))

        assert raised.value.sent
        assert [0, 1] == full.wait_for(2)
        wait_until(settled(delivery))
        assert 2 == check_sum(delivery)["confirmed"]
        full.close()

    def test_stop(self, uri: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        What is refused to the end is undelivered, each once, when the service stops.
        """
        full = Received(uri, FULL)
        delivery = make_delivery(uri)
        for number in range(2_000):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery.stats()["refused"] == 1_950)
        began = monotonic()
        delivery.stop(0.5)

        assert monotonic() - began < 15
        assert {"confirmed": 50, "undelivered": 1_950}.items() <= check_sum(delivery).items()
        assert 1_950 == len(undelivered)
        full.close()


class TestFanInDeleted:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Declarations are repeated more often than usually.
        """
        monkeypatch.setattr(relay, "DECLARE", 0.2)

    def test_made_again(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        The exchange and its binding are made again, on the same connection.
        """
        own = Received(uri, name="own")
        delivery = make_delivery(uri, route={"fan_in_exchange": "eventlog"})
        delivery.deliver(make_message(0))
        with Connection(uri) as connection:
            FAN_IN(connection.default_channel).delete()
            wait_until(lambda: exists(uri))
        fan_in = Received(uri, exchange=FAN_IN)
        numbers = itertools.count(1)
        wait_until(
            lambda: (
                delivery.deliver(make_message(next(numbers))) or fan_in.read() or fan_in.numbers
            )
        )

        assert 0 == check_sum(delivery)["reconnects"]
        assert [] == said.saying("could not")
        own.close()
        fan_in.close()

    def test_refused(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        That it cannot be made again is noted once, and keeps nothing from being published.
        """
        own = Received(uri, name="own")
        delivery = make_delivery(uri, route={"fan_in_exchange": "eventlog"})
        delivery.deliver(make_message(0))
        with Connection(uri) as connection:
            FAN_IN(connection.default_channel).delete()
            Exchange("eventlog", type="fanout", durable=False)(
                connection.default_channel
            ).declare()
            wait_until(lambda: said.saying("could not declare exchanges again"))
            eventlet.sleep(1)
        for number in range(1, 500):
            delivery.accept(make_message(number))

        assert list(range(500)) == own.wait_for(500)
        assert {"reconnects": 0, "republished": 0}.items() <= check_sum(delivery).items()
        assert 1 == len(said.saying("could not declare exchanges again"))
        own.close()

    def test_hold(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        With ``unroutable: hold`` what is logged until its queue is bound again arrives as well.
        """
        fan_in = Received(uri, exchange=FAN_IN)
        delivery = make_delivery(uri, route={"fan_in_exchange": "eventlog"}, unroutable="hold")
        delivery.deliver(make_message(0))
        for number in range(1, 3_000):
            if number == 500:
                with Connection(uri) as connection:
                    FAN_IN(connection.default_channel).delete()
            delivery.accept(make_message(number))
            if number % 20 == 0:
                eventlet.sleep(0.005)
        wait_until(lambda: said.saying("no queue receives"))
        fan_in.queue(fan_in.connection.default_channel).declare()
        wait_until(settled(delivery))

        assert set(range(3_000)) == set(fan_in.wait_for(3_000))
        assert 3_000 == len(fan_in.ids)
        assert {"confirmed": 3_000, "reconnects": 0}.items() <= check_sum(delivery).items()
        assert 1 == len(said.saying("they wait until a queue is bound"))
        assert 1 == len(said.saying("a queue receives event logs again"))
        fan_in.close()


def exists(uri: str) -> bool:
    """
    Tell whether the fan-in exchange is there.
    """
    with Connection(uri) as connection:
        try:
            FAN_IN(connection.default_channel).declare(passive=True)
        except connection.channel_errors:
            return False
        return True


class TestHold:
    def test_no_queue_yet(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        Event logs wait for the first queue, and arrive once, in order.
        """
        delivery = make_delivery(uri, unroutable="hold")
        for number in range(3_000):
            delivery.accept(make_message(number))
        wait_until(lambda: said.saying("no queue receives"))
        wait_until(lambda: delivery._relay._in_flight.sent == 0)
        stats = check_sum(delivery)
        assert (3_000, 0) == (stats["waiting"], stats["confirmed"])
        assert not delivery._relay.is_healthy
        received = Received(uri)

        assert list(range(3_000)) == received.wait_for(3_000)
        assert 3_000 == len(received.ids)
        wait_until(settled(delivery))
        assert 1 == len(said.saying("no queue receives"))
        received.close()

    def test_unbound_under_load(self, uri: str, make_delivery: Make) -> None:
        """
        A binding that goes and comes again, in full flow, costs nothing, and nothing comes twice.
        """
        received = Received(uri)
        queue = received.queue(received.connection.channel())
        delivery = make_delivery(uri, unroutable="hold")
        for number in range(6_000):
            delivery.accept(make_message(number))
            if number % 2_000 == 700:
                queue.unbind_from(EXCHANGE, routing_key="log_event")
            if number % 2_000 == 1_700:
                queue.bind_to(EXCHANGE, routing_key="log_event")
        wait_until(settled(delivery))

        assert set(range(6_000)) == set(received.wait_for(6_000))
        assert 6_000 == len(received.ids)
        assert 6_000 == check_sum(delivery)["confirmed"]
        received.close()

    def test_manual_call(self, uri: str, make_delivery: Make) -> None:
        """
        A manual call that no queue takes is told so in time, and arrives when one does.
        """
        delivery = make_delivery(uri, unroutable="hold", confirm_timeout=0.3)
        with pytest.raises(NotConfirmed) as raised:
            delivery.deliver(make_message(1))
        assert raised.value.sent
        with pytest.raises(NotConfirmed) as raised:
            delivery.deliver(make_message(2))
        assert not raised.value.sent
        received = Received(uri)

        assert [1] == received.wait_for(1)
        wait_until(settled(delivery))
        received.close()

    def test_stop(self, uri: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        What no queue takes to the end is undelivered, each once, when the service stops.
        """
        delivery = make_delivery(uri, unroutable="hold")
        for number in range(1_500):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._changes.is_unroutable)
        delivery.stop(0.2)

        assert {"confirmed": 0, "undelivered": 1_500}.items() <= check_sum(delivery).items()
        assert 1_500 == len(undelivered)


class TestLateConfirms:
    def test_all_late(
        self, proxied: str, proxy: Proxy, uri: str, make_delivery: Make, said: Lines
    ) -> None:
        """
        Confirms that all take longer than ``confirm_timeout`` are waited for; one line names it.
        """
        received = Received(uri)
        delivery = make_delivery(proxied, confirm_timeout=0.1)
        delivery.deliver(make_message(0))
        proxy.delay = 0.15
        for number in range(1, 1_001):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))
        for number in range(1_001, 1_501):
            delivery.accept(make_message(number))
            eventlet.sleep(0.002)
        wait_until(settled(delivery))

        assert set(range(1_501)) == set(received.wait_for(1_501))
        stats = check_sum(delivery)
        assert 1_501 == stats["confirmed"]
        assert stats["republished"] < 2_000
        assert stats["reconnects"] <= 4
        lines = said.saying("set EVENTLOG_DISPATCHER.confirm_timeout (0.1)")
        assert 1 == len(lines)
        received.close()
