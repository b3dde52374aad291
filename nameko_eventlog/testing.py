"""
Capture event logs in a service's own tests, without a broker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu.serialization

from logging_ext.context import bind_sink, outside_context
from logging_ext.handlers import EventLogHandler
from nameko_eventlog.config import Config
from nameko_eventlog.delivery import OutboxEntry
from nameko_eventlog.delivery.outbox import Ledger
from nameko_eventlog.dispatching import dispatcher
from nameko_eventlog.dispatching.body import BodyEncoder
from nameko_eventlog.dispatching.serialization import Serializer
from nameko_eventlog.dispatching.sinks import DispatchingSink


class CapturedEventLogs(list[dict[str, Any]]):
    """
    The bodies of captured event logs, decoded as by a consumer, in the order of their dispatch.

    ``dispatch`` is a callable like the one that `nameko_eventlog.EventLogDispatcher` injects,
    for services made by ``worker_factory(Service, eventlog=event_logs.dispatch)``.
    """

    dispatch: dispatcher.Dispatch


class _Recorder:
    """
    A `Delivery` that decodes messages like a consumer, and records the bodies.
    """

    def __init__(self, bodies: CapturedEventLogs) -> None:
        self._bodies = bodies
        self._ledger = Ledger()

    def start(self) -> None:
        """
        Do nothing: there is nothing to connect to.
        """

    def accept(self, message: OutboxEntry) -> None:
        """
        Record *message*.
        """
        self._bodies.append(
            kombu.serialization.loads(
                message.body,
                message.content_type,
                message.content_encoding,
                accept={message.content_type},
            )
        )
        self._ledger.enter()
        self._ledger.confirmed.increment()

    deliver = accept

    def expect_stop(self, seconds: float) -> None:
        """
        Do nothing: nothing waits.
        """

    def stop(self, seconds: float) -> None:
        """
        Do nothing: nothing is left.
        """

    def stats(self) -> dict[str, int]:
        nothing = (
            *("refused", "not_forwarded", "oldest_seconds", "reconnects"),
            *("blocked_seconds", "unpersisted_count", "stalled_seconds"),
        )
        return {**self._ledger.stats(), **dict.fromkeys(nothing, 0)}


@contextmanager
def capture_event_logs(
    *loggers: str, level: int | str = logging.DEBUG
) -> Iterator[CapturedEventLogs]:
    """
    Capture event logs instead of sending them.

    Service containers that start inside the ``with`` block dispatch into the list, with their
    workers' context. So does code in the block that runs outside any worker, such as a service
    made by Nameko's ``worker_factory``, with null entrypoint fields.

    Args:
        *loggers: Names of loggers that get a `logging_ext.EventLogHandler` for the block, at
            *level*. Pass none if the test configures logging as the service does.
        level: The level of these loggers in the block.

    Yields:
        The list of bodies, with ``dispatch`` for dispatching by hand.

    .. versionadded:: 0.1.0
    """
    bodies = CapturedEventLogs()
    recorder = _Recorder(bodies)
    outside = DispatchingSink(
        BodyEncoder(Serializer("json"), (), Config().max_event_bytes, "seconds"),
        recorder,
        outside_context(),
        dict,
    )
    bodies.dispatch = dispatcher.Dispatch(outside, recorder)
    handler = EventLogHandler()
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in loggers]
    previous = dispatcher.open_delivery
    dispatcher.open_delivery = lambda settings, route, config: _Recorder(bodies)
    for logger, _ in before:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        with bind_sink(outside):
            yield bodies
    finally:
        dispatcher.open_delivery = previous
        for logger, old_level in before:
            logger.removeHandler(handler)
            logger.setLevel(old_level)


try:
    import pytest
except ImportError:  # the context manager works without pytest
    pass
else:

    @pytest.fixture
    def event_logs() -> Iterator[CapturedEventLogs]:
        """
        The event logs that the test's services dispatch: see `capture_event_logs`.
        """
        with capture_event_logs() as bodies:
            yield bodies
