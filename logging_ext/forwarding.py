"""
Which records and event dicts may be forwarded, so that one log call makes one event log.

A record is claimed in the table of `logging_ext.claims`. An event dict is known until its record
has come, which is claimed then.
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
"""Top-level loggers whose records are about delivery itself: never forwarded."""

suspended: ContextVar[bool] = ContextVar("logging_ext_suspended", default=False)
"""True while an event log is being made or delivered: what is logged then stays here.

Set it back to what it was, by no ``reset()``: if the log call of a finalizer looks at it while
CPython (before 3.12) takes the first value away again, CPython goes on showing that value until
the next switch, and so long nothing is forwarded (test_handlers.py, test_finalizer_at_the_end).
"""


def claim(record: logging.LogRecord) -> bool:
    """
    Claim *record* for forwarding.

    Returns:
        False if it was claimed before, or if the event dict was that it comes of.
    """
    known = claims.get(record)
    if known.forwarded:
        return False
    claims.put(record, known._replace(forwarded=True))
    seen = _seen.get()
    return seen is None or not (_comes_of(seen, record) and seen.forwarded)


def claim_for_count(record: logging.LogRecord) -> bool:
    """
    Claim *record*, which is not forwarded, for being counted.

    Returns:
        False if it, or the event dict that it comes of, was counted or forwarded before.
    """
    known = claims.get(record)
    if known.forwarded or known.counted:
        return False
    claims.put(record, known._replace(counted=True))
    memory = _memory()
    seen = memory.get()
    if seen is None or not _comes_of(seen, record):
        return True
    if seen.forwarded:
        claims.put(record, known._replace(forwarded=True))
    return False


class _Seen(NamedTuple):
    """
    The event dict that a processor forwarded or counted last.

    The next processor of the chain gets that very dict, unless one between them copies it. A
    record may come of it, of the same logger and level, and reach a handler: its message is the
    dict, or else structlog's bound logger has made it, a renderer's string mostly.
    """

    forwarded: bool
    logger_name: str | None
    level: int
    event_dict: MutableMapping[str, Any]


_seen: ContextVar[_Seen | None] = ContextVar("logging_ext_seen", default=None)
_seen_suspended: ContextVar[_Seen | None] = ContextVar("logging_ext_seen_suspended", default=None)
"""The same of the log calls within another one, whose own record may be still to come."""

expects_record = _seen.get
"""Tell whether the next record may be of an event dict that was claimed before."""


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
    Claim an event dict, and the record that may come of it.

    Args:
        logger: The wrapped logger.
        level: The call's level, as a number.
        event_dict: What the processor returns.
        given: What *event_dict* is the processor's copy of.
        forwarded: Whether for forwarding, or for being counted as not forwarded.

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


def _comes_of(seen: _Seen, record: logging.LogRecord) -> bool:
    """
    Tell whether *record* comes of the event dict that was *seen* last, which is then settled.
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
    Tell whether the log call that runs now was made by structlog's bound logger.
    """
    frame: FrameType | None = sys._getframe(1)
    called = False  # what lies between us and the logger, ProcessorFormatter maybe, is skipped
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

    ``next()`` on ``itertools.count`` is one uninterruptible step in CPython; a lock that
    eventlet has patched may hang when an OS thread contends for it (eventlet#742).
    """

    __slots__ = ("increment", "ticks")

    increment: Callable[[], object]
    """Add one."""

    ticks: Iterator[int]
    """Each number that is taken from it adds one."""

    def __init__(self) -> None:
        self.ticks = itertools.count()
        self.increment = self.ticks.__next__

    @property
    def value(self) -> int:
        """
        How often `increment` was called.
        """
        return int(repr(self.ticks)[6:-1])  # "count(5)", the documented way to look at one


not_forwarded = Counter()
"""Unattributed records, and those that an error or another log call kept back, in this process."""

_said: dict[str, object] = {}


def count_not_forwarded(logger_name: str, service: str | None) -> None:
    """
    Count an unattributed record, and log that the first time.
    """
    not_forwarded.increment()
    caller = object()
    if _said.setdefault(service or "", caller) is not caller:  # one step: threads may race
        return
    if service is None:
        _log.warning(
            "a record of logger %r came from outside any worker and was not forwarded as an event"
            " log; set the option service of the handler or processor to say whose it is"
            " (counted as not_forwarded, logged once)",
            logger_name,
        )
    else:
        _log.warning(
            "a record of logger %r was not forwarded as an event log: no dispatcher of a service"
            " %r runs in this process (counted as not_forwarded, logged once)",
            logger_name,
            service,
        )


_own: dict[str, bool] = {}


def is_own(logger_name: str) -> bool:
    """
    Tell whether the logger belongs to delivery itself.
    """
    own = _own.get(logger_name)
    if own is None:
        if len(_own) > 10_000:  # logger names made up at run time
            _own.clear()
        own = _own[logger_name] = str(logger_name).partition(".")[0] in OWN_LOGGERS
    return own


def is_nameko(logger_name: str) -> bool:
    """
    Tell whether the logger is the framework's, forwarded from inside a worker only.
    """
    return str(logger_name).partition(".")[0] == "nameko"
