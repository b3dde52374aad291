"""
Reading an event log from a `logging.LogRecord` or a structlog event dict.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from itertools import islice
from time import time
from typing import Any

from structlog.processors import StackInfoRenderer

from logging_ext.claims import attached_names
from logging_ext.context import worker_context
from logging_ext.event import CONTEXT_FIELDS, EventLog
from logging_ext.forwarding import called_by_structlog
from logging_ext.messages import is_event_dict, message_of, pop_event
from logging_ext.messages import rendered_message as rendered_message
from logging_ext.rendering import as_dict, safe_repr
from logging_ext.tracebacks import exception_as_data, without_locals


DEFAULT_FIELDS = ("level", "logger", "message", "exception", "stack")
"""The metadata that handlers and processors add by default, if the record has it."""

_DEFAULT_FIELDS = frozenset(DEFAULT_FIELDS)
_BLANK = logging.LogRecord("", logging.INFO, "", 0, "", (), None)

RECORD_ATTRIBUTES = frozenset(_BLANK.__dict__) | {"message", "asctime"}
"""Attributes that every record has or that formatters add: never event data."""

_STANDARD_COUNT = len(_BLANK.__dict__)
LAST_STANDARD_ATTRIBUTE = list(_BLANK.__dict__)[-1]
"""The last key before the extras in a record's ``__dict__``."""

_CONTEXT_NAMES = frozenset(CONTEXT_FIELDS)
_STRUCTLOGS = frozenset(
    {"exc_info", "exception", "stack", "stack_info", "stacklevel", "timestamp"}
)
SPECIAL_NAMES = _CONTEXT_NAMES | _STRUCTLOGS | {"event_data", "metadata", "level", "logger"}
"""Names of extras that may not be event data."""

_render_stack = StackInfoRenderer(additional_ignores=["logging", "logging_ext"])

EMPTY = "(empty)"
"""The event type of an empty message."""

_NOW = 60.0
"""How many seconds a time may differ from the clock and still count as now."""


def check_fields(fields: Iterable[str] | None, allowed: frozenset[str]) -> frozenset[str]:
    """
    Return *fields* as a set.

    Args:
        fields: Names of metadata, or None for the default ones.
        allowed: The valid names.

    Raises:
        ValueError: A field is not in *allowed*.
        TypeError: *fields* is not a list of strings.
    """
    if fields is None:
        return frozenset(DEFAULT_FIELDS)
    if isinstance(fields, (str, bytes)) or not isinstance(fields, Iterable):
        raise TypeError(f"fields must be a list of names, not {fields!r}")
    names = list(fields)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"fields must be a list of names, but contains {name!r}")
        if name not in allowed:
            raise ValueError(
                f"fields: {name!r} is not a field; choose from {', '.join(sorted(allowed))}"
            )
    return frozenset(names)


def level_text(level_name: Any) -> str:
    """
    Return a level's name in the form that event logs use.
    """
    return str(level_name).lower()


def event_from_record(
    record: logging.LogRecord, context: Mapping[str, Any], fields: frozenset[str]
) -> EventLog:
    """
    Make an event log from *record*.

    Args:
        record: Any record. structlog's may have an event dict as ``msg``, or the values of one
            as extras. It is not changed.
        context: The sink's worker context; extras equal to it are not data.
        fields: Which metadata to add.
    """
    attributes = record.__dict__
    items: Iterator[tuple[str, Any]]
    items = islice(attributes.items(), _STANDARD_COUNT - 1, None)
    if next(items, ("",))[0] != LAST_STANDARD_ATTRIBUTE:  # not made by logging.LogRecord
        items = iter(attributes.items())
    extras = {name: value for name, value in items if name not in RECORD_ATTRIBUTES}

    message: Any = record.msg
    created: float | None = record.created
    from_structlog = type(message) is not str and is_event_dict(record)
    if from_structlog:
        del extras["_logger"], extras["_name"]
        extras.update(message)
        parts = pop_event(extras)
    else:
        parts = message_of(record)
        if "getMessage" in extras and callable(extras["getMessage"]):  # renders it; no data
            del extras["getMessage"]

    metadata: dict[str, Any] = {}
    level = level_text(record.levelname)
    if "level" in fields:
        metadata["level"] = level
    if "logger" in fields:
        metadata["logger"] = record.name
    has_arguments = bool(record.args) and not from_structlog
    if "message" in fields and (has_arguments or parts.text != parts.template):
        metadata["message"] = parts.text
    if (record.exc_info or record.exc_text) and "exception" in fields:
        exception = exception_as_data(record.exc_info) or record.exc_text
        if exception:
            metadata["exception"] = exception
    if record.stack_info and "stack" in fields:
        metadata["stack"] = record.stack_info
    if not fields <= _DEFAULT_FIELDS:
        for name in fields - _DEFAULT_FIELDS:
            metadata[name] = attributes.get(name)

    if not SPECIAL_NAMES.isdisjoint(extras):
        if not _STRUCTLOGS.isdisjoint(extras) and (from_structlog or called_by_structlog()):
            created = _take_structlogs(extras, metadata, fields, created)
        extras, metadata = _sort_out(
            extras, metadata, level, record.name, context, attached_names(record)
        )
    if parts.data:
        extras = {**parts.data, **extras}
    return EventLog(parts.template or EMPTY, extras, metadata, created)


def event_from_event_dict(
    logger_name: str | None,
    level: str,
    event_dict: Mapping[str, Any],
    context: Mapping[str, Any],
    fields: frozenset[str],
    record: logging.LogRecord | None = None,
) -> EventLog:
    """
    Make an event log from a structlog event dict.

    Args:
        logger_name: The name of the wrapped logger, if it has one.
        level: The level's name, in lower case.
        event_dict: structlog's event dict. It is not changed.
        context: The sink's worker context; values equal to it are not data.
        fields: Which metadata to add.
        record: The record that ``ProcessorFormatter`` is formatting, or None.
    """
    data = dict(event_dict)
    attached: frozenset[str] = frozenset()
    template = None
    timestamp = None
    own_data: Mapping[Any, Any] = {}
    if record is not None:
        attached = attached_names(record)
        timestamp = record.created
        del data["_record"]
        if not data.pop("_from_structlog", False):  # its event is the rendered message
            foreign = message_of(record)
            template = foreign.template
            if foreign.data is not None:
                data["event"] = foreign.text
                own_data = foreign.data
            data = {**record.__dict__, "exc_info": None, "stack_info": None, **data}
        # ExtraAdder also copies what other formatters added to the record
        own = RECORD_ATTRIBUTES - _STRUCTLOGS
        data = {k: v for k, v in data.items() if k not in own or v is not record.__dict__.get(k)}
    parts = pop_event(data, template)
    if logger_name is None and isinstance(data.get("logger"), str):
        logger_name = data["logger"]

    metadata: dict[str, Any] = {}
    if "level" in fields:
        metadata["level"] = level
    if "logger" in fields and logger_name is not None:
        metadata["logger"] = logger_name
    if parts.text != parts.template and "message" in fields:
        metadata["message"] = parts.text

    if not SPECIAL_NAMES.isdisjoint(data):
        timestamp = _take_structlogs(data, metadata, fields, timestamp)
        data, metadata = _sort_out(data, metadata, level, logger_name, context, attached)
    own_data = parts.data or own_data
    if own_data:
        data = {**own_data, **data}
    return EventLog(parts.template or EMPTY, data, metadata, timestamp)


def _take_structlogs(
    extras: dict[str, Any],
    metadata: dict[str, Any],
    fields: frozenset[str],
    timestamp: float | None,
) -> float | None:
    """
    Remove from *extras* what structlog and its processors put into an event dict.

    Exceptions and stacks become *metadata*, whether a processor (``format_exc_info``,
    ``dict_tracebacks``, ``StackInfoRenderer``) has rendered them yet or not.

    Returns:
        The event log's time: that of ``TimeStamper``, or else *timestamp*.
    """
    if type(extras.get("stacklevel")) is int:
        del extras["stacklevel"]
    exception = exception_as_data(extras.pop("exc_info", None))
    given = without_locals(extras.get("exception"))
    if given:
        del extras["exception"]
    if "exception" in fields and (exception or given):
        metadata.setdefault("exception", exception or given)

    stack = extras.pop("stack_info", None)
    if stack and not isinstance(stack, str):
        stack = _render_stack(None, "", {"stack_info": True})["stack"]
    given = extras.get("stack")
    if isinstance(given, str) and given.startswith("Stack (most recent call last)"):
        del extras["stack"]
        stack = given
    if "stack" in fields and stack:
        metadata.setdefault("stack", stack)

    if "timestamp" in extras:
        seconds = _as_seconds(extras["timestamp"])
        if seconds is not None:
            del extras["timestamp"]
            return seconds
    return timestamp


def _sort_out(
    extras: dict[str, Any],
    metadata: dict[str, Any],
    level: str,
    logger_name: str | None,
    context: Mapping[str, Any],
    attached: frozenset[str],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Sort the extras that have a special meaning into event data and metadata.

    Returns:
        Event data and metadata.
    """
    event_data: dict[str, Any] = {}
    here = worker_context()  # what add_worker_context adds; a service's sink has another
    for name in _CONTEXT_NAMES & extras.keys():
        value = extras[name]
        if name in attached or _same(value, context.get(name)) or _same(value, here[name]):
            del extras[name]
    if "level" in extras and _same(extras["level"], level):
        del extras["level"]
    if "logger" in extras and _same(extras["logger"], logger_name):
        del extras["logger"]
    if "event_data" in extras:
        given = extras.pop("event_data")
        mapping = as_dict(given)
        if mapping is not None:
            event_data.update(mapping)
        elif given is not None:
            event_data["event_data"] = safe_repr(given)
    if "metadata" in extras:
        given = extras.pop("metadata")
        mapping = as_dict(given)
        if mapping is not None:
            metadata = {**metadata, **mapping}
        elif given is not None:
            event_data["metadata"] = safe_repr(given)
    event_data.update(extras)
    return event_data, metadata


def _same(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except Exception:  # arrays raise, for example
        return False


def _as_seconds(value: Any) -> float | None:
    """
    Read a value that structlog's ``TimeStamper`` may make: a number, ISO 8601, a datetime.

    A time without an offset counts as local time, which ``TimeStamper(utc=False)`` makes. It
    counts as UTC, which ``TimeStamper("%Y-%m-%d %H:%M:%S")`` makes, if it is the current time in
    UTC and not in local time.
    """
    try:
        if isinstance(value, str):
            if ":" not in value:  # a date without a time
                return None
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        if isinstance(value, datetime):
            seconds = value.timestamp()
            if value.tzinfo is None:
                in_utc = value.replace(tzinfo=timezone.utc).timestamp()
                if abs(in_utc - time()) < _NOW < abs(seconds - time()):
                    seconds = in_utc
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            seconds = float(value)
        else:
            return None
        datetime.fromtimestamp(seconds, timezone.utc)  # neither too far away nor NaN
    except Exception:
        return None
    return seconds
