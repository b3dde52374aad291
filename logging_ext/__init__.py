"""
The framework-neutral half: turn log calls into event logs and hand them to sinks.
"""

from logging_ext.context import (
    EventSink,
    bind_sink,
    current_sink,
    register_sink,
)
from logging_ext.event import EventLog
from logging_ext.filters import WorkerContextFilter
from logging_ext.formatters import JsonFormatter
from logging_ext.handlers import EventLogHandler
from logging_ext.processors import EventLogProcessor, add_worker_context


__all__ = [
    "EventLog",
    "EventLogHandler",
    "EventLogProcessor",
    "EventSink",
    "JsonFormatter",
    "WorkerContextFilter",
    "add_worker_context",
    "bind_sink",
    "current_sink",
    "register_sink",
]
