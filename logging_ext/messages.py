"""
Read the message of a record or an event dict: its event type, its text, and its data.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from logging_ext.rendering import as_dict, render, safe_text


def _own_get_message() -> Any:
    method = logging.LogRecord.getMessage  # unless it was replaced before this import
    code = getattr(method, "__code__", None)
    is_own = getattr(code, "co_filename", "") == logging.LogRecord.__init__.__code__.co_filename
    return method if is_own else None


_GET_MESSAGE = _own_get_message()


class MessageParts(NamedTuple):
    """
    The parts of a log call's message.

    Args:
        template: The message before its arguments are inserted, which becomes the event type.
            It may be empty.
        text: The message with its arguments inserted.
        data: The event data, if the message is a mapping.
    """

    template: str
    text: str
    data: dict[Any, Any] | None


def is_event_dict(record: logging.LogRecord) -> bool:
    """
    Tell whether structlog's ``ProcessorFormatter.wrap_for_formatter`` made *record*.
    """
    return isinstance(record.msg, dict) and {"_logger", "_name"} <= record.__dict__.keys()


def renders_itself(record: logging.LogRecord) -> bool:
    """
    Tell whether *record* overrides ``getMessage``, as a record factory's class may.
    """
    return (
        getattr(type(record), "getMessage", None) is not _GET_MESSAGE
        or "getMessage" in record.__dict__
    )


def message_of(record: logging.LogRecord) -> MessageParts:
    """
    Read the message of *record*. If it overrides ``getMessage``, that method renders the text.
    """
    message: Any = record.msg
    if type(message) is str:
        template, data = message, None
    elif is_event_dict(record):
        return pop_event(dict(message))
    else:
        template, data = read_template(message)
    if not renders_itself(record):
        text = render(template, record.args) if record.args else template
        return MessageParts(template, text, data)
    try:
        rendering = record
        if data is not None:  # render the template alone, not the repr of the mapping
            rendering = copy.copy(record)
            rendering.msg = template
        text = safe_text(rendering.getMessage())
    except Exception:
        text = render(template, record.args) if record.args else template
    return MessageParts(template, text, data)


def rendered_message(record: logging.LogRecord) -> str:
    """
    Return the record's message with its arguments inserted, as far as they match.
    """
    return message_of(record).text


def read_template(message: Any) -> tuple[str, dict[Any, Any] | None]:
    """
    Read a message of any kind.

    A mapping is event data. Its ``message``, or else its ``event``, is the template.

    Returns:
        The template, which may be empty, and the event data or None.
    """
    data = as_dict(message)
    if data is None:
        return safe_text(message), None
    for name in ("message", "event"):
        value = data.get(name)
        if value is not None and not _is_container(value):
            text = safe_text(value)
            if text:
                del data[name]
                return text, data
    return "", data


def _is_container(value: Any) -> bool:
    try:
        return isinstance(value, (Mapping, list, tuple, set, frozenset))
    except Exception:  # ``__class__`` of a proxy may raise
        return False


def pop_event(event_dict: dict[str, Any], template: str | None = None) -> MessageParts:
    """
    Remove the event and its positional arguments from *event_dict*, and return them.

    Args:
        event_dict: An event dict.
        template: The template of an event that is already rendered, or None.
    """
    event = event_dict.pop("event", None)
    text, data = ("", None) if event is None else read_template(event)
    if template is None:
        template = text
    # structlog.stdlib.BoundLogger puts the arguments of ``log.info("user %s", name)`` there
    arguments = event_dict.pop("positional_args", None)
    if arguments:
        match arguments:
            case (Mapping() as only,) if only:  # as LogRecord does it
                arguments = only
        text = render(template, arguments)
    return MessageParts(template, text, data)
