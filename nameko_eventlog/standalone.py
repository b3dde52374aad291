"""
Event logs from outside containers: scripts, cron jobs, shells.
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

    In the block, what the running code logs through `logging_ext.EventLogHandler` or
    `logging_ext.EventLogProcessor` is dispatched with null entrypoint fields. At its end what
    is left is delivered, for ``flush_timeout`` at the most.

    The relay is a green thread. Code that never yields to others (it is not monkey-patched, or
    computes) is relieved by it at the next manual call, or at the end.

    Args:
        config: As in ``config.yaml``; ``AMQP_URI`` and ``EVENTLOG_DISPATCHER`` count,
            ``LOGGING`` is left to ``dictConfig``.
        service_name: The service.
        dispatcher: One of a subclass, or with options of its own.

    Yields:
        The callable that a service gets injected: ``eventlog(event_type, event_data, metadata)``,
        with ``stats()``.

    Raises:
        ConfigurationError: If the configuration is wrong.

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
