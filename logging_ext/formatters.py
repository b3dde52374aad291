"""
JSON log lines that read like the event logs' bodies.
"""

from __future__ import annotations

import json
import logging
import math
from datetime import datetime, timezone
from typing import Any

from pythonjsonlogger.json import JsonFormatter as _JsonFormatter

from logging_ext.claims import attached_names
from logging_ext.context import worker_context
from logging_ext.events import (
    DEFAULT_FIELDS,
    RECORD_ATTRIBUTES,
    event_from_record,
)
from logging_ext.messages import rendered_message
from logging_ext.names import settle_context, short_event_type
from logging_ext.rendering import safe_repr, safe_text


_FIELDS = frozenset(DEFAULT_FIELDS) - {"message"}
_MAX_DEPTH = 100


class JsonFormatter(_JsonFormatter):
    """
    Render a record as one line of JSON with the names of an event log's body.

    A line has ``message`` (rendered), ``timestamp`` (UTC, ISO 8601), ``event_type`` (the
    template), ``level``, ``logger``, the five attributes of the worker context (always: None
    or [] outside a worker), ``data`` with the extras, metadata if the caller gave any, and
    ``exception`` and ``stack`` where there is one: the same reading of a record as
    `EventLogHandler` has.

    Args:
        args, kwargs: As for python-json-logger's ``JsonFormatter``.

    .. versionadded:: 0.1.0
    """

    def format(self, record: logging.LogRecord) -> str:
        """
        Render *record*, which is not changed.

        A message that does not fit its arguments is rendered as far as it goes.
        """
        context = worker_context()
        for name in attached_names(record) & record.__dict__.keys():
            context[name] = record.__dict__[name]
        event = event_from_record(record, context, _FIELDS)
        metadata, data = settle_context(event.metadata or {}, event.event_data or {})
        shown = _Line(
            {name: value for name, value in record.__dict__.items() if name in RECORD_ATTRIBUTES}
        )
        shown.msg = rendered_message(record)
        shown.args = shown.exc_info = shown.exc_text = shown.stack_info = None
        shown.__dict__.update(context)
        for name, value in metadata.items():
            if name not in RECORD_ATTRIBUTES:
                shown.__dict__[name] = value
        shown.__dict__.update(
            timestamp=_written(event.timestamp),
            event_type=short_event_type(event.event_type),
            data=data,
        )
        return super().format(shown)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """
        Collect the fields, those among them that python-json-logger takes for private ones.
        """
        super().add_fields(log_data, record, message_dict)
        for name, value in record.__dict__.items():
            if str(name).startswith("_"):
                log_data.setdefault(name, value)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """
        Return *log_data* as JSON, with the repr of what cannot be encoded in its place.
        """
        try:
            line = super().jsonify_log_record(log_data)
            if "NaN" not in line and "Infinity" not in line:  # which are not JSON
                return line
        except Exception:  # noqa: S110 - now the slow way
            pass
        return super().jsonify_log_record(self._encodable(log_data, ()))

    def _encodable(self, value: Any, inside: tuple[int, ...]) -> Any:
        try:
            if isinstance(value, (dict, list, tuple)):
                if id(value) in inside or len(inside) > _MAX_DEPTH:
                    return "..."
                inside = (*inside, id(value))
                if isinstance(value, dict):
                    return {safe_text(k): self._encodable(v, inside) for k, v in value.items()}
                return [self._encodable(element, inside) for element in value]
            if isinstance(value, float) and not math.isfinite(value):
                return repr(value)
            line = super().jsonify_log_record({"value": value})
            if not isinstance(value, str) and ("NaN" in line or "Infinity" in line):
                # in an enum or a dataclass, which the encoder takes apart
                return json.loads(line, parse_constant=_constant_as_text)["value"]
        except Exception:
            return safe_repr(value)
        return value


class _Line(logging.LogRecord):
    """
    The record that is shown: no record factory's, and its message is text already.

    Args:
        attributes: Some of another record's.
    """

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__("", logging.NOTSET, "", 0, "", (), None)
        self.__dict__.update(attributes)

    def getMessage(self) -> str:  # noqa: N802
        """
        Return the message.
        """
        return self.msg


def _written(seconds: float | None) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)  # type: ignore[arg-type]
    except Exception:  # a record of somebody's own making
        moment = datetime.now(timezone.utc)
    return moment.isoformat()


def _constant_as_text(constant: str) -> str:
    return repr(float(constant))
