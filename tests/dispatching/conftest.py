"""
Fixtures: a running service on the broker within the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.dispatching.services import Foo, FooService, Listener


@pytest.fixture
def start_foo(
    run_service: Callable[..., Any], memory_config: dict[str, Any]
) -> Iterator[Callable[..., Foo]]:
    """
    Start a service: ``start_foo({"auto_capture": True})`` returns a `Foo`.
    """
    listeners = []

    def start(
        eventlog: dict[str, Any] | None = None,
        service: type = FooService,
        event_type: str = "log_event",
        **config: Any,
    ) -> Foo:
        whole = {**memory_config, "EVENTLOG_DISPATCHER": eventlog, **config}
        container = run_service(service, whole, start=False)
        listener = Listener(whole, service.name, event_type)
        listeners.append(listener)
        container.start()
        return Foo(container, listener)

    yield start

    for listener in listeners:
        listener.close()


@pytest.fixture
def foo(start_foo: Callable[..., Foo]) -> Foo:
    """
    A running `FooService` with the default configuration.
    """
    return start_foo()
