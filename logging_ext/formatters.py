"""
JSON log lines with the same fields as the bodies of event logs.
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
    Render a record as one line of JSON with the field names of an event log's body.

    A line has ``message`` (rendered), ``timestamp`` (UTC, ISO 8601), ``event_type`` (the
    template), ``level``, ``logger``, the five attributes of the worker context (always; None
    or [] outside a worker) and ``data`` with the extras. It has the caller's metadata,
    ``exception`` and ``stack`` if the record has them. `EventLogHandler` reads records in the
    same way.

    Args:
        args, kwargs: As for python-json-logger's ``JsonFormatter``.

    .. versionadded:: 0.1.0
    """

    def format(self, record: logging.LogRecord) -> str:
        """
        Render *record* without changing it.

        A message that does not match its arguments is rendered as far as possible.
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
        Collect the fields, including those that python-json-logger considers private.
        """
        super().add_fields(log_data, record, message_dict)
        for name, value in record.__dict__.items():
            if str(name).startswith("_"):
                log_data.setdefault(name, value)

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        """
        Return *log_data* as JSON. Values that cannot be encoded are replaced by their repr.
        """
        try:
            line = super().jsonify_log_record(log_data)
            if "NaN" not in line and "Infinity" not in line:  # not valid in JSON
                return line
        except Exception:  # noqa: S110 - the slow path below handles it
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
                # inside an enum or a dataclass, which the encoder converts
                return json.loads(line, parse_constant=_constant_as_text)["value"]
        except Exception:
            return safe_repr(value)
        return value


class _Line(logging.LogRecord):
    """
    A record for the formatter, whose message is already rendered.

    It is a plain `logging.LogRecord`, whatever the record factory makes.

    Args:
        attributes: Attributes to take over from another record.
    """

    def __init__(self, attributes: dict[str, Any]) -> None:
        super().__init__("", logging.NOTSET, "", 0, "", (), None)
        self.__dict__.update(attributes)

    def getMessage(self) -> str:  # noqa: N802
        """
        Return the rendered message.
        """
        return self.msg


def _written(seconds: float | None) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)  # type: ignore[arg-type]
    except Exception:  # the record was not made by logging.LogRecord
        moment = datetime.now(timezone.utc)
    return moment.isoformat()


def _constant_as_text(constant: str) -> str:
    return repr(float(constant))
