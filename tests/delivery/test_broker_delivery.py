"""
Delivery as the dispatcher sees it: accepting, waiting, overflowing.
"""

import base64
import itertools
import json
import logging
import os
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any

import eventlet
import pytest
from eventlet import hubs, patcher, tpool
from greenlet import GreenletExit
from kombu import Connection

from logging_ext import forwarding
from nameko_eventlog.delivery import BrokerDelivery, OutboxEntry
from nameko_eventlog.delivery.relay import Relay
from nameko_eventlog.exceptions import NotConfirmed
from tests.delivery.conftest import (
    Lines,
    Received,
    check_sum,
    make_message,
    settled,
)
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


class TestHighWater:
    @pytest.fixture
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A broker is well for as long as a busy machine may keep it from confirming.
        """
        monkeypatch.setattr("nameko_eventlog.delivery.relay.PATIENCE", 60)
        monkeypatch.setattr("nameko_eventlog.delivery.broker_delivery.ROOM_SECONDS", 60)

    @pytest.mark.usefixtures("patient")
    @pytest.mark.parametrize("size", [10, 200])
    def test_a_loop_that_never_yields(
        self, size: int, uri: str, received: Received, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        While the broker is well, a worker that never yields cannot overflow the outbox.
        """
        count = 50 * size
        delivery = make_delivery(uri, buffer_size=size)
        for number in range(count):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))

        assert [] == undelivered.texts
        assert count == check_sum(delivery)["confirmed"]
        assert list(range(count)) == received.wait_for(count)

    @pytest.mark.parametrize("with_spool", [False, True])
    def test_the_broker_does_not_wait_for_a_loop_to_end(
        self, with_spool: bool, uri: str, make_delivery: Make, tmp_path: pathlib.Path
    ) -> None:
        """
        A worker that never yields has its event logs sent while it goes on.
        """
        delivery = make_delivery(uri, **({"spool": str(tmp_path)} if with_spool else {}))
        delivery.deliver(make_message())
        wait_until(settled(delivery))
        for number in range(900):  # less than what may be unconfirmed
            delivery.accept(make_message(number))
        stats = delivery.stats()

        assert stats["waiting"] - delivery._relay._in_flight.sent <= 100
        wait_until(settled(delivery))
        assert 901 == check_sum(delivery)["confirmed"]

    @pytest.mark.usefixtures("patient")
    def test_many_green_threads(
        self, uri: str, received: Received, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        Nor can fifty of them.
        """
        delivery = make_delivery(uri, buffer_size=100)

        def log(worker: int) -> None:
            for number in range(100):
                delivery.accept(make_message(worker * 100 + number))

        pool = eventlet.GreenPool(50)
        for worker in range(50):
            pool.spawn_n(log, worker)
        pool.waitall()
        wait_until(settled(delivery))

        assert [] == undelivered.texts
        assert 5000 == len(received.wait_for(5000))

    def test_without_a_broker(
        self, nowhere: str, make_delivery: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        With nobody to make room, a log call does not wait.
        """
        monkeypatch.setattr("nameko_eventlog.delivery.broker_delivery.ROOM_SECONDS", 60)
        delivery = make_delivery(nowhere, buffer_size=10)
        wait_until(lambda: delivery._relay._changes.is_lost)
        eventlet.sleep(1.1)
        began = time.monotonic()
        for number in range(100):
            delivery.accept(make_message(number))

        assert time.monotonic() - began < 30
        assert {"waiting": 10, "undelivered": 90}.items() <= check_sum(delivery).items()

    @pytest.mark.usefixtures("patient")
    def test_cut_in_a_loop(
        self,
        proxied: str,
        proxy: Proxy,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
    ) -> None:
        """
        A connection that is lost for a moment in the midst of such a loop makes no overflow.
        """
        delivery = make_delivery(proxied, buffer_size=500)
        for number in range(5000):
            delivery.accept(make_message(number))
            if number == 2000:
                proxy.cut()
        wait_until(settled(delivery))

        assert [] == undelivered.texts
        assert set(range(5000)) == set(received.wait_for(5000))

    def test_not_for_long_when_frozen(
        self, proxied: str, proxy: Proxy, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        A broker that has stopped answering is not waited for by log calls.
        """
        delivery = make_delivery(proxied, buffer_size=100)
        delivery.deliver(make_message())
        proxy.frozen = True
        began = time.monotonic()
        for number in range(300):
            delivery.accept(make_message(number))

        assert time.monotonic() - began < 20
        assert 200 == check_sum(delivery)["undelivered"]

    def test_not_for_long_when_refusing(
        self, uri: str, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        Nor is one that refuses what it is sent, again and again.
        """
        received = Received(uri, {"x-max-length": 10, "x-overflow": "reject-publish"})
        delivery = make_delivery(uri, buffer_size=50)
        for number in range(10):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))
        began = time.monotonic()
        for number in range(10, 200):
            delivery.accept(make_message(number))

        assert time.monotonic() - began < 60
        stats = check_sum(delivery)
        assert (10, 140) == (stats["confirmed"], stats["undelivered"])
        assert 140 == len(undelivered)
        assert 60 == len(received.wait_for(60, timeout=60))
        received.close()

    def test_not_for_long_when_slow(
        self, uri: str, make_delivery: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Nor one that confirms, but makes no room in a while.
        """
        monkeypatch.setattr("nameko_eventlog.delivery.broker_delivery.ROOM_SECONDS", 0.1)
        monkeypatch.setattr(Relay, "is_healthy", True)
        delivery = make_delivery(uri, buffer_size=10, start=False)
        monkeypatch.setattr(Relay, "is_running", True)
        began = time.monotonic()
        for number in range(20):
            delivery.accept(make_message(number))

        assert 1 <= time.monotonic() - began < 15
        assert 10 == check_sum(delivery)["undelivered"]

    @pytest.mark.parametrize("place", ["hub", "signal", "finalizer", "thread"])
    def test_where_it_must_not(self, place: str, uri: str, make_delivery: Make) -> None:
        """
        The hub, a signal handler, ``__del__`` and OS threads never yield.
        """
        delivery = make_delivery(uri, buffer_size=10)
        delivery.deliver(make_message())
        switched: list[str] = []
        finished: list[str] = []

        def fill() -> None:
            eventlet.spawn(switched.append, "switched")
            for number in range(12):
                delivery.accept(make_message(number))
            finished.append("switched" if switched else "not switched")

        def fill_in_thread() -> None:
            for number in range(12):
                delivery.accept(make_message(number))
            finished.append("not switched")

        class Dying:
            """Logs as it dies."""

            def __del__(self) -> None:
                fill()

        if place == "hub":
            hubs.get_hub().schedule_call_global(0, fill)
            wait_until(lambda: finished)
        elif place == "signal":
            before = signal.signal(signal.SIGUSR1, lambda *args: fill())
            os.kill(os.getpid(), signal.SIGUSR1)
            signal.signal(signal.SIGUSR1, before)
        elif place == "finalizer":
            Dying()
        else:
            tpool.execute(fill_in_thread)

        assert ["not switched"] == finished
        assert 13 == check_sum(delivery)["accepted"]


class TestOverflow:
    @pytest.mark.parametrize(
        ("options", "keys"),
        [
            ({"buffer_size": 1}, "buffer_size, buffer_bytes"),
            ({"spool_max_bytes": 1, "spool": "spool"}, "spool_max_bytes"),
        ],
    )
    def test_logged(
        self,
        nowhere: str,
        make_delivery: Make,
        undelivered: Lines,
        said: Lines,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
        options: dict[str, Any],
        keys: str,
    ) -> None:
        """
        One line a minute says that the outbox is full, and names the keys that bound it.
        """
        monkeypatch.chdir(tmp_path)
        delivery = make_delivery(nowhere, start=False, **options)
        for number in range(4):
            delivery.accept(make_message(number))

        assert len(undelivered.objects) >= 3
        (line,) = said.saying("outbox full")
        assert (
            f"outbox full (service foo; EVENTLOG_DISPATCHER: {keys}); event logs without room are"
            " logged to nameko_eventlog.undelivered (logged once a minute)"
        ) == line

    def test_sent_again(
        self, nowhere: str, uri: str, received: Received, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        From an undelivered line the message can be sent again: consumers get the same.
        """
        options: dict[str, Any] = {"headers": {"team": "a"}, "priority": 2}
        message = {"headers": {"b": [1, {"c": None}]}, "event_type": "grün"}
        delivery = make_delivery(nowhere, buffer_size=1, settings=options, start=False)
        delivery.accept(make_message(0))
        delivery.accept(make_message(1, **message))
        delivery.accept(make_message(2, body=b"\xff\xfe", content_encoding="binary", **message))
        assert ["the outbox is full"] * 2 == [one["reason"] for one in undelivered.objects]
        with Connection(uri) as connection:
            for line in undelivered.objects:
                body: Any = line["body"]
                if line["body_encoding"] == "base64":
                    body = base64.b64decode(body)
                connection.Producer().publish(
                    body,
                    exchange=line["exchange"],
                    routing_key=line["routing_key"],
                    **line["properties"],
                )
        direct = make_delivery(uri, settings=options)
        direct.deliver(make_message(1, **message))
        wait_until(lambda: received.read() or len(received.messages) == 3)
        again, binary, original = received.messages

        def known(one: Any) -> dict[str, Any]:
            found = {**one.properties, "body": one.body, "headers": one.headers}
            return {k: v for k, v in found.items() if k not in ("message_id",)}

        assert known(original) == known(again)
        assert original.decode() == again.decode() == {"number": 1}
        assert b"\xff\xfe" == binary.body
        assert undelivered.objects[0]["properties"]["message_id"] == received.ids[0]

    def test_manual_call(self, nowhere: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        A manual call waits for room, and raises: it was not sent, and is withdrawn.
        """
        delivery = make_delivery(nowhere, buffer_size=1, confirm_timeout=0.2)
        delivery.accept(make_message())
        with pytest.raises(NotConfirmed, match="the outbox is full") as raised:
            delivery.deliver(make_message())

        assert not raised.value.sent
        assert [] == undelivered.texts
        assert {"accepted": 1, "waiting": 1}.items() <= check_sum(delivery).items()

    def test_room_for_a_manual_call(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make
    ) -> None:
        """
        A manual call that waits for room goes on when there is some.
        """
        proxy.refusing = True
        delivery = make_delivery(proxied, buffer_size=1)
        delivery.accept(make_message(1))
        waiting = eventlet.spawn(delivery.deliver, make_message(2))
        eventlet.sleep(0.05)
        proxy.refusing = False
        waiting.wait()

        assert [1, 2] == received.wait_for(2)

    def test_withdrawn_makes_room(self, nowhere: str, make_delivery: Make) -> None:
        """
        What was withdrawn takes no room.
        """
        delivery = make_delivery(nowhere, buffer_size=1, confirm_timeout=0.05)
        for _ in range(3):
            with pytest.raises(NotConfirmed, match="did not confirm within"):
                delivery.deliver(make_message())
        delivery.accept(make_message())

        assert {"accepted": 1, "waiting": 1}.items() <= check_sum(delivery).items()

    def test_handlers_that_log(self, nowhere: str, make_delivery: Make) -> None:
        """
        What the handlers of undelivered lines log is not forwarded: it would have no end.
        """
        found: list[bool] = []

        class Asking(logging.Handler):
            """Asks whether a record would be forwarded now."""

            def emit(self, record: logging.LogRecord) -> None:
                found.append(forwarding.suspended.get())

        logging.getLogger("nameko_eventlog.undelivered").addHandler(Asking())
        delivery = make_delivery(nowhere, buffer_size=1)
        delivery.accept(make_message())
        delivery.accept(make_message())

        assert [True] == found
        assert not forwarding.suspended.get()


class TestBrokerRestarted:
    def test_under_load(
        self,
        broker: Broker,
        uri: str,
        proxy: Proxy,
        proxied: str,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
        said: Lines,
    ) -> None:
        """
        A broker that is killed under load and comes back gets every accepted event log.

        Nobody reaches it before its queue is bound again: RabbitMQ has been seen to come back
        from SIGKILL without a binding that was a second old.
        """
        delivery = make_delivery(proxied, confirm_timeout=1)
        accepted: dict[int, OutboxEntry] = {}
        withdrawn: set[int] = set()
        numbers = itertools.count()
        over = False

        def log() -> None:
            while not over:
                number = next(numbers)
                accepted[number] = message = make_message(number)
                delivery.accept(message)
                eventlet.sleep(0.002)

        def call() -> None:
            while not over:
                number = next(numbers)
                accepted[number] = message = make_message(number)
                try:
                    delivery.deliver(message)
                except NotConfirmed as exc:
                    if not exc.sent:
                        withdrawn.add(number)
                        del accepted[number]

        threads = [eventlet.spawn(log), eventlet.spawn(call)]
        wait_until(lambda: check_sum(delivery)["confirmed"] >= 200)
        proxy.refusing = True
        broker.kill()
        wait_until(lambda: withdrawn)  # a call was told that it was not sent
        broker.start()
        survived = Received(uri)  # the other's connection did not
        proxy.refusing = False
        wait_until(lambda: said.saying("connected to broker"))
        confirmed = delivery.stats()["confirmed"]
        wait_until(lambda: check_sum(delivery)["confirmed"] >= confirmed + 200)
        over = True
        for thread in threads:
            thread.wait()
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (len(accepted), len(accepted)) == (stats["accepted"], stats["confirmed"])
        assert [] == undelivered.texts
        assert set(accepted) == set(survived.wait_for(len(accepted)))
        assert {one.message_id for one in accepted.values()} == set(survived.ids)
        survived.close()


class TestOsThreads:
    def test_manual_call(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        A call from a real OS thread works, and waits on an unpatched primitive.
        """
        delivery = make_delivery(uri)
        tpool.execute(delivery.deliver, make_message(1))

        assert [1] == received.wait_for(1)
        assert 1 == check_sum(delivery)["confirmed"]

    def test_manual_call_in_vain(self, nowhere: str, make_delivery: Make) -> None:
        """
        It raises in time, as elsewhere.
        """
        delivery = make_delivery(nowhere, confirm_timeout=0.1, buffer_size=1)
        with pytest.raises(NotConfirmed, match="did not confirm"):
            tpool.execute(delivery.deliver, make_message(1))
        delivery.accept(make_message())
        with pytest.raises(NotConfirmed, match="full"):
            tpool.execute(delivery.deliver, make_message(1))

    def test_sum(
        self,
        uri: str,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
        monkeypatch: Any,
    ) -> None:
        """
        The counts are exact when OS threads and green threads log at once.
        """
        # what takes a lock in logging itself may hang in OS threads (eventlet#742)
        monkeypatch.setattr(logging, "logThreads", False)
        logging.getLogger("nameko_eventlog.undelivered").isEnabledFor(logging.ERROR)
        delivery = make_delivery(uri)  # no overflow: its lines take logging's locks
        counts: list[dict[str, int]] = []

        def log() -> None:
            for number in range(1000):
                delivery.accept(make_message(number))
                if number % 100 == 0:
                    counts.append(delivery.stats())

        threads = [patcher.original("threading").Thread(target=log) for _ in range(4)]
        for thread in threads:
            thread.start()
        log()
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
        wait_until(settled(delivery))
        stats = check_sum(delivery)

        assert min(min(one.values()) for one in counts) >= 0
        assert 5000 == stats["accepted"]
        assert stats["undelivered"] == len(undelivered)
        assert stats["confirmed"] == len(received.wait_for(stats["confirmed"]))


class TestStop:
    def test_summary(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        Stopping says what became of the event logs, once.
        """
        delivery = make_delivery(uri)
        delivery.accept(make_message())
        delivery.stop(10)
        delivery.stop(10)

        assert 1 == len(said.saying("event logs of foo: 1 accepted, 1 confirmed, 0 waiting"))

    def test_flush(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        What is in the outbox is delivered first.
        """
        delivery = make_delivery(uri)
        for number in range(3_000):
            delivery.accept(make_message(number))
        delivery.stop(20)

        assert list(range(3_000)) == received.wait_for(3_000)
        assert 3_000 == check_sum(delivery)["confirmed"]

    def test_before_start(self, uri: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        A delivery that was never started leaves undelivered lines.
        """
        delivery = make_delivery(uri, start=False)
        delivery.accept(make_message())
        delivery.stop(10)

        assert 1 == len(undelivered)

    def test_broker_down(self, nowhere: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        Without a broker it ends in time; what is left is undelivered by name.
        """
        delivery = make_delivery(nowhere)
        for number in range(200):
            delivery.accept(make_message(number))
        began = time.monotonic()
        delivery.stop(0.5)

        assert 0.4 < time.monotonic() - began < 8
        assert 200 == len({one["properties"]["message_id"] for one in undelivered.objects})
        assert 200 == check_sum(delivery)["undelivered"]

    def test_broker_frozen(
        self, proxied: str, proxy: Proxy, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        Nor does a broker that does not answer hold it up.
        """
        delivery = make_delivery(proxied)
        delivery.deliver(make_message(0))
        proxy.frozen = True
        for number in range(1, 200):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._in_flight.sent_at is not None)
        began = time.monotonic()
        delivery.stop(0.5)

        assert time.monotonic() - began < 8
        assert 199 == len(undelivered)
        check_sum(delivery)

    def test_goodbye_unanswered(self, proxied: str, proxy: Proxy, make_delivery: Make) -> None:
        """
        With everything delivered, a frozen broker costs no more than the goodbye.
        """
        delivery = make_delivery(proxied)
        delivery.deliver(make_message(0))
        proxy.frozen = True
        began = time.monotonic()
        delivery.stop(10)

        assert time.monotonic() - began < 8

    def test_while_connecting(self, proxied: str, proxy: Proxy, make_delivery: Make) -> None:
        """
        A stop in the middle of connecting ends it.
        """
        proxy.frozen = True
        delivery = make_delivery(proxied)
        delivery.accept(make_message())
        wait_until(lambda: proxy.connections)
        began = time.monotonic()
        delivery.stop(0.2)

        assert time.monotonic() - began < 8
        assert 1 == check_sum(delivery)["undelivered"]

    def test_comes_back_meanwhile(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make
    ) -> None:
        """
        A broker that comes back within the time still gets everything.
        """
        proxy.refusing = True
        delivery = make_delivery(proxied)
        for number in range(100):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._failures >= 2)

        def restore() -> None:
            proxy.refusing = False

        eventlet.spawn_after(0.3, restore)
        delivery.stop(10)

        assert list(range(100)) == received.wait_for(100)

    def test_waiting_calls(self, nowhere: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        Who waits for a confirm is told that it was not sent: withdrawn, no line.
        """
        delivery = make_delivery(nowhere)
        waiting = eventlet.spawn(delivery.deliver, make_message())
        wait_until(lambda: check_sum(delivery)["waiting"])
        delivery.stop(0)
        with pytest.raises(NotConfirmed, match="the service has stopped") as raised:
            waiting.wait()

        assert not raised.value.sent
        assert [] == undelivered.texts
        assert 0 == check_sum(delivery)["accepted"]

    @pytest.mark.parametrize("end", [GreenletExit, eventlet.Timeout])
    def test_calls_that_wait_no_more(
        self,
        end: type[BaseException],
        nowhere: str,
        make_delivery: Make,
        undelivered: Lines,
    ) -> None:
        """
        If its caller was ended meanwhile there is nobody to tell: there is a line.
        """
        delivery = make_delivery(nowhere)
        waiting = eventlet.spawn(delivery.deliver, make_message(7))
        wait_until(lambda: check_sum(delivery)["waiting"])
        waiting.kill(end)
        delivery.stop(0)

        (line,) = undelivered.objects
        assert {"number": 7} == json.loads(line["body"])
        assert 1 == check_sum(delivery)["undelivered"]

    def test_waiting_calls_that_were_sent(
        self, proxied: str, proxy: Proxy, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        If it was sent, it may still arrive, and there is a line.
        """
        delivery = make_delivery(proxied)
        delivery.deliver(make_message())
        proxy.frozen = True
        waiting = eventlet.spawn(delivery.deliver, make_message())
        wait_until(lambda: delivery._relay._in_flight.sent_at is not None)
        delivery.stop(0)
        with pytest.raises(NotConfirmed, match="the service has stopped") as raised:
            waiting.wait()

        assert raised.value.sent
        (line,) = undelivered.objects
        assert raised.value.message_id == line["properties"]["message_id"]

    def test_afterwards(self, uri: str, make_delivery: Make, undelivered: Lines) -> None:
        """
        A log call after the stop is undelivered by name, a manual one raises at once.
        """
        delivery = make_delivery(uri)
        delivery.stop(1)
        delivery.accept(make_message())
        with pytest.raises(NotConfirmed, match="the service has stopped"):
            delivery.deliver(make_message())

        assert ["the service has stopped"] == [one["reason"] for one in undelivered.objects]
        assert 1 == check_sum(delivery)["undelivered"]

    def test_stopped_between(
        self, uri: str, make_delivery: Make, undelivered: Lines, monkeypatch: Any
    ) -> None:
        """
        What an OS thread puts in just as the delivery stops is not lost.
        """
        delivery = make_delivery(uri, start=False)
        original = delivery._put

        def put(message: Any) -> Any:
            kept = original(message)
            delivery._closed = "the service has stopped"
            return kept

        monkeypatch.setattr(delivery, "_put", put)
        delivery.accept(make_message())

        assert 1 == len(undelivered)
        assert 1 == check_sum(delivery)["undelivered"]

    def test_killed_while_stopping(
        self, nowhere: str, make_delivery: Make, undelivered: Lines, said: Lines
    ) -> None:
        """
        A kill in the middle of a stop shortens it, and nothing is counted twice.
        """
        delivery = make_delivery(nowhere)
        delivery.accept(make_message())
        began = time.monotonic()
        stopping = eventlet.spawn(delivery.stop, 20)
        eventlet.sleep(0.05)
        delivery.stop(0)
        stopping.wait()

        assert time.monotonic() - began < 15
        assert 1 == len(undelivered)
        assert 1 == len(said.saying("event logs of foo: 1 accepted"))
