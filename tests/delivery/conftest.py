"""
Fixtures: deliveries to a real broker, what arrives, what is said and what is not delivered.
"""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from eventlet import patcher
from kombu import Connection, Consumer, Exchange, Queue

from nameko_eventlog.amqp.settings import ConnectionSettings, PublisherSettings
from nameko_eventlog.config import parse_config
from nameko_eventlog.delivery import BrokerDelivery, OutboxEntry, Route
from nameko_eventlog.delivery.spool import spooled_outbox
from tests.proxy import Proxy
from tests.rabbitmq import with_port
from tests.waiting import wait_until


EXCHANGE = Exchange("foo.events", type="topic", durable=True, delivery_mode=2)

SETTINGS = PublisherSettings(ConnectionSettings(""))

CONNECTION = {field.name for field in dataclasses.fields(ConnectionSettings)}


def settings_at(uri: str, **changes: Any) -> PublisherSettings:
    """
    Return the settings of a publisher at *uri*, with changes of them or of their connection.
    """
    connection = {name: changes.pop(name) for name in CONNECTION & changes.keys()}
    return PublisherSettings(ConnectionSettings(uri, **connection), **changes)


def make_message(number: int = 0, **changes: Any) -> OutboxEntry:
    """
    Make a message whose body says which it is.
    """
    given: dict[str, Any] = {
        "body": json.dumps({"number": number}).encode(),
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "headers": {"nameko.call_id_stack": ["foo.bar.1"]},
        "event_type": "paid",
        "timestamp": 1_700_000_000.5,
    }
    return OutboxEntry(**{**given, **changes})


class Received:
    """
    A durable queue, and what a consumer gets from it.

    Args:
        uri: The broker.
        arguments: The queue's.
        exchange: What it is bound to.
        name: The queue's.
    """

    def __init__(
        self,
        uri: str,
        arguments: dict[str, Any] | None = None,
        exchange: Exchange = EXCHANGE,
        name: str = "q",
    ) -> None:
        self.connection = Connection(uri)
        self.queue = Queue(
            name, exchange, routing_key="log_event", durable=True, queue_arguments=arguments
        )
        self.queue(self.connection.default_channel).declare()
        self.messages: list[Any] = []

    def read(self) -> None:
        """
        Take what there is.
        """
        channel = self.connection.channel()
        consumer = Consumer(
            channel, [self.queue], on_message=self.messages.append, no_ack=True, accept=None
        )
        with consumer:
            while True:
                try:
                    self.connection.drain_events(timeout=0.1)
                except TimeoutError:
                    break
        channel.close()

    def wait_for(self, count: int, timeout: float = 60) -> list[int]:
        """
        Wait until so many different messages have come, and return the numbers in order.
        """

        def enough() -> bool:
            self.read()
            return len(set(self.ids)) >= count

        wait_until(enough, timeout)
        return self.numbers

    @property
    def numbers(self) -> list[int]:
        """
        What the bodies say, without what came twice.
        """
        first = {one.properties["message_id"]: one for one in reversed(self.messages)}
        unique = [one for one in self.messages if first[one.properties["message_id"]] is one]
        return [json.loads(one.body)["number"] for one in unique]

    @property
    def ids(self) -> list[str]:
        """
        The message ids, as often as they came.
        """
        return [one.properties["message_id"] for one in self.messages]

    def close(self) -> None:
        """
        Close the connection.
        """
        self.connection.close()


class Lines(logging.Handler):
    """
    Keep what is logged.
    """

    def __init__(self) -> None:
        super().__init__()
        # one that eventlet has patched hangs in OS threads (eventlet#742)
        self.lock = patcher.original("threading").RLock()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """
        Keep *record*.
        """
        self.records.append(record)

    def __len__(self) -> int:
        return len(self.records)

    def __bool__(self) -> bool:
        return True

    @property
    def texts(self) -> list[str]:
        """
        The rendered messages.
        """
        return [record.getMessage() for record in self.records]

    def saying(self, text: str) -> list[str]:
        """
        The messages with *text* in them.
        """
        return [line for line in self.texts if text in line]

    @property
    def objects(self) -> list[dict[str, Any]]:
        """
        The messages, as JSON.
        """
        return [json.loads(text) for text in self.texts]


@pytest.fixture
def undelivered() -> Lines:
    """
    What is written to ``nameko_eventlog.undelivered``.
    """
    lines = Lines()
    logging.getLogger("nameko_eventlog.undelivered").addHandler(lines)
    logging.getLogger("nameko_eventlog.undelivered").propagate = False
    return lines


@pytest.fixture
def said() -> Lines:
    """
    What ``nameko_eventlog`` says.
    """
    lines = Lines()
    logging.getLogger("nameko_eventlog").addHandler(lines)
    logging.getLogger("nameko_eventlog").setLevel(logging.INFO)
    return lines


@pytest.fixture
def uri(rabbit_config: dict[str, Any]) -> str:
    """
    An empty vhost of a real broker.
    """
    return str(rabbit_config["AMQP_URI"])


@pytest.fixture
def received(uri: str) -> Iterator[Received]:
    """
    A durable queue bound to the service's exchange.
    """
    received = Received(uri)
    yield received
    received.close()


@pytest.fixture
def proxied(uri: str, proxy: Proxy) -> str:
    """
    The vhost, by way of the proxy.
    """
    return with_port(uri, proxy.port)


@pytest.fixture
def make_delivery() -> Iterator[Callable[..., BrokerDelivery]]:
    """
    Make a started delivery: ``make_delivery(uri, confirm_timeout=1)``.

    Keyword arguments are configuration, ``settings`` and ``route`` changes of those, and
    ``start=False`` leaves the start to the test.
    """
    made = []

    def make(
        uri: str,
        *,
        settings: dict[str, Any] | None = None,
        route: dict[str, Any] | None = None,
        start: bool = True,
        **config: Any,
    ) -> BrokerDelivery:
        delivery = BrokerDelivery(
            settings_at(uri, **(settings or {})),
            Route(
                **{
                    "service": "foo",
                    "exchange": EXCHANGE,
                    "routing_key": "log_event",
                    "declare": (),
                    "fan_in_exchange": None,
                    **(route or {}),
                }
            ),
            parse_config({"EVENTLOG_DISPATCHER": config}),
        )
        made.append(delivery)
        if start:
            delivery.start()
        return delivery

    yield make
    for delivery in made:
        delivery.stop(0)


@pytest.fixture
def make_spooled(
    make_delivery: Callable[..., BrokerDelivery], tmp_path: pathlib.Path
) -> Callable[..., BrokerDelivery]:
    """
    Make one with a spool.
    """
    return functools.partial(make_delivery, spool=str(tmp_path))


@pytest.fixture
def files(tmp_path: pathlib.Path) -> Callable[[], list[pathlib.Path]]:
    """
    The segments in the spool of ``foo``, in order.
    """
    return lambda: sorted((tmp_path / "foo").glob("*/*.jsonl"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Spools look after their disk all the time.
    """
    monkeypatch.setattr(spooled_outbox, "SYNC_SECONDS", 0.02)
    monkeypatch.setattr(spooled_outbox, "ADOPT_SECONDS", 0.02)


def settled(delivery: BrokerDelivery) -> Callable[[], bool]:
    """
    Return a condition: nothing is waiting any more.
    """
    return lambda: delivery.stats()["waiting"] == 0


def hang_up(delivery: BrokerDelivery) -> None:
    """
    End the connection to the broker from this side of it.
    """
    number = os.dup(delivery._relay._target.socket.fileno())
    with socket.socket(fileno=number) as plain:  # that of TLS would forget its TLS by it
        plain.shutdown(socket.SHUT_RDWR)


def check_sum(delivery: BrokerDelivery) -> dict[str, int]:
    """
    Check that what is counted as waiting is what is kept, and return the counts.
    """
    stats = delivery.stats()
    assert stats["accepted"] == stats["confirmed"] + stats["waiting"] + stats["undelivered"]
    assert stats["waiting"] == delivery._outbox.waiting
    assert min(stats.values()) >= 0
    return stats
