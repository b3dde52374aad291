"""
Handlers of event logs, on real brokers.
"""

from __future__ import annotations

import re
from typing import Any

import amqp
import eventlet
import kombu
import pytest
from eventlet.event import Event
from greenlet import GreenletExit
from kombu import Connection
from nameko.exceptions import ConfigurationError
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer, EventLogDispatcher, Unavailable
from nameko_eventlog.amqp import frame_reading
from tests.conftest import global_config
from tests.consuming.conftest import Handled, Shop, Start, Unreadable, lengths, pay, send
from tests.nameko_version import event_exchange
from tests.proxy import Proxy
from tests.waiting import wait_until


def with_headers(headers: dict[str, Any]) -> amqp.Message:
    """
    Make a message of the number 1 with such headers.
    """
    return amqp.Message(
        '{"data": {"number": 1}}',
        content_type="application/json",
        content_encoding="utf-8",
        application_headers=headers,
    )


class TestSingle:
    def test_named_service(
        self, any_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        The method is handed the body of each event log of the services that it names.
        """
        start(any_config, "shop")
        shop = run_service(Shop, any_config)
        pay(shop, 0, 20)

        wait_until(lambda: len(handled.calls) == 20)
        assert set(range(20)) == set(handled.numbers)
        assert {"shop"} == {body["service_name"] for body in handled.calls}

    def test_all_services(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        With no names it gets those of all services.
        """
        start(rabbit_config)
        pay(run_service(Shop, rabbit_config), 0, 5)

        wait_until(lambda: len(handled.calls) == 5)

    def test_event_types(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        Other event types are acknowledged unseen.
        """
        log = start(rabbit_config, "shop", event_types=["paid"])
        pay(run_service(Shop, rabbit_config), 0, 10)
        wait_until(lambda: len(handled.calls) == 5)
        log.stop()

        assert {1, 3, 5, 7, 9} == set(handled.numbers)
        assert (0, 0) == lengths(rabbit_config)


class TestBatch:
    def test_batches(
        self, any_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        The method is handed lists, full ones first, the rest after ``batch_seconds``.
        """
        shop = run_service(Shop, any_config)
        log = start(any_config, "shop", batch_size=10, batch_seconds=1)
        consumer = get_extension(log, EventLogConsumer)
        wait_until(lambda: consumer._subscription.connection)
        eventlet.sleep(0.2)
        pay(shop, 0, 65)

        wait_until(lambda: len(handled.numbers) == 65)
        assert list(range(65)) == handled.numbers
        assert [10] * 6 + [5] == [len(call) for call in handled.calls]


class TestFailure:
    def test_tried_again(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        A method that raises is tried again, and then the event log is done with.
        """

        def fail(body: Any) -> None:
            if len(handled.calls) < 3:
                raise ValueError("not yet")

        handled.failing = fail
        log = start(rabbit_config, "shop")
        pay(run_service(Shop, rabbit_config), 7)
        wait_until(lambda: len(handled.calls) == 3)
        log.stop()

        assert [7, 7, 7] == handled.numbers
        assert (0, 0) == lengths(rabbit_config)

    def test_dead_letter(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        One that fails for good becomes a dead letter with the reason; its batch does not.
        """

        def fail(bodies: Any) -> None:
            if any(body["data"]["number"] == 3 for body in bodies):
                raise ValueError("three")

        handled.failing = fail
        log = start(rabbit_config, "shop", batch_size=10, batch_seconds=1, max_attempts=3)
        pay(run_service(Shop, rabbit_config), 0, 10)
        wait_until(lambda: (0, 1) == lengths(rabbit_config))
        log.stop()

        assert 10 == len(handled.calls[0])
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            queue = kombu.Queue("eventlog-log.handle.dead-letters", channel=connection)
            letter = queue(connection.default_channel).get()
            assert letter is not None
            assert 3 == letter.decode()["data"]["number"]
            assert "ValueError('three')" in letter.headers["x-eventlog-reason"]
            assert "shop.events" == letter.headers["x-eventlog-exchange"]
        wait_until(lambda: (0, 1) == lengths(rabbit_config))

    def test_unavailable(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        `Unavailable` counts no attempt; after the hold the broker has the messages back.
        """
        is_up = False

        def fail(body: Any) -> None:
            if not is_up:
                raise Unavailable("no database")

        handled.failing = fail
        log = start(rabbit_config, "shop", max_attempts=2)
        consumer = get_extension(log, EventLogConsumer)
        consumer.hold_seconds = 0.5
        consumer.probe = lambda: is_up
        pay(run_service(Shop, rabbit_config), 1)
        wait_until(lambda: len(handled.calls) > 3)
        wait_until(lambda: (1, 0) == lengths(rabbit_config))
        is_up = True
        before = len(handled.calls)
        wait_until(lambda: len(handled.calls) > before)
        log.stop()

        assert (0, 0) == lengths(rabbit_config)

    def test_unavailable_to_some(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        What still runs when the hold is over is waited for, and not delivered again.
        """
        released = Event()

        def fail(body: Any) -> None:
            if body["data"]["number"] == 1:
                raise Unavailable("no database")
            released.wait()

        handled.failing = fail
        log = start(rabbit_config, "shop")
        consumer = get_extension(log, EventLogConsumer)
        consumer.hold_seconds = 0.1
        consumer.probe = lambda: False
        pay(run_service(Shop, rabbit_config), 0, 2)
        wait_until(lambda: 1 in handled.numbers)
        eventlet.sleep(0.5)  # for longer than the hold
        assert (0, 0) == lengths(rabbit_config)
        released.send()

        wait_until(lambda: (1, 0) == lengths(rabbit_config))
        assert 1 == handled.numbers.count(0)

    @pytest.mark.parametrize("end", [eventlet.Timeout, GreenletExit])
    def test_no_exception(
        self,
        rabbit_config: Any,
        run_service: Any,
        start: Start,
        handled: Handled,
        end: type[BaseException],
    ) -> None:
        """
        A method that ends by what is no ``Exception``, its own timeout for one, has failed.
        """

        def fail(body: Any) -> None:
            raise end()

        handled.failing = fail
        log = start(rabbit_config, "shop", max_attempts=2)
        pay(run_service(Shop, rabbit_config), 7)
        wait_until(lambda: (0, 1) == lengths(rabbit_config))
        with eventlet.Timeout(5):
            log.stop()

        assert [7, 7] == handled.numbers

    @pytest.mark.parametrize("stack", [5, True, None, "abc", [1, None, {}], {"a": "b"}])
    def test_hostile_stack(
        self, rabbit_config: Any, start: Start, handled: Handled, stack: Any
    ) -> None:
        """
        A call stack that is none begins a new one.
        """
        start(rabbit_config, "shop")
        headers = {"nameko.call_id_stack": stack, "nameko.language": "de"}
        send(rabbit_config, with_headers(headers))

        wait_until(lambda: (0, 0) == lengths(rabbit_config) and handled.numbers == [1])

    @pytest.mark.parametrize("count", [99, 2**40])
    def test_somebodys_count(
        self, rabbit_config: Any, start: Start, handled: Handled, count: int
    ) -> None:
        """
        How often a message came before is believed on quorum queues, which write it, alone.
        """
        start(rabbit_config, "shop")
        send(rabbit_config, with_headers({"x-delivery-count": count}))

        wait_until(lambda: handled.numbers == [1])

    @pytest.mark.parametrize("method", ["gzip", "bzip2", "lzma"])
    def test_compressed(
        self, any_config: Any, run_service: Any, start: Start, handled: Handled, method: str
    ) -> None:
        """
        A compressed body is decompressed once, whoever does it.
        """

        class Packing(Shop):
            eventlog = EventLogDispatcher(compression=method)

        start(any_config, "shop")
        pay(run_service(Packing, any_config), 7)

        wait_until(lambda: handled.numbers == [7])

    def test_not_readable(self, rabbit_config: Any, start: Start, handled: Handled) -> None:
        """
        What cannot be decoded becomes a dead letter as it was, and the next one is handled.
        """
        log = start(rabbit_config, "shop")
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            producer = kombu.Producer(connection.channel(), exchange=event_exchange("shop"))
            for body in (b"{rubbish", b'{"data": {"number": 1}}'):
                producer.publish(
                    body,
                    routing_key="log_event",
                    content_type="application/json",
                    content_encoding="utf-8",
                )
        wait_until(lambda: handled.numbers == [1])
        log.stop()

        assert (0, 1) == lengths(rabbit_config)

    def test_unreadable_properties(
        self, rabbit_config: Any, start: Start, handled: Handled, run_service: Any
    ) -> None:
        """
        A message whose properties are no UTF-8 becomes a dead letter; those behind it are handled.
        """

        start(rabbit_config, "shop")
        shop = run_service(Shop, rabbit_config)
        send(rabbit_config, Unreadable("{}"))
        pay(shop, 0)

        wait_until(lambda: handled.numbers == [0])
        wait_until(lambda: lengths(rabbit_config) == (0, 1))

    def test_plain_path(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        run_service: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        With a py-amqp whose frames cannot be read otherwise, event logs come as it documents.
        """
        monkeypatch.setattr(frame_reading, "works", lambda: False)
        start(rabbit_config, "shop", batch_size=10, batch_seconds=0.1)
        pay(run_service(Shop, rabbit_config), 0, 30)

        wait_until(lambda: len(handled.numbers) == 30)

    def test_settled_at_once(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        run_service: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        What was handled is acknowledged without waiting for the broker to say something.
        """
        monkeypatch.setattr("nameko_eventlog.consuming.subscription.PATIENCE", 60)
        start(rabbit_config, "shop", prefetch=1)
        pay(run_service(Shop, rabbit_config), 0, 5)

        wait_until(lambda: handled.numbers == [0, 1, 2, 3, 4])

    def test_connection_lost(
        self,
        rabbit_config: Any,
        proxy: Proxy,
        proxied: Any,
        run_service: Any,
        start: Start,
        handled: Handled,
        caplog: Any,
    ) -> None:
        """
        A lost connection is made anew; what was not acknowledged is handled again.
        """
        log = start(proxied, "shop")
        shop = run_service(Shop, rabbit_config)
        pay(shop, 0, 5)
        wait_until(lambda: len(handled.calls) == 5)
        proxy.refusing = True
        proxy.cut()
        pay(shop, 5, 5)
        wait_until(lambda: "cannot consume queue" in caplog.text)
        proxy.refusing = False
        wait_until(lambda: set(handled.numbers) == set(range(10)))
        log.stop()

        assert 1 == caplog.text.count("cannot consume queue")
        assert 1 == len(re.findall("consuming queue .* again", caplog.text))
        assert (0, 0) == lengths(rabbit_config)


class TestStop:
    def test_running(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        What runs is finished and acknowledged; what does not run stays in the queue.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(rabbit_config, "shop", prefetch=1)
        pay(run_service(Shop, rabbit_config), 0, 3)
        wait_until(lambda: len(handled.calls) == 1)
        stopping = eventlet.spawn(log.stop)
        eventlet.sleep(0.2)
        assert not stopping.dead
        may_end.send()
        stopping.wait()

        assert [0] == handled.numbers
        assert (2, 0) == lengths(rabbit_config)

    def test_killed(
        self, rabbit_config: Any, run_service: Any, start: Start, handled: Handled
    ) -> None:
        """
        A killed service leaves to the queue what it was at.
        """
        handled.failing = lambda body: Event().wait()
        log = start(rabbit_config, "shop")
        pay(run_service(Shop, rabbit_config), 0, 3)
        wait_until(lambda: len(handled.calls) == 3)
        log.kill()

        wait_until(lambda: (3, 0) == lengths(rabbit_config))


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"batch_size": 0}, "event_log_handler(batch_size=0): pass an integer from 1 to"),
            ({"batch_size": 70_000}, "(batch_size=70000): pass an integer from 1 to 65535"),
            ({"batch_size": 9, "prefetch": 5}, "(prefetch=5): pass an integer from 9 to 65535"),
            ({"prefetch": 70_000}, "(prefetch=70000): pass an integer from 1 to 65535"),
            ({"max_length": 2**70}, "pass an integer from 1 to 9223372036854775807"),
            ({"max_attempts": "5"}, "(max_attempts='5'): pass an integer"),
            ({"max_attempts": None}, "(max_attempts=None): pass an integer from 1"),
            ({"batch_seconds": None}, "(batch_seconds=None): pass a number of seconds above 0"),
            ({"expires": 0}, "(expires=0): pass a number of seconds above 0"),
            ({"expires": float("nan")}, "(expires=nan): pass a number of seconds above 0"),
            ({"expires": 1e9}, "(expires=1000000000.0): pass a number of seconds above 0, up to"),
        ],
    )
    def test_out_of_range(self, options: dict[str, Any], message: str) -> None:
        """
        An option out of range is named, with its value.
        """
        with pytest.raises(ValueError) as raised:
            EventLogConsumer("shop", **options)

        assert message in str(raised.value)

    def test_no_name(self) -> None:
        """
        So is a service that is no name.
        """
        with pytest.raises(TypeError, match="names of services"):
            EventLogConsumer(5)  # type: ignore[arg-type]

    @pytest.mark.parametrize("event_types", ["paid", ["paid", 5]])
    def test_no_event_types(self, event_types: Any) -> None:
        """
        So are event types that are none: a string's letters would be.
        """
        with pytest.raises(TypeError, match=r"event_types=.*: pass a list of strings"):
            EventLogConsumer("shop", event_types=event_types)

    def test_large_batch(self, rabbit_config: Any, start: Start) -> None:
        """
        A batch of more than half of what AMQP lets be prefetched is one.
        """
        start(rabbit_config, "shop", batch_size=40_000)
        wait_until(lambda: (0, 0) == lengths(rabbit_config))

    def test_long_name(self, rabbit_config: Any, start: Start) -> None:
        """
        A queue's name leaves room for that of its dead letters.
        """
        with pytest.raises(ConfigurationError, match="is longer than 242 bytes"):
            start(rabbit_config, "shop", queue="q" * 243)

    def test_no_fan_in(self, memory_config: Any, start: Start) -> None:
        """
        On ``memory://`` the services must be named.
        """
        with pytest.raises(ConfigurationError, match="name the services"):
            start(memory_config)

    def test_no_broker(self, start: Start) -> None:
        """
        Without a broker's address the service does not start.
        """
        with global_config({}, alone=True) as config:
            with pytest.raises(ConfigurationError, match="AMQP_URI"):
                start(config, "shop")

    def test_queue(self, rabbit_config: Any, broker: Any, start: Start) -> None:
        """
        The queue is what the options say.
        """
        start(rabbit_config, "shop", queue="mine", quorum=True, max_length=1000, expires=3600)

        vhost = rabbit_config["AMQP_URI"].rsplit("/", 1)[1]
        found = broker.api("GET", f"queues/{vhost}/mine")
        assert found["durable"]
        assert {
            "x-queue-type": "quorum",
            "x-max-length": 1000,
            "x-expires": 3_600_000,
        } == found["arguments"]
