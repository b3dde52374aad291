"""
The public types, for mypy alone: this file is never run.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from logging_ext import (
    EventLog,
    EventLogHandler,
    EventLogProcessor,
    EventSink,
    JsonFormatter,
    WorkerContextFilter,
    add_worker_context,
    bind_sink,
    current_sink,
    register_sink,
)
from nameko_eventlog import EventLogDispatcher, EventLogError, NotConfirmed
from nameko_eventlog.testing import CapturedEventLogs, capture_event_logs


class Sink:
    """
    What users write to get event logs elsewhere.
    """

    context: Mapping[str, Any] = {"service_name": "foo"}

    def emit(self, event: EventLog) -> None:
        """
        Take an event log.
        """
        event_type: str = event.event_type
        data: Mapping[str, Any] | None = event.event_data
        metadata: Mapping[str, Any] | None = event.metadata
        timestamp: float | None = event.timestamp
        logging.debug("%s %s %s %s", event_type, data, metadata, timestamp)


sink: EventSink = Sink()
current: EventSink | None = current_sink()
unregister: Callable[[], None] = register_sink("foo", sink)

with bind_sink(sink) as bound:
    same: EventSink | None = bound
with bind_sink(None):
    pass

event = EventLog("paid")
event = EventLog("paid", {"amount": 5}, {"team": "a"}, 0.0)

handlers: list[logging.Handler] = [
    EventLogHandler(),
    EventLogHandler(level="INFO", fields=["level"], service="foo"),
    EventLogHandler(logging.INFO, fields=()),
]
handlers[0].addFilter(WorkerContextFilter())
handlers[0].setFormatter(JsonFormatter())

processors: list[Callable[[Any, str, dict[str, Any]], Any]] = [
    add_worker_context,
    EventLogProcessor(),
    EventLogProcessor(fields=["level"], service="foo"),
]


class Dispatcher(EventLogDispatcher):
    """
    What users change by subclassing.
    """

    ENTRYPOINT_FIRED = "fired"
    EVENT_TYPE = "audit"
    ENTRYPOINT_TYPES_TO_LOG = ()


def pay(dispatch: Callable[..., None]) -> str | None:
    """
    Dispatch by hand.
    """
    try:
        dispatch("paid", {"amount": 5}, metadata={"team": "a"})
    except NotConfirmed as exc:
        sent: bool = exc.sent
        return exc.message_id if sent else None
    except EventLogError:
        pass
    return None


with capture_event_logs("foo", level=logging.INFO) as event_logs:
    captured: CapturedEventLogs = event_logs
    body: dict[str, Any] = captured[0]
    captured.dispatch("paid", {"amount": 5})
    stats: dict[str, int] = captured.dispatch.stats()
