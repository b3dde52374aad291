"""
A shop that dispatches, and a handler that notes what it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import amqp
import kombu
import pytest
from kombu import Connection
from nameko.testing.services import dummy, entrypoint_hook

from nameko_eventlog import EventLogDispatcher, event_log_handler
from tests.conftest import global_config
from tests.nameko_version import event_exchange
from tests.proxy import Proxy
from tests.rabbitmq import with_port


class Shop:
    """
    Dispatches.
    """

    name = "shop"
    eventlog = EventLogDispatcher()

    @dummy
    def pay(self, first: int, count: int = 1) -> None:
        """
        Dispatch so many event logs.
        """
        for number in range(first, first + count):
            self.eventlog("paid" if number % 2 else "sold", {"number": number})


class Handled:
    """
    What handlers were called with, and how they fail.
    """

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.failing: Callable[[Any], None] = lambda argument: None

    def __call__(self, argument: Any) -> None:
        self.calls.append(argument)
        self.failing(argument)

    @property
    def numbers(self) -> list[int]:
        """
        The numbers of all event logs, in the order of the calls.
        """
        bodies = [b for call in self.calls for b in (call if isinstance(call, list) else [call])]
        return [body["data"]["number"] for body in bodies]


@pytest.fixture
def proxied(rabbit_config: dict[str, Any], proxy: Proxy) -> Iterator[dict[str, Any]]:
    """
    The configuration of a service that reaches its broker by way of the proxy.
    """
    uri = with_port(rabbit_config["AMQP_URI"], proxy.port)
    with global_config({"AMQP_URI": uri}) as config:
        yield config


@pytest.fixture
def handled() -> Handled:
    """
    What handlers were called with.
    """
    return Handled()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Try again without much ado.
    """
    monkeypatch.setattr("nameko_eventlog.consuming.batches.FIRST_RETRY", 0.01)


Start = Callable[..., Any]


@pytest.fixture
def start(run_service: Any, handled: Handled) -> Iterator[Start]:
    """
    Start a service whose handler has these options: ``start(config, "shop", batch_size=5)``.
    """

    def start(config: dict[str, Any], *services: str, **options: Any) -> Any:
        class Log:
            name = "log"

            @event_log_handler(*services, **options)
            def handle(self, argument: Any) -> None:
                handled(argument)

        return run_service(Log, config)

    return start


def pay(shop: Any, first: int, count: int = 1) -> None:
    """
    Let the shop dispatch.
    """
    with entrypoint_hook(shop, "pay") as hook:
        hook(first, count)


def lengths(config: dict[str, Any], name: str = "eventlog-log.handle") -> tuple[int, int]:
    """
    How many messages are in the queue, and in that of its dead letters.
    """
    with Connection(config["AMQP_URI"]) as connection:
        channel = connection.default_channel
        return tuple(
            kombu.Queue(queue, channel=channel).queue_declare(passive=True)[1]
            for queue in (name, f"{name}.dead-letters")
        )


def send(config: dict[str, Any], *messages: amqp.Message) -> None:
    """
    Send the shop's exchange messages as they are.
    """
    options = {"confirm_publish": True}  # else a channel that is closed may lose them
    with Connection(config["AMQP_URI"], transport_options=options) as connection:
        channel = connection.connection.channel()
        for message in messages:
            channel.basic_publish(
                message, exchange=event_exchange("shop").name, routing_key="log_event"
            )


class Unreadable(amqp.Message):  # type: ignore[misc]
    """
    A message whose content type is no UTF-8.
    """

    def _serialize_properties(self) -> bytes:
        return b"\x80\x00\x02\xff\xfe"
