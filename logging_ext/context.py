"""
The sink of the running code, and the sinks by service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

from logging_ext.event import CONTEXT_FIELDS, EventLog


class EventSink(Protocol):
    """
    Where event logs go.

    Log calls call ``emit``. It must not raise an ``Exception``, and must not wait until the event
    log has arrived somewhere. That of ``nameko_eventlog`` may yield to the relay, for two seconds
    at most, and writes to a file if there is a spool.
    """

    @property
    def context(self) -> Mapping[str, Any]:
        """
        The worker context, which has a value for each of the five context attributes.
        """

    def emit(self, event: EventLog, /) -> None:
        """
        Take an event log for delivery.
        """


bound: ContextVar[EventSink | None] = ContextVar("logging_ext_sink", default=None)
"""The sink of the running code."""

_registered: dict[str, EventSink] = {}


def current_sink() -> EventSink | None:
    """
    Return the sink of the running code, or None outside any worker.
    """
    return bound.get()


def set_sink(sink: EventSink | None) -> None:
    """
    Bind *sink* without a ``with`` block, for hooks that come in pairs.
    """
    bound.set(sink)


@contextmanager
def bind_sink(sink: EventSink | None) -> Iterator[EventSink | None]:
    """
    Send the event logs of the code in the ``with`` block to *sink*.

    Args:
        sink: The sink, or None for none.

    .. versionadded:: 0.1.0
    """
    bound.set(bound.get())  # an explicit value for reset() to restore: see `forwarding.suspended`
    token = bound.set(sink)
    try:
        yield sink
    finally:
        bound.reset(token)


def register_sink(service: str, sink: EventSink) -> Callable[[], None]:
    """
    Make *sink* the target of handlers and processors whose option ``service`` is *service*.

    A later registration for the same service replaces the earlier one.

    Args:
        service: The service's name.
        sink: Its sink for records from outside any worker.

    Returns:
        A function that removes the registration, unless a later one has replaced it.

    .. versionadded:: 0.1.0
    """
    _registered[service] = sink

    def unregister() -> None:
        if _registered.get(service) is sink:
            del _registered[service]

    return unregister


def registered_sink(service: str | None) -> EventSink | None:
    """
    Return the sink registered for *service*, or None.
    """
    return None if service is None else _registered.get(service)


def outside_context(service_name: str | None = None) -> dict[str, Any]:
    """
    Return the five context attributes outside any worker.

    Args:
        service_name: The service that the context names, or None for none.
    """
    return dict.fromkeys(CONTEXT_FIELDS) | {"service_name": service_name, "call_stack": []}


def worker_context() -> dict[str, Any]:
    """
    Return the five context attributes of the running code.
    """
    sink = bound.get()
    if sink is None:
        return outside_context()
    return {name: sink.context.get(name) for name in CONTEXT_FIELDS}
