"""
One connection to the broker.
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import amqp
import eventlet
import pytest
from kombu import Connection, Exchange, Queue

from nameko_eventlog.amqp.broker import Broker as Link
from nameko_eventlog.amqp.broker import blames_message
from nameko_eventlog.amqp.route import Declarations, reply_code
from nameko_eventlog.delivery import BrokerDelivery
from tests.delivery.conftest import (
    EXCHANGE,
    SETTINGS,
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


ROOT = pathlib.Path(__file__).parent.parent.parent

Make = Callable[..., BrokerDelivery]


class TestOpen:
    def test_declares(self, uri: str, make_delivery: Make) -> None:
        """
        The exchange, and what the publisher was told to declare, are there afterwards.
        """
        queue = Queue("extra", EXCHANGE, routing_key="log_event")
        delivery = make_delivery(uri, route={"declare": (queue,)})
        delivery.deliver(make_message())

        with Connection(uri) as connection:
            EXCHANGE(connection.default_channel).declare(passive=True)
            assert 1 == queue(connection.default_channel).queue_declare(passive=True)[1]

    def test_refused(self, uri: str, received: Received, make_delivery: Make, said: Lines) -> None:
        """
        A declaration that the broker refuses is noted once; the event logs are published.
        """
        other = Exchange("foo.events", type="topic", durable=False)
        delivery = make_delivery(uri, route={"exchange": other})
        delivery.deliver(make_message(1))
        hang_up(delivery)
        delivery.deliver(make_message(2))

        assert [1, 2] == received.wait_for(2)
        assert 1 == len(said.saying("could not declare"))

    def test_second_host(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        A uri may name several hosts: the next one is tried when one does not answer.
        """
        (nobody,) = free_ports(1)
        delivery = make_delivery(f"{with_port(uri, nobody)};{uri}")
        delivery.deliver(make_message(1))

        assert [1] == received.wait_for(1)

    def test_wrong_password(self, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        Refused credentials are a lost broker, whose password nobody gets to read.
        """
        delivery = make_delivery(uri.replace("guest:guest", "guest:secret"))
        delivery.accept(make_message(1))
        wait_until(lambda: said.saying("connection to broker"))

        assert [] == said.saying("secret")
        assert 1 == check_sum(delivery)["waiting"]

    def test_unanswered(
        self, proxied: str, proxy: Proxy, make_delivery: Make, said: Lines, monkeypatch: Any
    ) -> None:
        """
        A broker that accepts connections and says nothing is given up, and tried again.
        """
        monkeypatch.setattr("nameko_eventlog.amqp.broker.OPEN_TIMEOUT", 0.3)
        proxy.frozen = True
        delivery = make_delivery(proxied)
        wait_until(lambda: said.saying("connection to broker"))
        proxy.frozen = False

        delivery.deliver(make_message())
        assert 1 == len(said.saying("connected to broker"))


class TestPublisherOptions:
    def test_arrive(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        What Nameko's publisher was given is honoured.
        """
        settings = {
            "headers": {"team": "a"},
            "expiration": 60,
            "priority": 3,
            "compression": "gzip",
        }
        make_delivery(uri, settings=settings).deliver(make_message(5))
        wait_until(lambda: received.read() or received.messages)
        (message,) = received.messages

        assert "60000" == message.properties["expiration"]
        assert 3 == message.properties["priority"]
        assert "a" == message.headers["team"]
        assert "application/x-gzip" == message.headers["compression"]
        assert {"number": 5} == message.decode()


class TestFanIn:
    def test_bound(self, uri: str, make_delivery: Make) -> None:
        """
        The service's exchange is bound to the fan-in exchange, for the event type.
        """
        delivery = make_delivery(uri, route={"fan_in_exchange": "eventlog"})
        delivery.deliver(make_message(1))
        with Connection(uri) as connection:
            fan_in = Exchange("eventlog", type="topic", durable=True)
            queue = Queue("all", fan_in, routing_key="log_event")(connection.default_channel)
            queue.declare()
            delivery.deliver(make_message(2))
            message = queue.get(no_ack=True)

        assert message is not None
        assert {"number": 2} == message.payload

    def test_refused(self, uri: str, received: Received, make_delivery: Make, said: Lines) -> None:
        """
        A broker that does not permit it is noted once, reconnects included.
        """
        delivery = make_delivery(uri, route={"fan_in_exchange": "amq.eventlog"})
        delivery.deliver(make_message(1))
        hang_up(delivery)
        delivery.deliver(make_message(2))

        assert [1, 2] == received.wait_for(2)
        assert 1 == len(said.saying("could not bind the fan-in exchange"))

    def test_memory(self, memory_config: Any, make_delivery: Make, said: Lines) -> None:
        """
        kombu's memory transport cannot do it, as everybody knows: nothing is said.
        """
        delivery = make_delivery("memory://", route={"fan_in_exchange": "eventlog"})
        delivery.deliver(make_message(1))

        assert 0 == len(said.saying("could not bind the fan-in exchange"))
        assert 1 == check_sum(delivery)["confirmed"]

    def test_unknown_method(self, uri: str, said: Lines) -> None:
        """
        A broker that hangs up on it is not asked again, or nothing would ever be published.
        """
        route = Link(SETTINGS, _route(), lambda *args: None, lambda: None)._route
        declarations = Declarations(route, Connection(uri))
        calls: list[str] = []

        class Channel:
            """What a broker without the extension makes of it."""

            def exchange_declare(self, **arguments: Any) -> None:
                calls.append(arguments["exchange"])

            def exchange_bind(self, **arguments: Any) -> None:
                raise amqp.exceptions.AMQPNotImplementedError("no", (40, 30), reply_code=540)

        declarations._connection_errors = (amqp.exceptions.ConnectionError,)
        declarations._bind_fan_in = (  # type: ignore[method-assign]
            lambda channel, nowait: Channel().exchange_bind()
        )
        with Connection(uri) as connection:
            with pytest.raises(amqp.exceptions.AMQPNotImplementedError):
                declarations.make(connection.default_channel, lambda: None)
            declarations.make(connection.default_channel, lambda: None)

        assert 1 == len(said.saying("could not bind the fan-in exchange"))


def _route() -> Any:
    from nameko_eventlog.delivery import Route

    return Route("foo", EXCHANGE, "log_event", (), "eventlog")


class TestRead:
    def test_half_a_frame(
        self, proxied: str, proxy: Proxy, received: Received, make_delivery: Make
    ) -> None:
        """
        While half an answer is there, everybody else runs: py-amqp alone would spin.
        """
        delivery = make_delivery(proxied)
        delivery.deliver(make_message(0))
        proxy.dribble = True
        ticks = []

        def tick() -> None:
            while True:
                ticks.append(1)
                eventlet.sleep(0.001)

        ticking = eventlet.spawn(tick)
        for number in range(1, 6):
            delivery.deliver(make_message(number))
        ticking.kill()

        assert 20 < len(ticks)
        assert [0, 1, 2, 3, 4, 5] == received.wait_for(6)
        assert 0 == check_sum(delivery)["republished"]

    def test_never_the_other_half(
        self, proxied: str, proxy: Proxy, make_delivery: Make, said: Lines
    ) -> None:
        """
        A connection that stops in the middle of an answer is lost in time.
        """
        delivery = make_delivery(proxied, confirm_timeout=0.5)
        delivery.deliver(make_message(0))
        proxy.half = True
        delivery.accept(make_message(1))
        wait_until(lambda: said.saying("no confirm within"))
        proxy.cut()
        proxy.frozen = False

        wait_until(settled(delivery))


class TestAboveAFrame:
    @pytest.mark.parametrize("size", [130_000, 131_100])
    def test_just_below(
        self, size: int, uri: str, received: Received, make_delivery: Make
    ) -> None:
        """
        Headers that fit into a frame are no reason to give a message up.
        """
        delivery = make_delivery(uri)
        message = make_message(1, headers={"a": "x" * size})
        link = delivery._relay._target

        assert link.is_above_a_frame(message) is (size > 130_950)
        if size < 130_950:
            delivery.deliver(message)
            assert [1] == received.wait_for(1)

    def test_not_encodable(self) -> None:
        """
        Headers that cannot be encoded fit nowhere.
        """
        link = Link(SETTINGS, _route(), lambda *args: None, lambda: None)

        assert link.is_above_a_frame(make_message(headers={"a": object()}))


class TestReplyCode:
    @pytest.mark.parametrize(
        ("exc", "code", "blames"),
        [
            (OSError("reset"), 0, False),
            (amqp.exceptions.NotFound("no exchange"), 404, False),
            (amqp.exceptions.AccessRefused("no"), 403, False),
            (amqp.exceptions.ConnectionForced("bye"), 320, False),
            (amqp.exceptions.PreconditionFailed("too large"), 406, True),
            (amqp.exceptions.FrameError("too large"), 501, True),
        ],
    )
    def test_blame(self, exc: Exception, code: int, blames: bool) -> None:
        """
        Only what the broker says of what was sent to it speaks against a message.
        """
        assert code == reply_code(exc)
        assert blames is blames_message(exc)


@pytest.mark.filterwarnings("ignore:Using fork")
class TestAbandon:
    def test_in_a_child(self, uri: str, received: Received, make_delivery: Make) -> None:
        """
        In a forked child the socket is another's; the parent's goes on.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(1))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                link = delivery._relay._target
                link.close(orderly=True)
                status = 0
            finally:
                os._exit(status)
        wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
        delivery.deliver(make_message(2))

        assert [1, 2] == received.wait_for(2)
        assert 0 == check_sum(delivery)["republished"]


class TestPermissions:
    def test_least(self, broker: Broker, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        The permissions that the operating guide names are enough, fan-in included.
        """
        page = (ROOT / "docs" / "operating.md").read_text()
        permissions = re.findall(r"set_permissions -p / foo '(.*)' '(.*)' '(.*)'", page)[0]
        vhost = uri.rpartition("/")[2]
        fan_in = Exchange("eventlog", type="topic", durable=True)
        with (
            broker.user("foo", vhost, *permissions),
            contextlib.closing(Received(uri, exchange=fan_in)) as received,
        ):
            delivery = make_delivery(
                uri.replace("guest:guest", "foo:secret"), route={"fan_in_exchange": "eventlog"}
            )
            delivery.deliver(make_message(1))

            assert [1] == received.wait_for(1)
            assert [] == said.saying("could not")
