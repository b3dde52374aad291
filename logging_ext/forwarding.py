"""
Decide which records and event dicts are forwarded, so that one log call makes one event log.

A record is claimed in the table of `logging_ext.claims`. structlog's event dict is remembered
until the record made from it arrives; then that record is claimed.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from types import FrameType
from typing import Any, NamedTuple

from logging_ext.claims import claims


_log = logging.getLogger("logging_ext")

OWN_LOGGERS = frozenset({"amqp", "kombu", "nameko_eventlog", "logging_ext"})
"""Top-level loggers that log about delivery itself. Their records are never forwarded."""

suspended: ContextVar[bool] = ContextVar("logging_ext_suspended", default=False)
"""True while an event log is being made or delivered. Log calls meanwhile are not forwarded.

Restore it with ``set()``, not with ``reset()``. If a finalizer's log call reads the variable while
``reset()`` removes its first value, CPython before 3.12 caches that value until the next context
switch, and nothing is forwarded until then (test_handlers.py, test_finalizer_at_the_end).
"""


def claim(record: logging.LogRecord) -> bool:
    """
    Claim *record* for forwarding.

    Returns:
        False if it, or the event dict that it was made from, was claimed before.
    """
    known = claims.get(record)
    if known.forwarded:
        return False
    claims.put(record, known._replace(forwarded=True))
    seen = _seen.get()
    return seen is None or not (_matches(seen, record) and seen.forwarded)


def claim_for_count(record: logging.LogRecord) -> bool:
    """
    Claim *record* to count it as not forwarded.

    Returns:
        False if it, or the event dict that it was made from, was counted or forwarded before.
    """
    known = claims.get(record)
    if known.forwarded or known.counted:
        return False
    claims.put(record, known._replace(counted=True))
    memory = _memory()
    seen = memory.get()
    if seen is None or not _matches(seen, record):
        return True
    if seen.forwarded:
        claims.put(record, known._replace(forwarded=True))
    return False


class _Seen(NamedTuple):
    """
    The event dict that a processor forwarded or counted last.

    The next processor of the chain gets the same object, unless a processor in between copies it.
    structlog may then make a record from it, with the same logger and level, that reaches a
    handler. The record's message is the dict, or what a renderer made of it.
    """

    forwarded: bool
    logger_name: str | None
    level: int
    event_dict: MutableMapping[str, Any]


_seen: ContextVar[_Seen | None] = ContextVar("logging_ext_seen", default=None)
_seen_suspended: ContextVar[_Seen | None] = ContextVar("logging_ext_seen_suspended", default=None)
"""The same for log calls made within another log call, whose own record may be still to come."""

last_claim = _seen.get
"""Return the event dict claimed last, if the next record may be made from it, or None."""


def _memory() -> ContextVar[_Seen | None]:
    return _seen_suspended if suspended.get() else _seen


def claim_event_dict(
    logger: Any,
    level: int,
    event_dict: MutableMapping[str, Any],
    given: MutableMapping[str, Any],
    *,
    forwarded: bool,
) -> bool:
    """
    Claim an event dict, and the record that may be made from it.

    Args:
        logger: The wrapped logger.
        level: The call's level, as a number.
        event_dict: What the processor returns.
        given: What the processor was called with; *event_dict* is a copy of it.
        forwarded: True to forward it, False to count it as not forwarded.

    Returns:
        False if it was claimed before.
    """
    memory = _memory()
    seen = memory.get()
    if seen is not None and given is seen.event_dict:
        memory.set(seen._replace(event_dict=event_dict, forwarded=seen.forwarded or forwarded))
        return forwarded and not seen.forwarded
    name = None
    if isinstance(logger, (logging.Logger, logging.LoggerAdapter)) and logger.isEnabledFor(level):
        name = logger.name
    memory.set(_Seen(forwarded, name, level, event_dict))
    return True


def _matches(seen: _Seen, record: logging.LogRecord) -> bool:
    """
    Tell whether *record* was made from the event dict *seen*. If so, forget the event dict.
    """
    if record.msg is not seen.event_dict and (
        (record.name, record.levelno) != (seen.logger_name, seen.level)
        or not called_by_structlog()
    ):
        return False
    _memory().set(None)
    return True


def called_by_structlog() -> bool:
    """
    Tell whether structlog's bound logger made the current log call.
    """
    frame: FrameType | None = sys._getframe(1)
    called = False  # skips the frames between here and the logger, ProcessorFormatter's maybe
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name == "logging":
            called = called or frame.f_code.co_name == "_log"
        elif called:
            return name.partition(".")[0] == "structlog"
        frame = frame.f_back
    return False


class Counter:
    """
    Count exactly from any thread, without a lock.

    ``next()`` on ``itertools.count`` is atomic in CPython. A lock that eventlet has patched may
    hang when an OS thread contends for it (eventlet#742).
    """

    __slots__ = ("increment", "ticks")

    increment: Callable[[], object]
    """Add one."""

    ticks: Iterator[int]
    """Each ``next()`` adds one."""

    def __init__(self) -> None:
        self.ticks = itertools.count()
        self.increment = self.ticks.__next__

    @property
    def value(self) -> int:
        """
        How often `increment` was called.
        """
        return int(repr(self.ticks)[6:-1])  # "count(5)": reads it without advancing it


not_forwarded = Counter()
"""Records that this process did not forward.

They are unattributed, or were logged within another log call, or an error kept them back.
"""

_warned: dict[str, object] = {}


def count_not_forwarded(logger_name: str, service: str | None) -> None:
    """
    Count an unattributed record, and log a warning the first time.
    """
    not_forwarded.increment()
    caller = object()
    if _warned.setdefault(service or "", caller) is not caller:  # atomic: threads may race
        return
    if service is None:
        _log.warning(
            "unattributed record of logger %r: it was logged outside any worker and was not"
            " forwarded as an event log; set the option service of the handler or processor to"
            " attribute it to a service (counted as not_forwarded, logged once)",
            logger_name,
        )
    else:
        _log.warning(
            "record of logger %r was not forwarded as an event log: this process runs no"
            " dispatcher for service %r (counted as not_forwarded, logged once)",
            logger_name,
            service,
        )


_own: dict[str, bool] = {}


def is_own(logger_name: str) -> bool:
    """
    Tell whether the logger is one of `OWN_LOGGERS` or below one.
    """
    own = _own.get(logger_name)
    if own is None:
        if len(_own) > 10_000:  # logger names generated at run time
            _own.clear()
        own = _own[logger_name] = str(logger_name).partition(".")[0] in OWN_LOGGERS
    return own


def is_nameko(logger_name: str) -> bool:
    """
    Tell whether the logger is Nameko's, whose records are forwarded from inside a worker only.
    """
    return str(logger_name).partition(".")[0] == "nameko"
