"""
Which records and event dicts may be forwarded, and which have been.

One log call can pass several handlers and processors; it makes one event log. The
bookkeeping must survive ``copy.copy(record)`` (``QueueHandler`` does that) and must not
show in what formatters print, most of which dump ``record.__dict__``. So a record's mark is
the *type* of a standard attribute's value: ``record.module`` becomes an equal string of the
type `Mark`.
"""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterator, MutableMapping
from contextvars import ContextVar
from types import FrameType
from typing import Any, NamedTuple

from logging_ext.context import CONTEXT_FIELDS


_log = logging.getLogger("logging_ext")

OWN_LOGGERS = frozenset({"amqp", "kombu", "nameko_eventlog", "logging_ext"})
"""Top-level loggers whose records are about delivery itself: never forwarded."""

_NO_NAMES: frozenset[str] = frozenset()

suspended: ContextVar[bool] = ContextVar("logging_ext_suspended", default=False)
"""True while an event log is being made or delivered: what is logged then stays here.

Set it back to what it was, by no ``reset()``: if the log call of a finalizer looks at it while
CPython (before 3.12) takes the first value away again, CPython goes on showing that value until
the next switch, and so long nothing is forwarded (test_handlers.py, test_finalizer_at_the_end).
"""


class Mark(str):
    """
    A record's module name that also says what happened to the record.
    """

    __slots__ = ("attached", "counted", "forwarded")

    attached: frozenset[str]
    counted: bool
    forwarded: bool

    def __deepcopy__(self, memo: Any) -> Mark:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        # a record that is pickled for another process is a plain record
        return str, (str.__str__(self),)


_marks: dict[tuple[str, frozenset[str], bool, bool], Mark] = {}


def _mark(module: str, attached: frozenset[str], counted: bool, forwarded: bool) -> Mark:
    key = (module if type(module) is str else str(module), attached, counted, forwarded)
    mark = _marks.get(key)
    if mark is None:
        if len(_marks) > 10_000:  # module names made up at run time
            _marks.clear()
        mark = Mark(module)
        mark.attached = attached
        mark.counted = counted
        mark.forwarded = forwarded
        _marks[key] = mark
    return mark


def mark_of_usual(module: str) -> Mark:
    """
    Return the mark of records of *module* with all of the context, claimed for forwarding.
    """
    return _mark(module, frozenset(CONTEXT_FIELDS), False, True)


def attached_names(record: logging.LogRecord) -> frozenset[str]:
    """
    Return the names of the context attributes that we put onto *record*.
    """
    module = record.module
    return module.attached if type(module) is Mark else _NO_NAMES


def mark_attached(record: logging.LogRecord, names: frozenset[str]) -> None:
    """
    Remember that the attributes *names* of *record* are context, not the caller's data.
    """
    module = record.module
    if type(module) is Mark:
        names |= module.attached
        record.module = _mark(module, names, module.counted, module.forwarded)
    else:
        record.module = _mark(module, names, False, False)


def claim(record: logging.LogRecord) -> bool:
    """
    Claim *record* for forwarding.

    Returns:
        False if it was claimed before, or if the event dict was that it comes of.
    """
    module = record.module
    if type(module) is Mark:
        if module.forwarded:
            return False
        record.module = _mark(module, module.attached, module.counted, True)
    else:
        record.module = _mark(module, _NO_NAMES, False, True)
    seen = _seen.get()
    return seen is None or not (_is_of(seen, record) and seen.forwarded)


def claim_for_count(record: logging.LogRecord) -> bool:
    """
    Claim *record*, which is not forwarded, for being counted.

    Returns:
        False if it, or the event dict that it comes of, was counted or forwarded before.
    """
    module = record.module
    if type(module) is Mark:
        if module.forwarded or module.counted:
            return False
        record.module = _mark(module, module.attached, True, False)
    else:
        record.module = _mark(module, _NO_NAMES, True, False)
    seen = _memory().get()
    return seen is None or not _is_of(seen, record)


class _Seen(NamedTuple):
    """
    What a processor forwarded or counted last, whose record may still reach a handler.

    A structlog call's record has nothing of the event dict any more if a renderer made it a
    plain string. It is known by its logger, its level and its caller until it came, by
    its time of creation from then on. A record of which ``ProcessorFormatter`` shows its
    processors a copy is known by its time of creation.

    The next processor of the chain knows the event dict by its event, or, where that has no
    identity of its own, by the event dict itself.
    """

    forwarded: bool
    logger_name: str | None
    level: int
    event: str | None = None
    created: float | None = None
    event_dict: MutableMapping[str, Any] | None = None


_seen: ContextVar[_Seen | None] = ContextVar("logging_ext_seen", default=None)
_seen_suspended: ContextVar[_Seen | None] = ContextVar("logging_ext_seen_suspended", default=None)
"""The same of the log calls within another one, whose own record may be still to come."""

expects_record = _seen.get
"""Tell whether the next record may be of an event dict or of a record that was claimed before."""


def _memory() -> ContextVar[_Seen | None]:
    return _seen_suspended if suspended.get() else _seen


def remember_record(record: logging.LogRecord, *, forwarded: bool) -> None:
    """
    Remember what became of *record*, a copy, for the original's next handler.
    """
    _memory().set(_Seen(forwarded, record.name, record.levelno, None, record.created))


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
        event_dict: Whose event is exchanged for an equal string, by whose identity it is
            known again. (A type of our own would show: msgspec and YAML refuse it.)
        given: What *event_dict* is the processor's copy of.
        forwarded: Whether for forwarding, or for being counted as not forwarded.

    Returns:
        False if it was claimed before.
    """
    event = event_dict.get("event")
    memory = _memory()
    seen = memory.get()
    if seen is not None and (
        given is seen.event_dict if seen.event is None else event is seen.event
    ):
        if seen.forwarded or not forwarded:
            if seen.event is None:
                memory.set(seen._replace(event_dict=event_dict))
            return False
        event = seen.event
    elif isinstance(event, str) and len(event) > 1:  # CPython shares the shorter ones
        event = event_dict["event"] = (event + " ")[:-1]
    else:
        event = None
    name = None
    if isinstance(logger, (logging.Logger, logging.LoggerAdapter)) and logger.isEnabledFor(level):
        name = logger.name
    known = event_dict if event is None else None
    memory.set(_Seen(forwarded, name, level, event, event_dict=known))
    return True


def _is_of(seen: _Seen, record: logging.LogRecord) -> bool:
    if seen.created is not None:
        return seen.created == record.created and seen.logger_name == record.name
    message: Any = record.msg
    if isinstance(message, dict):
        message = message.get("event")
    if seen.event is None or message is not seen.event:
        if (record.name, record.levelno) != (seen.logger_name, seen.level):
            return False
        if not called_by_structlog():
            return False
    remember_record(record, forwarded=seen.forwarded)
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
"""Records that were nobody's, or that an error or another log call kept back, in this process."""

_said: dict[str, object] = {}


def count_not_forwarded(logger_name: str, service: str | None) -> None:
    """
    Count a record that was nobody's, and say so the first time.
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
