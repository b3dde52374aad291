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
    warn_about_unknown_names,
)
from nameko_eventlog.dispatching.context_headers import ContextHeaders
from nameko_eventlog.dispatching.redaction import redacted_headers
from nameko_eventlog.dispatching.serialization import Serializer
from nameko_eventlog.dispatching.sinks import DispatchingSink
from nameko_eventlog.reporting import report


KILL_TIMEOUT = 1.0
"""Seconds for delivering the rest when the container is killed."""

open_delivery: Callable[..., Delivery] = BrokerDelivery
"""Makes each dispatcher's delivery in its setup; `nameko_eventlog.testing` replaces it."""


class Dispatch:
    """
    The injected callable: dispatches event logs in a worker's context.

    `nameko_eventlog.EventLogDispatcher` makes it; a service never does.
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
        Dispatch an event log, and return when it is safe.

        It is safe when the broker has confirmed it or, with a spool, when it is written to disk.

        Args:
            event_type: What happened; not empty.
            event_data: Details; becomes ``data``. Keys are strings; values are anything that the
                service's serializer can encode.
            metadata: Extra top-level attributes of the body.

        Raises:
            TypeError: An argument, or a value in it, has the wrong type.
            ValueError: A value cannot be dispatched: NaN, a cycle, too large.
            NotConfirmed: The broker did not confirm within ``confirm_timeout``.

        .. versionadded:: 0.1.0
        """
        self._sink.deliver(event_type, event_data, metadata)

    def stats(self) -> dict[str, int]:
        """
        Return the counts of this service instance.

        ``accepted`` is always the sum of ``confirmed``, ``waiting`` and ``undelivered``.
        ``refused`` is how many of the waiting event logs the broker has refused, ``republished``
        how many were sent again, ``not_forwarded`` how many records the process did not forward,
        ``reconnects`` the number of connections after the first. ``oldest_seconds`` is the age of
        the event log that has waited longest, ``blocked_seconds`` how long alarms have blocked
        publishing. ``unpersisted_count`` is how many event logs a killed process would lose, and
        ``stalled_seconds`` how long the spool's disk has not responded.

        .. versionadded:: 0.1.0
        """
        return self._delivery.stats()


class _Worker:
    """
    The state that the hooks of one worker share.
    """

    __slots__ = ("duration", "sink", "started")

    def __init__(self, sink: DispatchingSink) -> None:
        self.sink = sink
        self.started = monotonic()
        self.duration: float | None = None  # until the call has ended

    def is_current(self) -> bool:
        """
        Tell whether the running code is this worker's, or that of a nested worker that was killed.
        """
        sink = current_sink()
        while sink is not None and sink is not self.sink:
            sink = getattr(sink, "outer", None)
        return sink is not None


class EventLogDispatcher(EventDispatcher):
    """
    Dispatch event logs from the standard loggers, from structlog, by hand, and by auto capture.

    A service declares ``eventlog = EventLogDispatcher()``. Records that its workers log through
    `logging_ext.EventLogHandler` or `logging_ext.EventLogProcessor` are dispatched with the
    worker's context, and ``self.eventlog(event_type, event_data, metadata)`` dispatches by hand.
    ``EVENTLOG_DISPATCHER`` in ``config.yaml`` configures it.

    .. versionadded:: 0.1.0
    """

    ENTRYPOINT_FIRED = "entrypoint_fired"
    """Event type of a captured call that begins."""

    ENTRYPOINT_COMPLETED = "entrypoint_completed"
    """Event type of a captured call that returned."""

    ENTRYPOINT_FAILED = "entrypoint_failed"
    """Event type of a captured call that raised."""

    EVENT_TYPE = ROUTING_KEY
    """Type of the Nameko event that carries every event log."""

    ENTRYPOINT_TYPES_TO_LOG: tuple[type, ...] = (Rpc, HttpRequestHandler)
    """Entrypoint classes, including subclasses, that auto capture captures."""

    _is_open = False

    def setup(self) -> None:
        """
        Read the configuration and open the outbox. The relay connects later.

        Raises:
            ConfigurationError: The configuration is invalid.
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
            warn_about_unknown_names(self._config, self._service, self.container.entrypoints)
        self._delivery.start()

    def stop(self) -> None:
        """
        Deliver the rest, within ``flush_timeout``.
        """
        self._stop(None)

    def kill(self) -> None:
        """
        Deliver the rest within a second, or within ``flush_timeout`` if that is shorter.
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

        Nameko calls this for all dependency providers before any ``worker_setup``. If a worker's
        context cannot be read, its event logs name only the service. If a service has several
        dispatchers, the first that is declared gets the worker's log lines.
        """
        try:
            sink = self._make_sink(
                bounded_context(compat.worker_context(worker_ctx)),
                ContextHeaders(worker_ctx, self._redact).make,
                current_sink(),
            )
        except Exception:
            report("could not read the context of a worker of %s", self._service)
            sink = self._make_sink(self.outside.context, dict, current_sink())
        try:
            self._workers[worker_ctx] = _Worker(sink)
            if not self._before:
                set_sink(sink)
        except Exception:
            report("could not bind the context of a worker of %s", self._service)
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
        Dispatch ``entrypoint_fired``, if this stage is captured.
        """
        self._capture_stage(worker_ctx, "fired", "ENTRYPOINT_FIRED", None)

    def worker_result(self, worker_ctx: Any, result: Any = None, exc_info: Any = None) -> None:
        """
        Dispatch ``entrypoint_completed`` or ``entrypoint_failed``, if this stage is captured.
        """
        self._capture_end(worker_ctx, exc_info)

    def worker_teardown(self, worker_ctx: Any) -> None:
        """
        Bind the sink that was bound before this worker.
        """
        try:
            worker = self._workers.pop(worker_ctx, None)
            if worker is not None and worker.is_current():
                set_sink(worker.sink.outer)
        except Exception:
            report("could not tear down a worker of %s", self._service)

    def _worker_exited(self, thread: Any, worker_ctx: Any) -> None:
        """
        Dispatch ``entrypoint_failed`` for a worker without a call of ``worker_result``.

        Nameko does not make that call for a `BaseException` that is not an ``Exception``:
        ``eventlet.Timeout``, a kill.
        """
        try:
            worker = self._workers.get(worker_ctx)
            if worker is None or worker.duration is not None:
                return
            exc = compat.thread_error(thread)
        except Exception:
            report("could not read how a worker of %s ended", self._service)
            return
        if exc is not None:
            self._capture_end(worker_ctx, (type(exc), exc, exc.__traceback__))

    def _capture_end(self, worker_ctx: Any, exc_info: Any) -> None:
        if exc_info is None:
            self._capture_stage(worker_ctx, "completed", "ENTRYPOINT_COMPLETED", None)
        else:
            self._capture_stage(worker_ctx, "failed", "ENTRYPOINT_FAILED", exc_info)

    def _capture_stage(self, worker_ctx: Any, stage: str, attribute: str, exc_info: Any) -> None:
        try:
            worker = self._workers.get(worker_ctx)
            if worker is not None and worker.is_current():
                set_sink(worker.sink)  # a nested worker that was killed left its own
            if worker is None:
                return
            if stage != "fired":
                if worker.duration is None:  # stages of one moment share it
                    worker.duration = monotonic() - worker.started
            elif self._captures("failed", worker_ctx.entrypoint):
                compat.before_exit(self.container, worker_ctx, self._worker_exited)
            if not self._captures(stage, worker_ctx.entrypoint):
                return
            was_suspended = forwarding.suspended.get()
            try:
                forwarding.suspended.set(True)
                worker.sink.emit(
                    EventLog(
                        getattr(self, attribute),  # a subclass may have a property
                        call_arguments(worker_ctx) if self._capture.arguments else None,
                        None
                        if worker.duration is None
                        else outcome(worker.duration, worker_ctx.entrypoint, exc_info),
                    )
                )
            finally:
                forwarding.suspended.set(was_suspended)
        except Exception:
            report("could not capture stage %s of a worker of %s", stage, self._service)

    def _captures(self, stage: str, entrypoint: Any) -> bool:
        """
        Tell whether this dispatcher captures a stage, and none that is declared before it does.
        """
        return self._capture.wants(stage, entrypoint) and not any(
            other._capture.wants(stage, entrypoint) for other in self._before
        )


def _nothing() -> None:
    pass
