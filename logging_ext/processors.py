"""
`EventLogProcessor`: from structlog's event dicts to event logs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from logging_ext import forwarding
from logging_ext.claims import logged_elsewhere
from logging_ext.context import current_sink, registered_sink, worker_context
from logging_ext.events import DEFAULT_FIELDS, check_fields, event_from_event_dict


_LEVEL_OF_METHOD = {
    "warn": "warning",
    "exception": "error",
    "err": "error",
    "failure": "error",
    "fatal": "critical",
    "msg": "info",
    "log": "info",
}

_log = logging.getLogger("logging_ext")


def add_worker_context(
    logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """
    Return the event dict with the five attributes of the worker context added.

    They are always set, outside a worker to None or []. A value of the same name that the caller
    bound stays.

    .. versionadded:: 0.1.0
    """
    if not isinstance(event_dict, MutableMapping):  # after a renderer
        return event_dict
    context = worker_context()
    return {**event_dict, **{k: v for k, v in context.items() if k not in event_dict}}


class EventLogProcessor:
    """
    Forward each event dict as an event log, and pass it on with the worker context.

    Put it after the processors that filter or add values (levels, names, context variables) and
    before those that render (``PositionalArgumentsFormatter``, ``format_exc_info``,
    ``dict_tracebacks``, renderers).

    Args:
        fields: Which metadata to add. The default is ``level``, ``logger``, ``message``,
            ``exception`` and ``stack``. ``[]`` adds none.
        service: The service that events from outside any worker are attributed to. It needs a
            dispatcher in this process. By default these events are unattributed and not
            forwarded.

    Raises:
        ValueError: *fields* contains an unknown name.
        TypeError: *fields* is not a list of names, or *service* is not a string.

    .. versionadded:: 0.1.0
    """

    def __init__(self, fields: Iterable[str] | None = None, service: str | None = None) -> None:
        if service is not None and not isinstance(service, str):
            raise TypeError(f"service must be the name of a service, not {service!r}")
        self._fields = check_fields(fields, frozenset(DEFAULT_FIELDS))
        self._service = service

    def __call__(
        self, logger: Any, method_name: str, event_dict: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        """
        Forward *event_dict*, and return a copy with the worker context.

        It never raises an ``Exception``, and never waits for a confirm. The sink may yield to the
        relay, for two seconds at most, and writes to a file if there is a spool.
        """
        given = event_dict
        try:
            event_dict = add_worker_context(logger, method_name, given)
            self._forward(logger, method_name, event_dict, given)
        except Exception:
            forwarding.not_forwarded.increment()
            was_suspended = forwarding.suspended.get()
            try:
                # this logger may use the same processor chain
                forwarding.suspended.set(True)
                with suppress(Exception):
                    _log.exception("an event dict could not be forwarded as an event log")
            finally:
                forwarding.suspended.set(was_suspended)
        return event_dict

    def _forward(
        self,
        logger: Any,
        method_name: str,
        event_dict: MutableMapping[str, Any],
        given: MutableMapping[str, Any],
    ) -> None:
        record = event_dict.get("_record")  # structlog.stdlib.ProcessorFormatter
        if isinstance(record, logging.LogRecord):
            name: str | None = record.name
            level = str(record.levelname).lower()
        else:
            record = None
            name = getattr(logger, "name", None)
            name = name if isinstance(name, str) else None
            level = _level(method_name, event_dict)
        if name is not None and forwarding.is_own(name):
            return
        sink = current_sink()
        service = self._service
        elsewhere = None
        if record is not None:
            elsewhere = logged_elsewhere(record, None if sink is None else sink.context)
        if elsewhere is not None and elsewhere["service_name"]:
            service = elsewhere["service_name"]
            sink = registered_sink(service)
        elif sink is None or elsewhere is not None:
            if name is not None and forwarding.is_nameko(name):
                return
            sink = registered_sink(service)
            elsewhere = None
        is_kept_back = forwarding.suspended.get()
        forwards = sink is not None and not is_kept_back
        if record is not None:
            first = forwarding.claim(record) if forwards else forwarding.claim_for_count(record)
        else:
            number = _number(level)
            first = forwarding.claim_event_dict(
                logger, number, event_dict, given, forwarded=forwards
            )
        if not first:
            return
        if is_kept_back:
            forwarding.not_forwarded.increment()
            return
        if sink is None:
            forwarding.count_not_forwarded(name or "structlog", service)
            return
        if level != method_name and _is_text(event_dict.get("level"), method_name):
            event_dict = {**event_dict, "level": level}  # add_log_level repeats the method's name
        if method_name == "exception" and event_dict.keys().isdisjoint({"exc_info", "exception"}):
            event_dict = {**event_dict, "exc_info": True}  # like structlog's set_exc_info
        try:
            forwarding.suspended.set(True)
            event = event_from_event_dict(
                name, level, event_dict, sink.context, self._fields, record
            )
            if elsewhere is not None:
                event.metadata = {**elsewhere, **(event.metadata or {})}
            sink.emit(event)
        finally:
            forwarding.suspended.set(False)


def _level(method_name: str, event_dict: MutableMapping[str, Any]) -> str:
    level = event_dict.get("level")  # the only place that has the level of log(level, ...)
    if method_name in ("log", "msg") and isinstance(level, str) and level != method_name:
        return level.lower()
    return _LEVEL_OF_METHOD.get(method_name, method_name)


def _is_text(value: Any, text: str) -> bool:
    return isinstance(value, str) and value == text


def _number(level: str) -> int:
    number = logging.getLevelName(level.upper())
    return number if isinstance(number, int) else logging.INFO
