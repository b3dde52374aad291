"""
Every bad input again, while the broker is down: with a spool all is as if it were there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dispatching.services import Foo, FooService, Listener
from tests.dispatching.test_bad_input import (
    TestArguments,
    TestEventTypes,
    TestMessages,
    TestPlaces,
    TestValues,
    log,
    quiet,
)
from tests.proxy import Proxy
from tests.rabbitmq import Broker, with_port


# These tests with the fixtures below; the last class there is about what a broker refuses.
__all__ = [
    "TestArguments",
    "TestEventTypes",
    "TestMessages",
    "TestPlaces",
    "TestValues",
    "log",
    "quiet",
]


class CutOff(Foo):
    """
    A running service whose broker comes back when somebody asks what has arrived.
    """

    def __init__(self, container: Any, listener: Listener, proxy: Proxy) -> None:
        super().__init__(container, listener)
        self._proxy = proxy
        self.bodies = self._bodies
        self.messages = self._messages

    def _bodies(self, count: int, timeout: float = 10.0) -> list[Any]:
        self._come_back(count)
        return self.listener.bodies(count, timeout)

    def _messages(self, count: int, timeout: float = 10.0) -> list[Any]:
        self._come_back(count)
        return self.listener.messages(count, timeout)

    def stop(self) -> list[Any]:
        """
        Stop the service when the broker is back.
        """
        self._proxy.refusing = False
        return super().stop()

    def _come_back(self, count: int) -> None:
        if self._proxy.refusing:
            assert count <= self.provider._delivery.stats()["waiting"]
            assert [] == self.listener.rest()
        self._proxy.refusing = False


@pytest.fixture
def start_foo(
    broker: Broker,
    rabbit_config: dict[str, Any],
    run_service: Callable[..., Any],
    tmp_path: pathlib.Path,
) -> Iterator[Callable[..., Foo]]:
    """
    Start a service whose broker is down: ``start_foo({"auto_capture": True})``.
    """
    listeners, proxies, started = [], [], []

    def start(
        eventlog: dict[str, Any] | None = None,
        service: type = FooService,
        event_type: str = "log_event",
    ) -> Foo:
        listener = Listener(rabbit_config, service.name, event_type)
        listeners.append(listener)
        proxy = Proxy(broker.port)
        proxy.refusing = True
        proxies.append(proxy)
        uri = with_port(rabbit_config["AMQP_URI"], proxy.port)
        section = {"spool": str(tmp_path / "spool"), "uri": uri, **(eventlog or {})}
        container = run_service(service, {**rabbit_config, "EVENTLOG_DISPATCHER": section})
        started.append(CutOff(container, listener, proxy))
        return started[-1]

    yield start

    for one in started:  # what a test has not asked for need not be waited for
        one.provider._delivery.stop(0)
    for proxy in proxies:
        proxy.close()
    for listener in listeners:
        listener.close()


@pytest.fixture
def foo(start_foo: Callable[..., Foo]) -> Foo:
    """
    A running `FooService` with the default configuration.
    """
    return start_foo()
