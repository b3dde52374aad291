"""
`EventLogDispatcher`: Nameko's hooks, and little else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from nameko.events import EventDispatcher
from nameko.rpc import Rpc
from nameko.web.handlers import HttpRequestHandler

from logging_ext import forwarding
from logging_ext.context import (
    EventSink,
    current_sink,
    outside_context,
    register_sink,
    set_sink,
)
from logging_ext.event import EventLog
from logging_ext.names import bounded_context
from nameko_eventlog import compat
from nameko_eventlog.amqp.route import ROUTING_KEY
from nameko_eventlog.config import parse_config
from nameko_eventlog.delivery import BrokerDelivery, Delivery, Route
from nameko_eventlog.dispatching.body import BodyEncoder
from nameko_eventlog.dispatching.capture import (
    Capture,
    call_arguments,
    entrypoint_types,
    outcome,
    warn_of_unknown_names,
)
from nameko_eventlog.dispatching.context_headers import ContextHeaders
from nameko_eventlog.dispatching.redaction import redacted_headers
from nameko_eventlog.dispatching.serialization import Serializer
from nameko_eventlog.dispatching.sinks import DispatchingSink
from nameko_eventlog.reporting import report


KILL_TIMEOUT = 1.0
"""Seconds for what is left when the container is killed."""

open_delivery: Callable[..., Delivery] = BrokerDelivery
"""Makes the delivery of each dispatcher at its setup; `nameko_eventlog.testing` replaces it."""


class Dispatch:
    """
    The injected callable: dispatch event logs by hand, in a worker's context.

    Args:
        sink: The worker's sink.
        delivery: Whose counts `stats` returns.
    """

    __slots__ = ("_delivery", "_sink")

    def __init__(self, sink: DispatchingSink, delivery: Delivery) -> None:
        self._sink = sink
        self._delivery = delivery

    def __call__(
        self,
        event_type: str,
        event_data: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Dispatch an event log, and return when the broker has confirmed it.

        Args:
            event_type: What happened; not empty.
            event_data: What there is to tell about it; becomes ``data``. Keys are strings,
                values what the service's serializer can encode.
            metadata: Extra top-level attributes of the body.

        Raises:
            TypeError: If an argument or a value in it is of the wrong type.
            ValueError: If a value cannot be dispatched: NaN, a cycle, too large.
            NotConfirmed: If the broker does not confirm in ``confirm_timeout``.

        .. versionadded:: 0.1.0
        """
        self._sink.deliver(event_type, event_data, metadata)

    def stats(self) -> dict[str, int]:
        """
        Return the counts of this service instance.

        ``accepted`` is always the sum of ``confirmed``, ``waiting`` and ``undelivered``;
        ``refused`` says how many of the waiting the broker has refused,
        ``republished`` counts what was sent again, ``not_forwarded`` the process's
        unattributed records, ``reconnects`` connections after the first. ``oldest_seconds`` is the
        age of what has waited longest, ``blocked_seconds`` for how long the broker's alarms
        have kept it waiting. ``unpersisted_count`` says how many a killed process would lose, and
        ``stalled_seconds`` for how long the disk under the spool has not answered.

        .. versionadded:: 0.1.0
        """
        return self._delivery.stats()


class _Worker:
    """
    What the hooks of one worker share.
    """

    __slots__ = ("has_result", "sink", "started")

    def __init__(self, sink: DispatchingSink) -> None:
        self.sink = sink
        self.has_result = False
        self.started = monotonic()

    def is_current(self) -> bool:
        """
        Tell whether the running code is this worker's, or a nested one's that never ended.
        """
        sink = current_sink()
        while sink is not None and sink is not self.sink:
            sink = getattr(sink, "outer", None)
        return sink is not None


class EventLogDispatcher(EventDispatcher):
    """
    Dispatch event logs: those of the standard loggers, of structlog, by hand, and captured.

    A service declares ``eventlog = EventLogDispatcher()``; what its workers log through
    `logging_ext.EventLogHandler` or `logging_ext.EventLogProcessor` is dispatched with the
    worker's context, and ``self.eventlog(event_type, event_data, metadata)`` dispatches by
    hand. ``EVENTLOG_DISPATCHER`` in ``config.yaml`` configures it.

    .. versionadded:: 0.1.0
    """

    ENTRYPOINT_FIRED = "entrypoint_fired"
    """Event type of a captured call that begins."""

    ENTRYPOINT_COMPLETED = "entrypoint_completed"
    """Event type of a captured call that returned."""

    ENTRYPOINT_FAILED = "entrypoint_failed"
    """Event type of a captured call that raised."""

    EVENT_TYPE = ROUTING_KEY
    """Type of the Nameko event under which all event logs travel."""

    ENTRYPOINT_TYPES_TO_LOG: tuple[type, ...] = (Rpc, HttpRequestHandler)
    """Entrypoint classes, derived ones among them, that auto capture captures."""

    _is_open = False

    def setup(self) -> None:
        """
        Read the configuration and open the outbox; connecting is the relay's business.

        Raises:
            ConfigurationError: If the configuration is wrong.
        """
        config = self._config = parse_config(compat.service_config(self.container))
        self.auto_capture = config.auto_capture
        self.entrypoints_to_exclude = list(config.entrypoints_to_exclude)
        self.event_type = config.event_type or self.EVENT_TYPE
        self._flush_timeout = config.flush_timeout
        self._capture = Capture(config, entrypoint_types(self.ENTRYPOINT_TYPES_TO_LOG))
        self._before = compat.declared_before(self, EventLogDispatcher)
        self._redact = frozenset(key.lower() for key in config.redact)
        settings = redacted_headers(compat.publisher_settings(self, config.uri), self._redact)
        self._encoder = BodyEncoder(
            Serializer(settings.serializer),
            config.redact,
            config.max_event_bytes,
            config.timespec,
        )
        self._service = self.container.service_name
        self.exchange = compat.event_exchange(self.container)
        route = Route(
            self._service,
            self.exchange,
            self.event_type,
            tuple(self.declare),
            config.fan_in_exchange,
        )
        self._workers: WeakKeyDictionary[Any, _Worker] = WeakKeyDictionary()
        self._delivery = open_delivery(settings, route, config)
        self.outside = self._make_sink(bounded_context(outside_context(self._service)), dict)
        self._unregister = _nothing if self._before else register_sink(self._service, self.outside)
        compat.before_end(
            self.container,
            lambda: self._delivery.expect_stop(config.flush_timeout),
            lambda: self._delivery.expect_stop(min(config.flush_timeout, KILL_TIMEOUT)),
        )
        self._is_open = True

    def start(self) -> None:
        """
        Start the relay.
        """
        if self.auto_capture and not self._before:
            warn_of_unknown_names(self._config, self._service, self.container.entrypoints)
        self._delivery.start()

    def stop(self) -> None:
        """
        Deliver what is left, for ``flush_timeout`` at the most.
        """
        self._stop(None)

    def kill(self) -> None:
        """
        Deliver what is left in a second, or less.
        """
        self._stop(KILL_TIMEOUT)

    def _stop(self, at_most: float | None) -> None:
        if not self._is_open:  # its setup failed
            return
        self._unregister()
        timeout = self._flush_timeout
        self._delivery.stop(timeout if at_most is None else min(timeout, at_most))

    def get_dependency(self, worker_ctx: Any) -> Dispatch:
        """
        Bind the worker's sink to the running code, and return the callable to inject.

        Nameko calls this for all dependency providers before any ``worker_setup``. A worker
        whose context cannot be read dispatches in the service's name alone. Of several
        dispatchers in one service, the first one declared has the worker's log lines.
        """
        try:
            sink = self._make_sink(
                bounded_context(compat.worker_context(worker_ctx)),
                ContextHeaders(worker_ctx, self._redact).make,
                current_sink(),
            )
        except Exception:
            report("the context of a worker of %s could not be read", self._service)
            sink = self._make_sink(self.outside.context, dict, current_sink())
        try:
            self._workers[worker_ctx] = _Worker(sink)
            if not self._before:
                set_sink(sink)
        except Exception:
            report("the context of a worker of %s could not be bound", self._service)
        return Dispatch(sink, self._delivery)

    def dispatch_outside(self) -> Dispatch:
        """
        Return the callable for code outside any worker.
        """
        return Dispatch(self.outside, self._delivery)

    def _make_sink(
        self,
        context: Mapping[str, Any],
        headers: Callable[[], Mapping[str, Any]],
        outer: EventSink | None = None,
    ) -> DispatchingSink:
        return DispatchingSink(self._encoder, self._delivery, context, headers, outer)

    def worker_setup(self, worker_ctx: Any) -> None:
        """
        Dispatch ``entrypoint_fired``, if that is captured.
        """
        self._capture_stage(worker_ctx, "fired", "ENTRYPOINT_FIRED", None)

    def worker_result(self, worker_ctx: Any, result: Any = None, exc_info: Any = None) -> None:
        """
        Dispatch ``entrypoint_completed`` or ``entrypoint_failed``, if that is captured.
        """
        if exc_info is None:
            self._capture_stage(worker_ctx, "completed", "ENTRYPOINT_COMPLETED", None)
        else:
            self._capture_stage(worker_ctx, "failed", "ENTRYPOINT_FAILED", exc_info)

    def worker_teardown(self, worker_ctx: Any) -> None:
        """
        Give the running code back the sink that it had before this worker.
        """
        try:
            worker = self._workers.pop(worker_ctx, None)
            if worker is not None and worker.is_current():
                set_sink(worker.sink.outer)
        except Exception:
            report("a worker of %s could not be torn down", self._service)

    def _exits(self, thread: Any, worker_ctx: Any) -> None:
        """
        Dispatch ``entrypoint_failed`` for a worker whose result Nameko tells nobody.

        That is one out of which came what is no ``Exception``: ``eventlet.Timeout``, a kill.
        """
        try:
            worker = self._workers.get(worker_ctx)
            if worker is None or worker.has_result:
                return
            exc = compat.thread_error(thread)
        except Exception:
            report("the end of a worker of %s could not be read", self._service)
            return
        if exc is not None:
            exc_info = (type(exc), exc, exc.__traceback__)
            self._capture_stage(worker_ctx, "failed", "ENTRYPOINT_FAILED", exc_info)

    def _capture_stage(self, worker_ctx: Any, stage: str, attribute: str, exc_info: Any) -> None:
        try:
            worker = self._workers.get(worker_ctx)
            if worker is not None and worker.is_current():
                set_sink(worker.sink)  # a nested worker that never ended has left its own
            if worker is None:
                return
            worker.has_result = stage != "fired"
            if stage == "fired" and self._captures("failed", worker_ctx.entrypoint):
                compat.before_exit(self.container, worker_ctx, self._exits)
            if not self._captures(stage, worker_ctx.entrypoint):
                return
            was_suspended = forwarding.suspended.get()
            try:
                forwarding.suspended.set(True)
                worker.sink.emit(
                    EventLog(
                        getattr(self, attribute),  # a property of a subclass, it may be
                        call_arguments(worker_ctx) if self._capture.arguments else None,
                        None
                        if stage == "fired"
                        else outcome(worker.started, worker_ctx.entrypoint, exc_info),
                    )
                )
            finally:
                forwarding.suspended.set(was_suspended)
        except Exception:
            report("%s of a worker of %s could not be captured", stage, self._service)

    def _captures(self, stage: str, entrypoint: Any) -> bool:
        """
        Tell whether a stage is this dispatcher's to capture: no other one before it does.
        """
        return self._capture.wants(stage, entrypoint) and not any(
            other._capture.wants(stage, entrypoint) for other in self._before
        )


def _nothing() -> None:
    pass
