"""
A fast path for the usual record: ``logger.info(event_type, extra={...})`` inside a worker.

It does in one function what `logging_ext.events` and `logging_ext.filters` do with any record,
and leaves other records to them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from itertools import islice
from math import isfinite
from typing import Any

from logging_ext.claims import GENERATION, claims
from logging_ext.event import CONTEXT_FIELDS, EventLog, SharedMetadata
from logging_ext.events import (
    DEFAULT_FIELDS,
    LAST_STANDARD_ATTRIBUTE,
    RECORD_ATTRIBUTES,
    SPECIAL_NAMES,
    level_text,
)
from logging_ext.forwarding import is_own, last_claim
from logging_ext.messages import renders_itself


_CONTEXT_NAMES = frozenset(CONTEXT_FIELDS)
_NOT_USUAL = SPECIAL_NAMES | RECORD_ATTRIBUTES | {"getMessage"}
_STANDARD = logging.LogRecord
_BEFORE_LAST = list(logging.LogRecord("", 0, "", 0, "", (), None).__dict__).index(
    LAST_STANDARD_ATTRIBUTE
)
_FLAT = frozenset({str, int, bool, type(None)})
_MOST_KNOWN = 1_000
_new_object = object.__new__


class UsualRecords:
    """
    Claim and read usual records, and attach the worker context.

    Args:
        fields: Which metadata to add.
    """

    __slots__ = ("_context", "_fields", "_is_default", "_known", "_learned")

    def __init__(self, fields: frozenset[str]) -> None:
        self._fields = fields
        self._is_default = fields <= frozenset(DEFAULT_FIELDS)
        self._context: Mapping[str, Any] | None = None  # the last one with the right keys
        self._known: dict[str, dict[str, SharedMetadata]] = {}
        self._learned = 0

    def take(self, record: logging.LogRecord, context: Mapping[str, Any]) -> EventLog | None:
        """
        Claim and read *record* if it is a usual one.

        Args:
            record: Any record.
            context: The worker context.

        Returns:
            Its event log; None if it is not usual, and then the record is unchanged.
        """
        event_type = record.msg
        number = record.relativeCreated
        latest = claims.latest
        if (
            type(event_type) is not str
            or not event_type
            or type(number) is not float
            or number in latest
            or number in claims.earlier
            or record.args
            or record.exc_info
            or record.exc_text
            or record.stack_info
            or last_claim()
            or (type(record) is not _STANDARD and renders_itself(record))
        ):
            return None
        attributes = record.__dict__
        behind = islice(attributes.items(), _BEFORE_LAST, None)
        try:
            metadata = self._known[record.name][record.levelname]
            if next(behind)[0] != LAST_STANDARD_ATTRIBUTE:  # not made by logging.LogRecord
                return None
        except (KeyError, StopIteration, TypeError):
            return self.take(record, context) if self._learn(record) else None
        extras = {}
        is_flat = True
        for name, value in behind:
            extras[name] = value
            kind = type(value)
            if (kind not in _FLAT and not (kind is float and isfinite(value))) or (
                type(name) is not str
            ):
                is_flat = False
        if not _NOT_USUAL.isdisjoint(extras):
            return None
        if context is not self._context:
            if context.keys() != _CONTEXT_NAMES:
                return None
            self._context = context
        latest[number] = number
        if len(latest) > GENERATION:
            claims.turn()
        attributes.update(context)
        event = _new_object(EventLog)  # calling the class takes twice as long
        event.event_type = event_type
        event.event_data = extras
        event.metadata = metadata
        event.timestamp = record.created
        event.is_flat = is_flat
        return event

    def _learn(self, record: logging.LogRecord) -> bool:
        """
        Make and store the metadata shared by usual records with the logger and level of *record*.

        Returns:
            False if these records are not usual.
        """
        level, name = record.levelname, record.name
        if not self._is_default or type(level) is not str or type(name) is not str:
            return False
        if is_own(name) or renders_itself(record) or len(record.__dict__) <= _BEFORE_LAST:
            return False
        if self._learned >= _MOST_KNOWN:  # names generated at run time
            self._learned = 0
            self._known.clear()
        self._learned += 1
        metadata = {"level": level_text(level), "logger": name}
        self._known.setdefault(name, {})[level] = SharedMetadata(
            {field: value for field, value in metadata.items() if field in self._fields}
        )
        return True
