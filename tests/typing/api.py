"""
The public types, for mypy alone: this file is never run.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from typing_extensions import assert_type

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
from nameko_eventlog import (
    EventLogDispatcher,
    EventLogError,
    EventLogTypeError,
    EventLogValueError,
    NotConfirmed,
    OversizedEvent,
    consumer_stats,
    process_stats,
)
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


# An annotation takes Any, too; this does not.
assert_type(current_sink(), EventSink | None)
assert_type(register_sink("foo", sink), Callable[[], None])
assert_type(sink.context, Mapping[str, Any])
assert_type(event.event_type, str)
assert_type(event.event_data, Mapping[str, Any] | None)
assert_type(event.metadata, Mapping[str, Any] | None)
assert_type(event.timestamp, float | None)
assert_type(event.is_flat, bool)

record = logging.makeLogRecord({})
assert_type(WorkerContextFilter("foo").filter(record), bool)
assert_type(JsonFormatter(rename_fields={"level": "severity"}).format(record), str)

# What structlog asks of a processor.
chain: list[structlog.typing.Processor] = [add_worker_context, EventLogProcessor()]
structlog.configure(processors=[*chain, structlog.processors.JSONRenderer()])

# What is refused: strict mode complains of an ignored error that there is not.
EventLog()  # type: ignore[call-arg]
EventLogHandler(fields=5)  # type: ignore[arg-type]
EventLogHandler(service=5)  # type: ignore[arg-type]
EventLogProcessor(fields=[5])  # type: ignore[list-item]
EventLogProcessor("level", 5)  # type: ignore[arg-type]
bind_sink(object())  # type: ignore[arg-type]
register_sink("foo", None)  # type: ignore[arg-type]


class Shop:
    """
    A service; Nameko puts a callable in the dispatcher's place.
    """

    eventlog = EventLogDispatcher()

    def pay(self) -> None:
        """
        Dispatch by hand.
        """
        self.eventlog("paid", {"amount": 5}, metadata={"team": "a"})
        self.eventlog.stats()


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
        assert_type(exc.reason, str)
        assert_type(exc.sent, bool)
        assert_type(exc.message_id, str)
        return exc.message_id if exc.sent else None
    except EventLogError:
        pass
    return None


# Who knows only the standard parents catches them as well.
type_error: type[TypeError] = EventLogTypeError
value_errors: list[type[ValueError]] = [EventLogValueError, OversizedEvent]
errors: list[type[EventLogError]] = [EventLogTypeError, OversizedEvent, NotConfirmed]


with capture_event_logs("foo", level=logging.INFO) as event_logs:
    captured: CapturedEventLogs = event_logs
    body: dict[str, Any] = captured[0]
    captured.dispatch("paid", {"amount": 5})
    stats: dict[str, int] = captured.dispatch.stats()
    assert_type(event_logs, CapturedEventLogs)
    assert_type(event_logs[0], dict[str, Any])
    assert_type(event_logs.dispatch.stats(), dict[str, int])
    event_logs.dispatch(5)  # type: ignore[arg-type]
    event_logs.dispatch("paid", [5])  # type: ignore[arg-type]

# What Prometheus's collectors read.
assert_type(consumer_stats(), dict[str, dict[str, float]])
assert_type(process_stats(), dict[str, dict[str, int]])
