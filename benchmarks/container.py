"""
A real Nameko container, with our dispatcher or with the library that it replaces.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import kombu
from eventlet.event import Event
from nameko.containers import ServiceContainer
from nameko.standalone.events import get_event_exchange
from nameko.testing.services import Entrypoint, dummy
from nameko.testing.utils import get_extension

from logging_ext import EventLogHandler


OURS = "ours"
OLD = "old"

SERVICE = "foo"
CALLER = {"call_id_stack": ["standalone_rpc_proxy.call.3f34a8c1-6d3c-4d6e-8a58-0c7c1f2b7d10"]}

EVENT_DATA = {"session_id": "8c1d2e3f", "user": 4711, "amount": 12.5}
METADATA = {"level": "info", "logger": SERVICE}
"""What `EventLogHandler` adds: the peer's bodies are as large as ours."""

logger = logging.getLogger(SERVICE)

InWorker = Callable[[Callable[[Any], Any]], Any]


def dispatcher(side: str) -> Any:
    """
    Make the dependency provider of one side.
    """
    if side == OURS:
        from nameko_eventlog import EventLogDispatcher

        return EventLogDispatcher()
    from nameko_eventlog_dispatcher import EventLogDispatcher as OldEventLogDispatcher

    return OldEventLogDispatcher()


@contextlib.contextmanager
def running(provider: Any, uri: str, section: dict[str, Any] | None = None) -> Iterator[InWorker]:
    """
    Run a service whose ``eventlog`` is *provider*.

    Args:
        provider: The dependency provider.
        uri: The broker.
        section: What ``EVENTLOG_DISPATCHER`` says.

    Yields:
        A function that calls its argument with the injected dispatch, in a new worker.
    """

    class Service:
        name = SERVICE
        eventlog = provider

        @dummy
        def work(self, function: Callable[[Any], Any]) -> Any:
            return function(self.eventlog)

    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(EventLogHandler())
    container = ServiceContainer(
        Service, {"AMQP_URI": uri, "max_workers": 50, "EVENTLOG_DISPATCHER": section or {}}
    )
    container.start()
    entrypoint = get_extension(container, Entrypoint, method_name="work")

    def in_worker(function: Callable[[Any], Any]) -> Any:
        # not Nameko's entrypoint_hook: of workers that run at once, it returns with
        # whichever ends first
        done = Event()

        def work(dispatch: Any) -> None:
            try:
                done.send(function(dispatch))
            except Exception as exc:
                done.send_exception(exc)

        container.spawn_worker(entrypoint, (work,), {}, context_data=CALLER)
        return done.wait()

    try:
        yield in_worker
    finally:
        container.stop()


CLASSIC = "classic"


def bind_queue(uri: str, kind: str = CLASSIC) -> None:
    """
    Declare a durable queue, and bind it to what the service's event logs are published to.
    """
    exchange = get_event_exchange(SERVICE, {})
    queue = kombu.Queue(
        "event-logs",
        exchange,
        "log_event",
        durable=True,
        queue_arguments={"x-queue-type": kind},
    )
    with kombu.Connection(uri) as connection:
        queue(connection.default_channel).declare()


def wait_until_confirmed(stats: Callable[[], dict[str, int]], count: int) -> None:
    """
    Wait until the broker has confirmed *count* event logs of the service instance.
    """
    while stats()["confirmed"] < count:
        eventlet.sleep(0.002)
