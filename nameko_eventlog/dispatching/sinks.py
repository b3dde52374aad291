"""
The sink of a worker's event logs, and of a service's event logs from outside any worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time
from typing import Any

from logging_ext import forwarding
from logging_ext.context import EventSink
from logging_ext.event import EventLog
from nameko_eventlog.delivery import Delivery, OutboxEntry
from nameko_eventlog.dispatching.body import PLAIN_ENCODING, PLAIN_TYPE, Body, BodyEncoder, Head
from nameko_eventlog.dispatching.serialization import short_repr
from nameko_eventlog.reporting import report


class DispatchingSink:
    """
    Encode event logs with one context, and hand them over for delivery.

    Args:
        encoder: Builds the bodies.
        delivery: Takes the messages.
        context: The five attributes of the worker context.
        headers: Returns the headers of the next message; it must not raise.
        outer: The sink that was bound before this one.
    """

    __slots__ = (
        "_accept",
        "_delivery",
        "_encode_plain",
        "_encoder",
        "_head",
        "_headers",
        "context",
        "outer",
    )

    def __init__(
        self,
        encoder: BodyEncoder,
        delivery: Delivery,
        context: Mapping[str, Any],
        headers: Callable[[], Mapping[str, Any]],
        outer: EventSink | None = None,
    ) -> None:
        self._encoder = encoder
        self._encode_plain = encoder.encode_plain
        self._delivery = delivery
        self._accept = delivery.accept
        self._head: Head | None = None
        self._headers = headers
        self.context = context
        self.outer = outer

    def emit(self, event: EventLog) -> None:
        """
        Accept an event log for delivery. See `Delivery.accept` for what this may wait for.

        It never raises an ``Exception``.
        """
        try:
            head = self._head or self._begin()
            timestamp = event.timestamp
            if timestamp is None:
                timestamp = time()
            payload = self._encode_plain(head, event, timestamp)
            if payload is None:
                message = self._message(self._encoder.encode(head, event))
            else:
                message = OutboxEntry(
                    payload,
                    PLAIN_TYPE,
                    PLAIN_ENCODING,
                    self._headers(),
                    event.event_type,
                    timestamp,
                )
            self._accept(message)
        except Exception:
            report("could not accept an event log for delivery: %s", short_repr(event))

    def deliver(self, event_type: Any, event_data: Any, metadata: Any) -> None:
        """
        Dispatch an event log, and return when it is safe.

        Raises:
            EventLogTypeError: An argument, or a value in it, has the wrong type.
            EventLogValueError: A value cannot be dispatched.
            NotConfirmed: The broker did not confirm in time.
        """
        was_suspended = forwarding.suspended.get()
        try:
            forwarding.suspended.set(True)
            body = self._encoder.encode_manual(
                self._head or self._begin(), event_type, event_data, metadata
            )
            self._delivery.deliver(self._message(body))
        finally:
            forwarding.suspended.set(was_suspended)

    def _begin(self) -> Head:
        # made only when needed: most workers log nothing
        self._head = Head(self.context)
        return self._head

    def _message(self, body: Body) -> OutboxEntry:
        return OutboxEntry(
            body.payload,
            body.content_type,
            body.content_encoding,
            self._headers(),
            body.event_type,
            body.timestamp,
        )
