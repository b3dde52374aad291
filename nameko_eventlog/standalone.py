"""
Dispatch event logs outside of service containers: from scripts, cron jobs, shells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from logging_ext.context import bind_sink
from nameko_eventlog import compat
from nameko_eventlog.dispatching.dispatcher import Dispatch, EventLogDispatcher


@contextmanager
def event_log_dispatcher(
    config: Mapping[str, Any], service_name: str, dispatcher: EventLogDispatcher | None = None
) -> Iterator[Dispatch]:
    """
    Dispatch event logs in the name of a service, without running it.

    In the ``with`` block, records logged through `logging_ext.EventLogHandler` or
    `logging_ext.EventLogProcessor` are dispatched with null entrypoint fields. At its end the rest
    is delivered, within ``flush_timeout``.

    The relay is a green thread. If code never yields, because it is not monkey-patched or only
    computes, the relay publishes at the next manual call, or at the end of the block.

    Args:
        config: The configuration as in ``config.yaml``. ``AMQP_URI`` and ``EVENTLOG_DISPATCHER``
            are used; pass ``LOGGING`` to ``dictConfig`` yourself.
        service_name: The service.
        dispatcher: A dispatcher of a subclass, or with constructor options; None for a plain one.

    Yields:
        The callable that is injected into services: ``eventlog(event_type, event_data,
        metadata)``, with ``stats()``.

    Raises:
        ConfigurationError: The configuration is invalid.

    .. versionadded:: 0.1.0
    """
    provider = EventLogDispatcher() if dispatcher is None else dispatcher
    service = type("Standalone", (), {"name": service_name, "eventlog": provider})
    with compat.container(service, config) as container:
        container.start()
        (bound,) = container.dependencies
        try:
            with bind_sink(bound.outside):
                yield bound.dispatch_outside()
        finally:
            container.stop()
