"""
Services to dispatch from, and a queue that keeps what they dispatch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from kombu import Connection, Queue
from nameko.testing.services import dummy, entrypoint_hook
from nameko.testing.utils import get_extension

import logging_ext
from nameko_eventlog import EventLogDispatcher
from tests.nameko_version import event_exchange


logger = logging.getLogger("foo_service")


class FooService:
    """
    A service whose entrypoint runs what it is handed.
    """

    name = "foo"

    eventlog = EventLogDispatcher()

    @dummy
    def foo_method(self, function: Callable[[Any], Any]) -> Any:
        """
        Run *function* in a worker.
        """
        return function(self)

    @dummy
    def other_method(self, function: Callable[[Any], Any]) -> Any:
        """
        Run *function* in a worker, too.
        """
        return function(self)


class Listener:
    """
    A queue bound to a service's events.

    Args:
        config: The service's configuration.
        service: Its name.
        event_type: The Nameko event type.
    """

    def __init__(
        self, config: Mapping[str, Any], service: str = "foo", event_type: str = "log_event"
    ) -> None:
        self._connection = Connection(config["AMQP_URI"])
        exchange = event_exchange(service)
        self._queue = Queue(f"listener-{service}-{event_type}", exchange, event_type)(
            self._connection.channel()
        )
        self._queue.declare()

    def messages(self, count: int, timeout: float = 10.0) -> list[Any]:
        """
        Return the next *count* messages.

        Raises:
            AssertionError: There were not so many in *timeout* seconds.
        """
        messages: list[Any] = []
        deadline = time.monotonic() + timeout
        while len(messages) < count:
            message = self._queue.get(no_ack=True, accept=self._accept())
            if message is not None:
                messages.append(message)
            elif time.monotonic() > deadline:
                raise AssertionError(
                    f"{len(messages)} of {count} event logs: {[m.body for m in messages]}"
                )
            else:
                time.sleep(0.005)
        return messages

    def bodies(self, count: int, timeout: float = 10.0) -> list[Any]:
        """
        Return the bodies of the next *count* messages, decoded.
        """
        return [message.decode() for message in self.messages(count, timeout)]

    def rest(self) -> list[Any]:
        """
        Return the bodies of what is there by now.
        """
        bodies = []
        while (message := self._queue.get(no_ack=True, accept=self._accept())) is not None:
            bodies.append(message.decode())
        return bodies

    def close(self) -> None:
        """
        Close the connection.
        """
        self._connection.release()

    @staticmethod
    def _accept() -> list[str]:
        return [
            "application/json",
            "application/x-python-serialize",
            "application/x-yaml",
            "application/x-upper",
        ]


class Foo:
    """
    A running `FooService`, or one like it, and what it dispatches.
    """

    def __init__(self, container: Any, listener: Listener) -> None:
        self.container = container
        self.listener = listener
        self.bodies = listener.bodies
        self.messages = listener.messages

    @property
    def provider(self) -> Any:
        """
        The bound dependency provider.
        """
        return get_extension(self.container, EventLogDispatcher)

    def run(
        self,
        function: Callable[[Any], Any],
        *,
        method: str = "foo_method",
        context_data: dict[str, Any] | None = None,
    ) -> Any:
        """
        Run *function* in a worker; it is handed the service instance.
        """
        with entrypoint_hook(self.container, method, context_data=context_data) as hook:
            return hook(function)

    def stop(self) -> list[Any]:
        """
        Stop the service, which flushes, and return the bodies that were not read yet.
        """
        self.container.stop()
        return self.listener.rest()


def without_ids(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return *body* without what differs from call to call.
    """
    volatile = {"call_id", "call_stack", "timestamp"}
    return {name: value for name, value in body.items() if name not in volatile}


def log_through_handler() -> logging.Logger:
    """
    Return the service's logger, with an `EventLogHandler` on it.
    """
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if not any(isinstance(one, logging_ext.EventLogHandler) for one in logger.handlers):
        logger.addHandler(logging_ext.EventLogHandler())
    return logger


def log_through_structlog() -> Any:
    """
    Return a structlog logger whose chain has an `EventLogProcessor`, and prints nowhere.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            logging_ext.EventLogProcessor(),
            lambda logger, name, event_dict: "",
        ],
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    return structlog.get_logger()
