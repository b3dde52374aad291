"""
Queues, connections and brokers that are not as they should be.
"""

from __future__ import annotations

import json
import re
from typing import Any

import amqp
import eventlet
import kombu
import pytest
from eventlet.event import Event
from kombu import Connection
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer, Unavailable, limits
from tests.conftest import global_config
from tests.consuming.conftest import Handled, Shop, Start, Unreadable, lengths, pay, send
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.waiting import wait_until


QUEUE = "eventlog-log.handle"
LETTERS = f"{QUEUE}.dead-letters"


def rubbish(size: int = 0, **properties: Any) -> amqp.Message:
    """
    Make a message that no handler is handed.
    """
    return amqp.Message("{" + "x" * size, content_type="application/json", **properties)


def letter(config: dict[str, Any]) -> Any:
    """
    Take a dead letter.
    """
    with Connection(config["AMQP_URI"]) as connection:
        return kombu.Queue(LETTERS)(connection.default_channel).get(no_ack=True, accept=None)


def delete(config: dict[str, Any], queue: str) -> None:
    """
    Delete a queue.
    """
    with Connection(config["AMQP_URI"]) as connection:
        connection.default_channel.queue_delete(queue)


def large(number: int, size: int) -> amqp.Message:
    """
    Make a message with a body of more than so many bytes.
    """
    body = {"event_type": "large", "data": {"number": number, "text": "x" * size}}
    return amqp.Message(
        json.dumps(body), content_type="application/json", content_encoding="utf-8"
    )


@pytest.fixture
def classic(rabbit_config: Any) -> None:
    """
    The handler's queue is there, a classic one.
    """
    with Connection(rabbit_config["AMQP_URI"]) as connection:
        connection.default_channel.queue_declare(QUEUE, durable=True, auto_delete=False)


class TestDeadLetters:
    def test_between(self, rabbit_config: Any, start: Start) -> None:
        """
        While a dead letter's confirm is waited for, messages of all kinds and sizes arrive.
        """
        start(rabbit_config, "shop", prefetch=100)
        kinds = [
            kind
            for size in (0, 10, 3_000, 300_000)
            for kind in (Unreadable("{" + "x" * size), rubbish(size), rubbish(size))
        ]
        send(rabbit_config, *kinds * 15)

        wait_until(lambda: lengths(rabbit_config) == (0, len(kinds) * 15))

    def test_deleted(self, rabbit_config: Any, start: Start, handled: Handled) -> None:
        """
        Without their queue dead letters are not lost: it is made anew.
        """
        start(rabbit_config, "shop")
        delete(rabbit_config, LETTERS)
        send(rabbit_config, rubbish())

        wait_until(lambda: self._are_there(rabbit_config))

    @staticmethod
    def _are_there(config: Any) -> bool:
        try:
            return lengths(config) == (0, 1)
        except amqp.NotFound:
            return False

    def test_refused(
        self,
        rabbit_config: Any,
        broker: Broker,
        start: Start,
        handled: Handled,
        run_service: Any,
        caplog: Any,
    ) -> None:
        """
        What the broker takes no dead letter of is held, told of once, and tried again; what is
        behind it is handled.
        """
        vhost = rabbit_config["AMQP_URI"].rsplit("/", 1)[1]
        broker.api(
            "PUT",
            f"policies/{vhost}/full",
            {
                "pattern": LETTERS,
                "apply-to": "queues",
                "definition": {"max-length": 1, "overflow": "reject-publish"},
            },
        )
        start(rabbit_config, "shop")
        send(rabbit_config, *[rubbish(message_id=f"{number}") for number in range(3)])
        pay(run_service(Shop, rabbit_config), 0, 5)
        wait_until(lambda: set(handled.numbers) == set(range(5)))

        found: list[str] = []

        def all_found() -> bool:
            one = letter(rabbit_config)
            if one is not None:
                found.append(one.properties["message_id"])
            return len(found) == 3

        wait_until(all_found)
        assert ["0", "1", "2"] == sorted(found)
        assert 2 == caplog.text.count("the broker refused a dead letter")

    def test_headers(self, rabbit_config: Any, start: Start) -> None:
        """
        Headers that fill a frame alone stay behind, and so does what a reason has too much.
        """
        start(rabbit_config, "shop")
        send(rabbit_config, rubbish(application_headers={"much": "x" * 130_000, "more": 1}))
        wait_until(lambda: lengths(rabbit_config) == (0, 1))

        found = letter(rabbit_config)
        assert "{" == found.body
        assert "much, more" == found.headers["x-eventlog-left-out"]
        assert "more" not in found.headers

    def test_unspeakable(
        self, rabbit_config: Any, start: Start, handled: Handled, run_service: Any
    ) -> None:
        """
        An exception that cannot be shown is a reason all the same.
        """

        class UnspeakableError(Exception):
            def __repr__(self) -> str:
                raise ValueError("no")

        def fail(body: Any) -> None:
            raise UnspeakableError

        handled.failing = fail
        start(rabbit_config, "shop", max_attempts=1)
        pay(run_service(Shop, rabbit_config), 0)
        wait_until(lambda: lengths(rabbit_config) == (0, 1))

        assert "<UnspeakableError instance" in letter(rabbit_config).headers["x-eventlog-reason"]


class TestQueue:
    def test_deleted(
        self, rabbit_config: Any, start: Start, handled: Handled, run_service: Any
    ) -> None:
        """
        A queue that somebody deletes is made anew.
        """
        start(rabbit_config, "shop")
        shop = run_service(Shop, rabbit_config)
        pay(shop, 0)
        wait_until(lambda: handled.numbers == [0])
        delete(rabbit_config, QUEUE)

        def is_back() -> bool:
            pay(shop, 1)
            return 1 in handled.numbers

        wait_until(is_back, interval=0.1)

    def test_another_type(
        self, rabbit_config: Any, classic: None, start: Start, caplog: Any
    ) -> None:
        """
        A queue that is there with other options is told of, with what to do, and not tried in a
        hot loop; the service stops as ever.
        """
        log = start(rabbit_config, "shop", quorum=True)
        consumer = get_extension(log, EventLogConsumer)

        wait_until(lambda: "delete it when it is empty, or choose another name" in caplog.text)
        eventlet.sleep(1)
        assert consumer._subscription._connections < 6
        assert 1 == caplog.text.count("cannot consume queue")
        with eventlet.Timeout(5):
            log.stop()

    def test_put_right(
        self,
        rabbit_config: Any,
        classic: None,
        start: Start,
        handled: Handled,
        run_service: Any,
    ) -> None:
        """
        When it is gone, its consumer begins.
        """
        start(rabbit_config, "shop", quorum=True)
        delete(rabbit_config, QUEUE)
        shop = run_service(Shop, rabbit_config)

        def is_handled() -> bool:
            pay(shop, 0)
            return 0 in handled.numbers

        wait_until(is_handled, interval=0.2)


class TestBroker:
    def test_away(
        self,
        rabbit_config: Any,
        proxy: Proxy,
        proxied: Any,
        start: Start,
        handled: Handled,
        run_service: Any,
        caplog: Any,
    ) -> None:
        """
        A broker that is not there, however often it is tried, ends no service.
        """
        proxy.refusing = True
        log = start(proxied, "shop")
        consumer = get_extension(log, EventLogConsumer)
        wait_until(lambda: consumer._subscription._failures >= 2)
        proxy.refusing = False
        wait_until(lambda: re.search("consuming queue .* again", caplog.text))
        pay(run_service(Shop, rabbit_config), 0)
        wait_until(lambda: handled.numbers == [0])
        log.stop()
        assert 1 == caplog.text.count("cannot consume queue")


class TestStop:
    def test_without_broker(self, memory_config: Any, nowhere: str, start: Start) -> None:
        """
        A service whose broker is away stops as soon as it is asked to.
        """
        with global_config({"AMQP_URI": nowhere}) as config:
            log = start(config, "shop")
            eventlet.sleep(0.5)
            with eventlet.Timeout(2):
                log.stop()

    def test_running(
        self,
        rabbit_config: Any,
        proxy: Proxy,
        proxied: Any,
        start: Start,
        handled: Handled,
        run_service: Any,
    ) -> None:
        """
        If the broker has gone since, what runs is finished first, and delivered again later.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(proxied, "shop")
        pay(run_service(Shop, rabbit_config), 0)
        wait_until(lambda: handled.numbers == [0])
        proxy.refusing = True
        proxy.cut()
        stopping = eventlet.spawn(log.stop)
        eventlet.sleep(0.3)
        assert not stopping.dead
        may_end.send()
        with eventlet.Timeout(2):
            stopping.wait()
        assert (1, 0) == lengths(rabbit_config)

    def test_unavailable(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        run_service: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        So does one that waits for what its method needs.
        """

        def fail(body: Any) -> None:
            raise Unavailable("no database")

        monkeypatch.setattr("nameko_eventlog.consuming.batches.FIRST_RETRY", 60)
        handled.failing = fail
        log = start(rabbit_config, "shop")
        consumer = get_extension(log, EventLogConsumer)
        consumer.hold_seconds = 0.1
        pay(run_service(Shop, rabbit_config), 0)
        wait_until(lambda: handled.numbers == [0] and lengths(rabbit_config) == (1, 0))
        with eventlet.Timeout(2):
            log.stop()


class TestHeld:
    def test_bytes(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        Of large messages fewer are held than the prefetch says, and the connection stays.
        """
        monkeypatch.setattr(limits, "HELD_BYTES", 1_000_000)
        may_end = Event()
        handled.failing = lambda bodies: may_end.wait()
        log = start(rabbit_config, "shop", batch_size=200, batch_seconds=1)
        consumer = get_extension(log, EventLogConsumer)
        send(rabbit_config, *[large(number, 50_000) for number in range(100)])

        wait_until(lambda: handled.calls)
        eventlet.sleep(0.5)
        assert 1_000_000 <= consumer._subscription._unsettled.size < 1_600_000
        may_end.send()
        wait_until(lambda: len(handled.numbers) == 100)
        log.stop()
        assert list(range(100)) == sorted(handled.numbers)
        assert 1 == consumer._subscription._connections
        assert max(map(len, handled.calls)) <= 6
        assert (0, 0) == lengths(rabbit_config)

    def test_signs_of_life(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A consumer that holds so much that it reads no more keeps its connection.
        """
        monkeypatch.setattr(limits, "HELD_BYTES", 1_000)
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        with global_config({**rabbit_config, "HEARTBEAT": 1}) as config:
            log = start(config, "shop", prefetch=50)
            send(rabbit_config, *[large(number, 2_000) for number in range(50)])
            wait_until(lambda: handled.calls)
            eventlet.sleep(4)
            may_end.send()
            wait_until(lambda: len(handled.calls) >= 50)
            consumer = get_extension(log, EventLogConsumer)
            assert 1 == consumer._subscription._connections
            assert 50 == len(handled.calls)
