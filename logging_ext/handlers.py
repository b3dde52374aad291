"""
`EventLogHandler`: from the standard library's log records to event logs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress

from logging_ext import forwarding
from logging_ext.claims import logged_elsewhere
from logging_ext.context import EventSink, bound, registered_sink
from logging_ext.events import (
    DEFAULT_FIELDS,
    RECORD_ATTRIBUTES,
    check_fields,
    event_from_record,
)
from logging_ext.filters import attach_context
from logging_ext.usual import UsualRecords


# looked up once, because every log call uses them
_current_sink = bound.get
_is_suspended = forwarding.suspended.get
_set_suspended = forwarding.suspended.set

_ALLOWED_FIELDS = frozenset(DEFAULT_FIELDS) | RECORD_ATTRIBUTES - {
    "args",
    "asctime",
    "exc_info",
    "exc_text",
    "msg",
    "stack_info",
}


class EventLogHandler(logging.Handler):
    """
    Attach the worker context to each record and forward it as an event log.

    ``dictConfig`` makes it with nothing but ``class: logging_ext.EventLogHandler``.

    Args:
        level: As for `logging.Handler`.
        fields: Which metadata to add. The default is ``level``, ``logger``, ``message``,
            ``exception`` and ``stack``; attributes of `logging.LogRecord`, such as
            ``funcName`` and ``lineno``, are allowed too. ``[]`` adds none.
        service: The service that records from outside any worker are attributed to. It needs a
            dispatcher in this process. By default these records are unattributed and not
            forwarded.

    Raises:
        ValueError: *fields* contains an unknown name.
        TypeError: *fields* is not a list of names, or *service* is not a string.

    .. versionadded:: 0.1.0
    """

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        fields: Iterable[str] | None = None,
        service: str | None = None,
    ) -> None:
        super().__init__(level)
        if service is not None and not isinstance(service, str):
            raise TypeError(f"service must be the name of a service, not {service!r}")
        self._fields = check_fields(fields, _ALLOWED_FIELDS)
        self._service = service
        self._take_usual = UsualRecords(self._fields).take

    def createLock(self) -> None:  # noqa: N802
        """
        Make no lock: sinks need none, and a patched lock can hang in OS threads (eventlet#742).
        """
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]
        """
        Forward *record* if the handler's filters let it pass.

        A filter that raises is reported like any error in a handler. The record is then not
        forwarded, because the filter might have rejected it.
        """
        passed: bool | logging.LogRecord = True
        if self.filters:
            if _is_suspended():  # logged by one of our filters
                self._keep_back(record)
                return False
            try:
                _set_suspended(True)
                passed = self.filter(record)
            except Exception:
                passed = False
                self.handleError(record)
            finally:
                _set_suspended(False)
            if isinstance(passed, logging.LogRecord):  # replaced by a filter (Python 3.12)
                record = passed
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """
        Forward *record* to the sink of the running code.

        It never raises an ``Exception``, and never waits for a confirm. The sink may yield to the
        relay, for two seconds at most, and writes to a file if there is a spool.
        """
        try:
            if _is_suspended():
                self._keep_back(record)
                return
            sink = _current_sink()
            if sink is not None:
                event = self._take_usual(record, sink.context)
                if event is not None:
                    try:
                        _set_suspended(True)  # inside `try`: a signal handler may raise after it
                        sink.emit(event)
                    finally:
                        _set_suspended(False)
                    return
            self._emit_any(record, sink)
        except Exception:
            self.handleError(record)

    def _emit_any(self, record: logging.LogRecord, sink: EventSink | None) -> None:
        if forwarding.is_own(record.name):
            return
        elsewhere = logged_elsewhere(record, None if sink is None else sink.context)
        if elsewhere is not None and elsewhere["service_name"]:
            sink = self._sink_of(elsewhere["service_name"], record)
        elif sink is None or elsewhere is not None:
            sink = self._sink_outside_workers(record)
            elsewhere = None
        if sink is None or not forwarding.claim(record):
            attach_context(record)
            return
        try:
            _set_suspended(True)
            event = event_from_record(record, sink.context, self._fields)
            if elsewhere is not None:
                event.metadata = {**elsewhere, **(event.metadata or {})}
            attach_context(record)
            sink.emit(event)
        finally:
            _set_suspended(False)

    def _keep_back(self, record: logging.LogRecord) -> None:
        """
        Count *record*, which another log call or the relay logged, as not forwarded.
        """
        try:
            if _current_sink() is None and forwarding.is_nameko(record.name):
                return
            if not forwarding.is_own(record.name) and forwarding.claim_for_count(record):
                forwarding.not_forwarded.increment()
        except Exception:
            self.handleError(record)

    def _sink_outside_workers(self, record: logging.LogRecord) -> EventSink | None:
        """
        Return the sink for *record*, or count it as unattributed.
        """
        if forwarding.is_nameko(record.name):
            return None
        return self._sink_of(self._service, record)

    def _sink_of(self, service: str | None, record: logging.LogRecord) -> EventSink | None:
        """
        Return the sink of *service*, or count *record* as not forwarded.
        """
        sink = registered_sink(service)
        if sink is None and forwarding.claim_for_count(record):
            forwarding.count_not_forwarded(record.name, service)
        return sink

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """
        Count an error, and report it as `logging.Handler` does; never raise.
        """
        forwarding.not_forwarded.increment()
        was_suspended = _is_suspended()
        try:
            _set_suspended(True)  # sys.stderr may write to a logger
            with suppress(Exception):
                super().handleError(record)
        finally:
            _set_suspended(was_suspended)
