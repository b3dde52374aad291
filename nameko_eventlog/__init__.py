"""
Event logs for Nameko through the standard loggers.
"""

from nameko_eventlog.delivery import process_stats
from nameko_eventlog.dispatcher import EventLogDispatcher
from nameko_eventlog.exceptions import (
    EventLogError,
    EventLogTypeError,
    EventLogValueError,
    NotConfirmed,
    OversizedEvent,
)


__all__ = [
    "EventLogDispatcher",
    "EventLogError",
    "EventLogTypeError",
    "EventLogValueError",
    "NotConfirmed",
    "OversizedEvent",
    "process_stats",
]
