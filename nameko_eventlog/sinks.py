"""
Where a worker's event logs go, and those of a service from outside any worker.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from time import time
from typing import Any

from logging_ext import forwarding
from logging_ext.context import EventSink
from logging_ext.events import EventLog
from nameko_eventlog.body import Body, BodyEncoder, ContextPrefix
from nameko_eventlog.delivery import Delivery, Message
from nameko_eventlog.serialization import shortened


_log = logging.getLogger("nameko_eventlog")


def report(message: str, *args: object) -> None:
    """
    Log the exception that is being handled in one of our hooks, whatever the handlers do.
    """
    try:
        _log.exception(message, *args)
    except Exception:
        if logging.raiseExceptions and sys.stderr is not None:
            traceback.print_exc()


class DispatchingSink:
    """
    Encode event logs with one context, and hand them over for delivery.

    Args:
        encoder: Builds the bodies.
        delivery: Takes the messages.
        context: The five attributes of the worker context.
        headers: Returns the headers of the next message.
        outer: The sink that was bound before this one.
    """

    __slots__ = (
        "_delivery",
        "_encoder",
        "_headers",
        "_prefix",
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
        self._delivery = delivery
        self._prefix: ContextPrefix | None = None
        self._headers = headers
        self.context = context
        self.outer = outer

    def emit(self, event: EventLog) -> None:
        """
        Take an event log for delivery; never raise an ``Exception``, and never wait.
        """
        try:
            prefix = self._prefix
            if prefix is None:
                prefix = self._prefix = ContextPrefix(self.context)
            body = self._encoder.encode(prefix, event)
            self._delivery.accept(self._message(event.event_type, body))
        except Exception:
            report("an event log could not be taken for delivery: %s", shortened(event))

    def deliver(self, event_type: Any, event_data: Any, metadata: Any) -> None:
        """
        Dispatch by hand: return when the event log is safe.

        Raises:
            EventLogTypeError: If an argument is of the wrong type.
            EventLogValueError: If a value cannot be dispatched.
            NotConfirmed: If the broker does not confirm in time.
        """
        token = forwarding.suspended.set(True)
        try:
            body = self._encoder.encode_manual(self.context, event_type, event_data, metadata)
            self._delivery.deliver(self._message(str.__str__(event_type), body))
        finally:
            forwarding.suspended.reset(token)

    def _message(self, event_type: str, body: Body) -> Message:
        try:
            headers = self._headers()
        except Exception:
            report("the message headers of %s could not be made", shortened(self.context))
            headers = {}
        return Message(*body[:3], headers, event_type, body.timestamp, time())
