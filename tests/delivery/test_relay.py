"""
The relay, against a real broker and a bad network.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
from kombu import Connection, Exchange

from logging_ext import forwarding
from nameko_eventlog.amqp import frame_writing
from nameko_eventlog.delivery import BrokerDelivery
from nameko_eventlog.exceptions import NotConfirmed
from tests.delivery.conftest import (
    Lines,
    Received,
    check_sum,
    hang_up,
    make_message,
    settled,
)
from tests.proxy import Proxy
from tests.rabbitmq import Broker, free_ports, with_port
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


class Ticker:
    """
    A green thread that ticks each millisecond.
    """

    def __init__(self) -> None:
        self.held_up = 0.0
        """The longest time between two ticks, in seconds."""
        self.worked = 0.0
        """The longest time in which this process kept a processor busy between two."""
        self.thread = eventlet.spawn(self._tick)

    def _tick(self) -> None:
        while True:
            began, busy = time.monotonic(), time.process_time()
            eventlet.sleep(0.001)
            self.held_up = max(self.held_up, time.monotonic() - began)
            self.worked = max(self.worked, time.process_time() - busy)


@pytest.fixture
def ticker() -> Iterator[Ticker]:
    """
    A green thread that ticks each millisecond.
    """
    ticker = Ticker()
    yield ticker
    ticker.thread.kill()


class TestOrder:
    def test_first_in_first_out(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        Event logs arrive in the order in which they were accepted, by whichever way.
        """
        delivery = make_delivery(uri, start=False)
        for number in range(500):
            delivery.accept(make_message(number))
        delivery.start()
        for number in range(500, 520, 2):
            delivery.accept(make_message(number))
            delivery.deliver(make_message(number + 1))

        assert list(range(520)) == received.wait_for(520)
        assert {"accepted": 520, "confirmed": 520, "republished": 0}.items() <= (
            check_sum(delivery).items()
        )

    def test_ids(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        The message ids are in that order, too.
        """
        delivery = make_delivery(uri)
        for number in range(100):
            delivery.accept(make_message(number))
        received.wait_for(100)

        assert sorted(set(received.ids)) == received.ids


class TestGroupCommit:
    def test_shared_batches(
        self, uri: str, received: Received, make_delivery: Make, monkeypatch: Any
    ) -> None:
        """
        Workers that wait at once share the batches.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        batches: list[int] = []
        flight = delivery._relay._in_flight
        original = flight.next

        def count(*args: Any) -> Any:
            batch = original(*args)
            batches.append(len(batch))
            return batch

        monkeypatch.setattr(flight, "next", count)
        pool = eventlet.GreenPool(10)
        for _ in pool.imap(delivery.deliver, (make_message(n) for n in range(1, 101))):
            pass

        assert 5 <= max(batches)
        assert 101 == len(received.wait_for(101))


class TestFairness:
    def test_others_run(
        self, uri: str, received: Received, make_delivery: Make, ticker: Ticker
    ) -> None:
        """
        Others get their turn while a backlog drains.
        """
        delivery = make_delivery(uri, start=False)
        for number in range(5000):
            delivery.accept(make_message(number))
        delivery.start()
        wait_until(settled(delivery))

        assert ticker.worked < 0.25


class TestBrokerDown:
    def test_comes_up_later(
        self,
        proxied: str,
        proxy: Proxy,
        received: Received,
        make_delivery: Make,
        said: Lines,
    ) -> None:
        """
        What is logged while the broker is away arrives in order when it is back; each change
        is said once, not each attempt.
        """
        proxy.refusing = True
        delivery = make_delivery(proxied)
        for number in range(2500):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._failures >= 2)
        assert 2500 == check_sum(delivery)["waiting"]
        proxy.refusing = False

        assert list(range(2500)) == received.wait_for(2500)
        wait_until(settled(delivery))
        assert 1 == len(said.saying("connection to broker"))
        assert 1 == len(said.saying("connected to broker"))

    def test_manual_call(self, proxied: str, proxy: Proxy, make_delivery: Make) -> None:
        """
        A manual call raises after ``confirm_timeout``; withdrawn, it never arrives.
        """
        received = Received(with_port(proxied, proxy._target[1]))
        proxy.refusing = True
        delivery = make_delivery(proxied, confirm_timeout=0.3)
        began = time.monotonic()
        with pytest.raises(NotConfirmed) as raised:
            delivery.deliver(make_message(1))

        assert 0.3 <= time.monotonic() - began < 8
        assert not raised.value.sent
        assert {"accepted": 0, "waiting": 0}.items() <= check_sum(delivery).items()
        proxy.refusing = False
        wait_until(lambda: delivery._relay._target.is_open)
        delivery.deliver(make_message(2))
        assert [2] == received.wait_for(1)
        assert raised.value.message_id not in received.ids
        received.close()


class TestConnectionLost:
    def test_cut_again_and_again(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make
    ) -> None:
        """
        What is unconfirmed is published again under the same message id: nothing is lost.
        """
        delivery = make_delivery(proxied)

        def cut() -> None:
            for _ in range(5):
                wait_until(lambda: delivery._relay.is_healthy)
                eventlet.sleep(0.05)
                proxy.cut()

        cutting = eventlet.spawn(cut)
        for number in range(10_000):
            delivery.accept(make_message(number))
            if number % 50 == 0:
                eventlet.sleep(0.002)
        cutting.wait()
        wait_until(settled(delivery))
        received.wait_for(10_000)

        assert set(range(10_000)) == set(received.numbers)
        assert 10_000 == len(set(received.ids))
        assert 10_000 == check_sum(delivery)["confirmed"]

    def test_order_is_kept(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make
    ) -> None:
        """
        A cut does not change the order of first arrivals when nothing arrived before it.
        """
        delivery = make_delivery(proxied)
        delivery.deliver(make_message(0))
        proxy.frozen = True
        for number in range(1, 300):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._in_flight.sent_at is not None)
        eventlet.sleep(0.05)
        proxy.cut()
        proxy.frozen = False

        assert list(range(300)) == received.wait_for(300)

    def test_slow(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make
    ) -> None:
        """
        A network with latency costs time, and nothing else.
        """
        proxy.delay = 0.1
        delivery = make_delivery(proxied)
        for number in range(2000):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))

        assert list(range(2000)) == received.wait_for(2000)
        assert 0 == check_sum(delivery)["republished"]

    def test_frozen(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        When confirms do not come, the relay connects anew; a manual call says what is known.
        """
        delivery = make_delivery(proxied, confirm_timeout=0.5)
        delivery.deliver(make_message(0))
        proxy.frozen = True
        with pytest.raises(NotConfirmed) as raised:
            delivery.deliver(make_message(1))
        assert raised.value.sent
        wait_until(lambda: said.saying("no confirm within 0.5 s"))
        proxy.cut()
        proxy.frozen = False
        wait_until(settled(delivery))

        assert [0, 1] == received.wait_for(2)
        assert raised.value.message_id in received.ids
        assert 0 < check_sum(delivery)["republished"]

    def test_frozen_while_writing(
        self,
        proxied: str,
        proxy: Proxy,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
        ticker: Ticker,
    ) -> None:
        """
        A write that gets stuck ends the connection, and is no fault of the message.
        """
        delivery = make_delivery(proxied, confirm_timeout=0.5, max_event_bytes=10**8)
        delivery.deliver(make_message(0))
        proxy.frozen = True
        body = json.dumps({"number": 1, "padding": "x" * 20_000_000}).encode()
        delivery.accept(make_message(body=body))
        delivery.accept(make_message(2))
        wait_until(lambda: delivery._relay._changes.is_lost)
        proxy.cut()
        proxy.frozen = False

        assert [0, 1, 2] == received.wait_for(3)
        assert [] == undelivered.texts
        assert ticker.held_up < 10  # it would be held up for ever: the proxy is in this process

    def test_silent(self, proxied: str, proxy: Proxy, make_delivery: Make, said: Lines) -> None:
        """
        Without anything to send, it is the heartbeats that tell.
        """
        delivery = make_delivery(proxied, settings={"heartbeat": 1})
        delivery.deliver(make_message(0))
        proxy.frozen = True

        wait_until(lambda: said.saying("connection to broker"))


class TestRefusals:
    def test_full_queue(self, uri: str, make_delivery: Make) -> None:
        """
        What a full queue refuses arrives when there is room again, on the same connection.
        """
        received = Received(uri, {"x-max-length": 5, "x-overflow": "reject-publish"})
        delivery = make_delivery(uri)
        for number in range(30):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay.refused)
        assert 0 < check_sum(delivery)["waiting"]

        assert 30 == len(received.wait_for(30, timeout=40))
        wait_until(settled(delivery))
        assert sorted(set(received.ids)) == sorted(received.ids)
        assert 30 == check_sum(delivery)["confirmed"]
        received.close()

    def test_exchange_deleted(
        self, uri: str, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        An exchange that somebody deletes is declared again, and nothing is given up.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        with Connection(uri) as connection:
            Exchange("foo.events")(connection.default_channel).delete()
        for number in range(1, 200):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert 200 == stats["confirmed"]
        assert 1 == len(said.saying("connection to broker"))

    def test_access_revoked(
        self, uri: str, broker: Broker, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        Event logs wait while the user may not write; that is said once.
        """
        vhost = uri.rpartition("/")[2]
        permissions = {"configure": ".*", "write": ".*", "read": ".*"}
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        broker.api("PUT", f"permissions/{vhost}/guest", {**permissions, "write": "^$"})
        hang_up(delivery)
        for number in range(1, 50):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._failures >= 3)
        assert 49 == check_sum(delivery)["waiting"]
        broker.api("PUT", f"permissions/{vhost}/guest", permissions)

        assert list(range(50)) == received.wait_for(50)
        assert 1 == len(said.saying("connection to broker"))
        assert 1 == len(said.saying("connected to broker"))


class TestPoison:
    @pytest.mark.parametrize(
        "value", [object(), math.nan, -math.inf, {"b": [1.5, math.inf]}, ({"b": math.nan},)]
    )
    @pytest.mark.parametrize("wire_works", [True, False])
    def test_not_encodable(
        self,
        value: object,
        wire_works: bool,
        uri: str,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
        monkeypatch: Any,
    ) -> None:
        """
        A message that cannot be encoded, or that RabbitMQ cannot read, goes to undelivered, and
        the queue moves on.
        """
        monkeypatch.setattr(frame_writing, "works", lambda: wire_works)
        delivery = make_delivery(uri)
        delivery.accept(make_message(1, headers={"a": value}))
        delivery.accept(make_message(2))

        assert [2] == received.wait_for(1)
        assert ['{"number": 1}'] == [one["body"] for one in undelivered.objects]
        assert {"confirmed": 1, "undelivered": 1}.items() <= check_sum(delivery).items()

    def test_not_encodable_by_hand(self, uri: str, make_delivery: Make) -> None:
        """
        The manual call is told at once.
        """
        delivery = make_delivery(uri)
        with pytest.raises(NotConfirmed, match="cannot be encoded") as raised:
            delivery.deliver(make_message(1, headers={"a": object()}))

        assert not raised.value.sent

    @pytest.mark.parametrize("size", [200_000, 8_000_000])
    def test_headers_above_a_frame(
        self, size: int, uri: str, received: Received, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        Properties that no frame holds close the connection; the message is found out, and
        those before and behind it arrive.
        """
        delivery = make_delivery(uri)
        for number in range(300):
            delivery.accept(make_message(number))
        delivery.accept(make_message(1000, headers={"a": "x" * size}))
        for number in range(300, 600):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))

        assert list(range(600)) == received.wait_for(600)
        assert ['{"number": 1000}'] == [one["body"] for one in undelivered.objects]
        assert 1 == check_sum(delivery)["undelivered"]

    def test_closes_the_channel(
        self, uri: str, received: Received, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        A message that closes the channel twice when sent alone is given up.
        """
        delivery = make_delivery(uri, settings={"expiration": 60})
        original = delivery._relay._target.publish

        def publish(message: Any, mandatory: bool) -> None:
            if message.event_type == "bad":  # RabbitMQ: invalid expiration, 406
                link = delivery._relay._target
                before = link._settings
                object.__setattr__(before, "expiration", -1)
                try:
                    original(message, mandatory)
                finally:
                    object.__setattr__(before, "expiration", 60)
            else:
                original(message, mandatory)

        delivery._relay._target.publish = publish  # type: ignore[method-assign]
        for number in range(20):
            delivery.accept(make_message(number, event_type="bad" if number == 10 else "good"))
        wait_until(settled(delivery))

        assert sorted({*range(20)} - {10}) == received.wait_for(19)
        assert ['{"number": 10}'] == [one["body"] for one in undelivered.objects]
        assert "expiration" in undelivered.objects[0]["reason"]


class TestAlarm:
    def test_blocked(
        self, uri: str, broker: Broker, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        While an alarm blocks, nothing is published again, the connection stays, and the
        confirm clock stands.
        """
        delivery = make_delivery(uri, settings={"heartbeat": 2}, confirm_timeout=5)
        delivery.deliver(make_message(0))
        broker.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            for number in range(1, 1500):
                delivery.accept(make_message(number))
            wait_until(lambda: said.saying("publishing blocked by an alarm"))
            with pytest.raises(NotConfirmed):
                delivery.deliver(make_message(9999))
            began = time.monotonic()
            wait_until(lambda: time.monotonic() - began > 2)
            assert not delivery._relay.is_healthy
        finally:
            broker.ctl("set_vm_memory_high_watermark", "0.4")

        wait_until(settled(delivery))
        assert list(range(1500)) == received.wait_for(1500)
        assert 1500 == len(received.ids)
        assert 0 == check_sum(delivery)["republished"]
        assert 1 == len(said.saying("publishing blocked by an alarm"))
        assert 1 == len(said.saying("publishing unblocked"))
        assert [] == said.saying("connection to broker")


class TestUnroutable:
    def test_said_once(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        That no queue takes the event logs is said once, and once when one does again.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        assert 1 == len(said.saying("no queue receives"))
        delivery._relay._unroutable.probed_at = 0.0
        delivery.deliver(make_message(1))
        received = Received(uri)
        delivery._relay._unroutable.probed_at = 0.0
        delivery.deliver(make_message(2))

        assert 1 == len(said.saying("no queue receives"))
        assert 1 == len(said.saying("a queue receives event logs again"))
        received.close()

    def test_lost_in_between(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        What was returned over a connection that is gone says nothing about the next one.
        """

        def fail(*args: Any) -> None:
            broker._on_confirm = confirm
            found.append(Received(uri))
            raise RuntimeError("boom")

        found: list[Received] = []
        delivery = make_delivery(uri, start=False)
        relay, broker = delivery._relay, delivery._relay._target
        confirm, broker._on_confirm = broker._on_confirm, fail
        delivery.accept(make_message(0))
        delivery.start()
        wait_until(lambda: found)
        probed_at = relay._unroutable.probed_at
        wait_until(
            lambda: (
                delivery.accept(make_message(1))
                or (relay._unroutable.probed_at > probed_at and relay._unroutable.probe is None)
            ),
            interval=0.05,
        )

        assert not said.saying("no queue receives")
        found[0].close()

    def test_ignored(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        With ``unroutable: ignore`` nothing is said.
        """
        make_delivery(uri, unroutable="ignore").deliver(make_message(0))

        assert [] == said.saying("no queue receives")


class TestFailure:
    def test_starts_again(
        self, uri: str, received: Received, make_delivery: Make, said: Lines, monkeypatch: Any
    ) -> None:
        """
        A failure of the relay's own is said once, and it starts again.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        failures = [ZeroDivisionError("ours"), ZeroDivisionError("ours")]
        link = delivery._relay._target
        original = link.read

        def read(limit: int) -> bool:
            if failures:
                raise failures.pop()
            return original(limit)

        monkeypatch.setattr(link, "read", read)
        delivery.deliver(make_message(1))

        assert [0, 1] == received.wait_for(2)
        assert 1 == len(said.saying("relay failed"))
        assert [] == said.saying("connection to broker")

    def test_handler_fails(
        self, uri: str, received: Received, make_delivery: Make, proxy: Proxy, proxied: str
    ) -> None:
        """
        A log handler that raises does not end the relay either.
        """

        class Failing(logging.Handler):
            """Raises, as a handler that forgot about `handleError` does."""

            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("handler")

        logging.getLogger("nameko_eventlog").addHandler(Failing())
        proxy.refusing = True
        delivery = make_delivery(proxied)
        delivery.accept(make_message(1, headers={"a": object()}))
        delivery.accept(make_message(2))
        wait_until(lambda: delivery._relay._failures >= 1)
        proxy.refusing = False

        assert [2] == received.wait_for(1)
        wait_until(settled(delivery))
        assert {"confirmed": 1, "undelivered": 1}.items() <= check_sum(delivery).items()

    def test_interrupted(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        Ctrl-C that hits the relay's green thread ends the process, not the delivery.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        first = delivery._relay._thread
        assert first is not None

        def interrupt(limit: int) -> bool:
            del delivery._relay._target.read  # type: ignore[misc]
            raise KeyboardInterrupt

        delivery._relay._target.read = interrupt  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            delivery.deliver(make_message(1))
        delivery.deliver(make_message(2))

        assert delivery._relay._thread is not first
        assert [0, 1, 2] == received.wait_for(3)


class TestForwarding:
    def test_suspended(self, uri: str, make_delivery: Make, monkeypatch: Any) -> None:
        """
        Nothing that is logged while event logs are delivered is forwarded.
        """
        delivery = make_delivery(uri)
        found: list[bool] = []
        original = delivery._relay._target.read

        def read(limit: int) -> bool:
            found.append(forwarding.suspended.get())
            return original(limit)

        monkeypatch.setattr(delivery._relay._target, "read", read)
        delivery.deliver(make_message())

        assert {True} == set(found)
        assert not forwarding.suspended.get()


class TestMemory:
    def test_published_is_confirmed(
        self, memory_config: Any, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        Where there are no confirms, published counts as confirmed.
        """
        delivery = make_delivery("memory://")
        for number in range(300):
            delivery.accept(make_message(number))
        delivery.deliver(make_message(300))

        assert 301 == check_sum(delivery)["confirmed"]
        assert 0 == check_sum(delivery)["republished"]
        assert [] == undelivered.texts


class TestNobodyThere:
    def test_no_hot_loop(self, uri: str, make_delivery: Make) -> None:
        """
        Attempts to connect become rarer.
        """
        (nobody,) = free_ports(1)
        began = time.monotonic()
        delivery = make_delivery(with_port(uri, nobody))
        wait_until(lambda: delivery._relay._failures >= 5)

        assert time.monotonic() - began >= (0.1 + 0.2 + 0.4 + 0.8) / 2
