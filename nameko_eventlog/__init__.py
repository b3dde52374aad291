"""
Event logs for Nameko through the standard loggers.
"""

from nameko_eventlog.consuming.counts import consumer_stats
from nameko_eventlog.consuming.entrypoint import EventLogConsumer, event_log_handler
from nameko_eventlog.delivery import process_stats
from nameko_eventlog.dispatching.dispatcher import EventLogDispatcher
from nameko_eventlog.exceptions import (
    EventLogError,
    EventLogTypeError,
    EventLogValueError,
    NotConfirmed,
    OversizedEvent,
    Unavailable,
)


__all__ = [
    "EventLogConsumer",
    "EventLogDispatcher",
    "EventLogError",
    "EventLogTypeError",
    "EventLogValueError",
    "NotConfirmed",
    "OversizedEvent",
    "Unavailable",
    "consumer_stats",
    "event_log_handler",
    "process_stats",
]
