"""
A filter of the standard library that attaches the worker context to every log record.
"""

from __future__ import annotations

import logging

from logging_ext.claims import note_attached
from logging_ext.context import worker_context
from logging_ext.event import CONTEXT_FIELDS


_ALL = frozenset(CONTEXT_FIELDS)


def attach_context(record: logging.LogRecord) -> None:
    """
    Attach the five context attributes to *record*, except those that the caller passed.
    """
    attributes = record.__dict__
    if attributes.keys().isdisjoint(_ALL):
        attributes.update(worker_context())
        note_attached(record, _ALL)
        return
    missing = _ALL.difference(attributes)
    if missing:
        context = worker_context()
        attributes.update((name, context[name]) for name in missing)
        note_attached(record, missing)


class WorkerContextFilter(logging.Filter):
    """
    Attach the worker context to every record, and let it pass.

    The attributes are ``service_name``, ``entrypoint_protocol``, ``entrypoint_name``,
    ``call_id`` and ``call_stack``. They are always set, outside a worker to None or [], so that
    a format string never fails. An ``extra`` of the same name that the caller passed stays.

    Args:
        name: As for `logging.Filter`.

    .. versionadded:: 0.1.0
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Attach the worker context to *record*.
        """
        if not super().filter(record):
            return False
        attach_context(record)
        return True
