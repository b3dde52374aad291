"""
Event logs that are delivered again: after a lost connection, after a call that was ended, alone.
"""

from __future__ import annotations

import json
from typing import Any

import amqp
import eventlet
import kombu
import pytest
from eventlet.event import Event
from greenlet import GreenletExit
from kombu import Connection
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer, Unavailable
from tests.consuming.conftest import Handled, Start, lengths, send
from tests.nameko_version import event_exchange
from tests.proxy import Proxy
from tests.waiting import wait_until


QUEUE = "eventlog-log.handle"
ALONE = f"{QUEUE}.alone"


def numbered(number: int, **properties: Any) -> amqp.Message:
    """
    Make an event log with a message id: ``numbered(1, message_id="id-2")``.
    """
    return amqp.Message(
        json.dumps({"event_type": "paid", "data": {"number": number}}),
        **{
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "message_id": f"id-{number}",
            **properties,
        },
    )


def consumer_of(log: Any) -> EventLogConsumer:
    """
    Return the consumer of a service.
    """
    found: EventLogConsumer = get_extension(log, EventLogConsumer)
    return found


def dead(config: dict[str, Any]) -> list[tuple[int, str]]:
    """
    Take all dead letters: their numbers and the reasons.
    """
    found = []
    with Connection(config["AMQP_URI"]) as connection:
        queue = kombu.Queue(f"{QUEUE}.dead-letters")(connection.default_channel)
        while (letter := queue.get(no_ack=True)) is not None:
            found.append((letter.decode()["data"]["number"], letter.headers["x-eventlog-reason"]))
    return found


def deliver(config: dict[str, Any], queue: str, times: int) -> None:
    """
    Take all messages of a queue so often, and give them back unhandled, as a crash does.
    """
    with Connection(config["AMQP_URI"]) as connection:
        bound = kombu.Queue(queue)(connection.default_channel)
        for _ in range(times):
            taken = wait_until(lambda: list(iter(bound.get, None)))
            for message in taken:
                message.reject(requeue=True)


@pytest.fixture
def quorum(rabbit_config: dict[str, Any]) -> dict[str, Any]:
    """
    A configuration with the handler's queues, which are quorum queues, on its broker.
    """
    with Connection(rabbit_config["AMQP_URI"]) as connection:
        for name, exchange in (
            (QUEUE, event_exchange("shop")),
            (ALONE, None),
            (f"{QUEUE}.dead-letters", None),
        ):
            kombu.Queue(
                name, exchange, routing_key="log_event", queue_arguments={"x-queue-type": "quorum"}
            )(connection.default_channel).declare()
    return rabbit_config


class TestLostConnection:
    def test_returns(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        A call that goes on when the connection is lost is not begun again: when it returns, the
        copy that was delivered meanwhile is acknowledged.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(proxied, "shop", prefetch=10)
        consumer = consumer_of(log)
        send(rabbit_config, numbered(0), numbered(1))
        wait_until(lambda: [0, 1] == sorted(handled.numbers))
        proxy.cut()
        wait_until(lambda: consumer.stats()["received"] == 4)
        may_end.send()
        wait_until(lambda: consumer.stats()["handled"] == 2)
        log.stop()

        assert [0, 1] == sorted(handled.numbers)
        assert (0, 0) == lengths(rabbit_config)
        assert 2 == consumer.stats()["returned"]

    def test_returned_before(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        Nor is one that returns before its copy is delivered, which is acknowledged then.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(proxied, "shop")
        consumer = consumer_of(log)
        send(rabbit_config, numbered(0))
        wait_until(lambda: [0] == handled.numbers)
        proxy.refusing = True
        proxy.cut()
        wait_until(lambda: consumer.stats()["returned"] == 1)
        may_end.send()
        wait_until(lambda: consumer.stats()["running"] == 0)
        proxy.refusing = False
        wait_until(lambda: consumer.stats()["handled"] == 1)
        log.stop()

        assert [0] == handled.numbers
        assert (0, 0) == lengths(rabbit_config)

    def test_raises(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        When such a call raises, that was an attempt with the copy.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(proxied, "shop", max_attempts=1)
        consumer = consumer_of(log)
        send(rabbit_config, numbered(0))
        wait_until(lambda: [0] == handled.numbers)
        proxy.cut()
        wait_until(lambda: consumer.stats()["received"] == 2)
        may_end.send_exception(ValueError("no"))
        wait_until(lambda: consumer.stats()["dead_letters"] == 1)
        log.stop()

        assert [0] == handled.numbers
        assert [(0, "was not handled: ValueError('no')")] == dead(rabbit_config)

    def test_no_worker(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        What waits for a worker when the connection is lost is dropped, and handled once when it
        is delivered again. What bears no message id cannot be known: it is handled again.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(proxied, "shop", prefetch=20)
        consumer = consumer_of(log)
        send(rabbit_config, numbered(0, message_id=""), *map(numbered, range(1, 20)))
        wait_until(lambda: handled.calls and consumer.stats()["received"] == 20)
        wait_until(lambda: consumer.stats()["running"] == 20)
        proxy.cut()
        wait_until(lambda: consumer.stats()["received"] == 40)
        may_end.send()
        wait_until(lambda: consumer.stats()["handled"] == 20)
        log.stop()

        assert [0, *range(20)] == sorted(handled.numbers)
        assert (0, 0) == lengths(rabbit_config)

    def test_batches(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        A batch that is to be tried again is dropped with its connection: what it held is delivered
        again.
        """

        def fail(bodies: Any) -> None:
            if len(handled.calls) == 1:
                proxy.cut()
                raise ValueError("not yet")

        handled.failing = fail
        log = start(proxied, "shop", batch_size=5, batch_seconds=0.2)
        consumer = consumer_of(log)
        send(rabbit_config, *map(numbered, range(5)))
        wait_until(lambda: consumer.stats()["handled"] == 5)
        log.stop()

        assert [*range(5), *range(5)] == handled.numbers
        assert (0, 5) == (consumer.stats()["retries"], consumer.stats()["returned"])


class TestTimeout:
    def test_ended(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A call that takes longer than ``handler_timeout`` is ended, also one that catches that at
        first; each is a failed attempt, and in the end there is a dead letter.
        """
        monkeypatch.setattr("nameko_eventlog.consuming.calls._AGAIN", 0.05)

        def hang(body: Any) -> None:
            if body["data"]["number"] == 0:
                try:
                    Event().wait()
                except GreenletExit:
                    Event().wait()

        handled.failing = hang
        log = start(rabbit_config, "shop", handler_timeout=0.2, max_attempts=2)
        consumer = consumer_of(log)
        send(rabbit_config, numbered(0), numbered(1))
        wait_until(lambda: consumer.stats()["dead_letters"] == 1)
        with eventlet.Timeout(10):
            log.stop()

        reason = "the call took longer than handler_timeout=0.2 s"
        assert [0, 0, 1] == sorted(handled.numbers)
        assert [(0, f"was not handled: TimeoutError('{reason}')")] == dead(rabbit_config)
        assert (1, 1) == (consumer.stats()["handled"], consumer.stats()["retries"])
        assert 2 == caplog.text.count(f"log.handle: {reason}; killing it")


class TestAlone:
    def test_handled(self, quorum: Any, start: Start, handled: Handled) -> None:
        """
        What came too often is handled alone, as it was sent, and when nothing else is handled.
        """
        running: list[int] = []
        together: list[tuple[int, ...]] = []

        def work(body: Any) -> None:
            running.append(body["data"]["number"])
            together.append(tuple(running))
            eventlet.sleep(0.05)
            running.remove(body["data"]["number"])

        handled.failing = work
        send(quorum, numbered(0), numbered(1))
        deliver(quorum, QUEUE, 2)
        send(quorum, numbered(2), numbered(3))
        log = start(quorum, "shop", quorum=True, max_attempts=2)
        consumer = consumer_of(log)
        wait_until(lambda: consumer.stats()["handled"] == 4)
        log.stop()

        assert [0, 1, 2, 3] == sorted(handled.numbers)
        assert {(0,), (1,)} == {one for one in together if {0, 1} & set(one)}
        assert (2, 0) == (consumer.stats()["isolated"], consumer.stats()["dead_letters"])
        assert (0, 0) == lengths(quorum)

    def test_too_often(self, quorum: Any, start: Start, handled: Handled) -> None:
        """
        What was handled alone as often as it may be becomes a dead letter: it ends processes.
        """
        send(quorum, numbered(0))
        deliver(quorum, QUEUE, 2)
        log = start(quorum, "shop", quorum=True, max_attempts=2)
        handled.failing = lambda body: Event().wait()
        wait_until(lambda: [0] == handled.numbers)
        log.kill()
        deliver(quorum, ALONE, 1)
        log = start(quorum, "shop", quorum=True, max_attempts=2)
        wait_until(lambda: consumer_of(log).stats()["dead_letters"] == 1)
        log.stop()

        assert [0] == handled.numbers
        reason = "was handled alone 2 times, and the process or connection ended"
        assert [(0, reason)] == dead(quorum)

    def test_lost_connection(
        self, quorum: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        A connection that is lost while one is handled alone begins no second call.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        send(quorum, numbered(0))
        deliver(quorum, QUEUE, 2)
        log = start(proxied, "shop", quorum=True, max_attempts=2)
        consumer = consumer_of(log)
        wait_until(lambda: [0] == handled.numbers)
        proxy.cut()
        wait_until(lambda: consumer.stats()["returned"] == 1)
        may_end.send()
        wait_until(lambda: consumer.stats()["handled"] == 1)
        log.stop()

        assert [0] == handled.numbers
        assert (0, 0) == lengths(quorum)

    @pytest.mark.parametrize("ends", ["outage", "stop"])
    def test_unavailable(self, quorum: Any, start: Start, handled: Handled, ends: str) -> None:
        """
        One for which the method is unavailable goes back into its queue, as new: neither the
        outage nor the end of the service is an attempt.
        """
        is_up = Event()

        def work(body: Any) -> None:
            if not is_up.ready():
                raise Unavailable("no database")

        handled.failing = work
        send(quorum, numbered(0))
        deliver(quorum, QUEUE, 2)
        log = start(quorum, "shop", quorum=True, max_attempts=2)
        consumer = consumer_of(log)
        consumer.hold_seconds = 0.2 if ends == "outage" else 60
        consumer.probe = is_up.ready
        wait_until(lambda: handled.calls)
        if ends == "outage":
            wait_until(lambda: consumer.stats()["isolated"] == 2)
        else:
            log.stop()
            log = start(quorum, "shop", quorum=True, max_attempts=2)
        is_up.send()
        wait_until(lambda: consumer_of(log).stats()["handled"] == 1)
        log.stop()

        assert {0} == set(handled.numbers)
        assert [] == dead(quorum)
