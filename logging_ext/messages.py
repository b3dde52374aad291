"""
What a record or an event dict says: its event type, its text, and the data in its message.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from logging_ext.rendering import as_dict, render, safe_text


def _own_get_message() -> Any:
    method = logging.LogRecord.getMessage  # unless somebody has replaced it already
    code = getattr(method, "__code__", None)
    is_own = getattr(code, "co_filename", "") == logging.LogRecord.__init__.__code__.co_filename
    return method if is_own else None


_GET_MESSAGE = _own_get_message()


class Said(NamedTuple):
    """
    What a log call says.

    Args:
        template: The message without its arguments, what makes the event type; it may be
            empty.
        text: The message with its arguments.
        data: The event data in the message, if it is a mapping.
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
    Tell whether *record* has a ``getMessage`` of its own, as a record factory's may have.
    """
    return (
        getattr(type(record), "getMessage", None) is not _GET_MESSAGE
        or "getMessage" in record.__dict__
    )


def message_of(record: logging.LogRecord) -> Said:
    """
    Read the message of *record*, which is asked for its text if it renders that itself.
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
        return Said(template, text, data)
    try:
        asked = record
        if data is not None:  # whose own text would be the repr of all of it
            asked = copy.copy(record)
            asked.msg = template
        text = safe_text(asked.getMessage())
    except Exception:
        text = render(template, record.args) if record.args else template
    return Said(template, text, data)


def rendered_message(record: logging.LogRecord) -> str:
    """
    Return the record's message with its arguments in it, as far as they fit.
    """
    return message_of(record).text


def read_template(message: Any) -> tuple[str, dict[Any, Any] | None]:
    """
    Read a message of any kind.

    A mapping is event data; its ``message``, or else its ``event``, is the template.

    Returns:
        The template, which may be empty, and the event data, if there is any.
    """
    data = as_dict(message)
    if data is None:
        return safe_text(message), None
    for name in ("message", "event"):
        value = data.get(name)
        if value is not None and not _holds_others(value):
            text = safe_text(value)
            if text:
                del data[name]
                return text, data
    return "", data


def _holds_others(value: Any) -> bool:
    try:
        return isinstance(value, (Mapping, list, tuple, set, frozenset))
    except Exception:  # a proxy's class may be anything, an exception among them
        return False


def pop_event(event_dict: dict[str, Any], template: str | None = None) -> Said:
    """
    Take the event and its positional arguments out of *event_dict*.

    Args:
        event_dict: An event dict.
        template: What the event was rendered from, if it was.
    """
    event = event_dict.pop("event", None)
    text, data = ("", None) if event is None else read_template(event)
    if template is None:
        template = text
    # structlog.stdlib.BoundLogger puts the arguments of ``log.info("user %s", name)`` there
    arguments = event_dict.pop("positional_args", None)
    if arguments:
        match arguments:
            case (Mapping() as only,) if only:  # as LogRecord has it
                arguments = only
        text = render(template, arguments)
    return Said(template, text, data)
