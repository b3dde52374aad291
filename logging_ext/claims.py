"""
What happened to recent log records: whether each was forwarded, and what we attached to it.

One log call can pass through several handlers, in several threads, and so can copies of its
record (``QueueHandler`` makes one). Still it makes one event log. A record and its copies share
the objects that are their attributes, and every record gets its own ``relativeCreated`` object,
even when two calls read the same time. That object identifies the log call, and a table stores
what happened to it. Nothing is stored on the record. A record that was pickled counts as new.

The table holds the latest 1,000 to 2,000 records.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from logging_ext.event import CONTEXT_FIELDS


GENERATION = 1_000
"""The number of records in a generation."""

_NO_NAMES: frozenset[str] = frozenset()


class Claim(NamedTuple):
    """
    What happened to a record.

    Args:
        attached: The names of the context attributes that we attached to it.
        forwarded: Whether it was forwarded as an event log.
        counted: Whether it was counted as not forwarded.
    """

    attached: frozenset[str] = _NO_NAMES
    forwarded: bool = False
    counted: bool = False


_UNKNOWN = Claim()

_USUAL = Claim(frozenset(CONTEXT_FIELDS), forwarded=True)


class Claims:
    """
    The table: two generations of records. The earlier generation is dropped as a whole.

    The key is the value of the object that identifies the record. The entry is that object and a
    `Claim`; the object alone means that the record was forwarded with the whole context attached,
    as most are.
    """

    __slots__ = ("earlier", "latest")

    def __init__(self) -> None:
        self.latest: dict[float, Any] = {}
        self.earlier: dict[float, Any] = {}

    def get(self, record: logging.LogRecord) -> Claim:
        """
        Return what happened to *record* so far.
        """
        key, identity = _identity(record)
        entry = self.latest.get(key, self.earlier.get(key))
        if entry is identity:
            return _USUAL
        if type(entry) is tuple and entry[0] is identity:
            claim: Claim = entry[1]
            return claim
        return _UNKNOWN

    def put(self, record: logging.LogRecord, claim: Claim) -> None:
        """
        Store *claim* for *record*.
        """
        key, identity = _identity(record)
        self.latest[key] = identity, claim
        if len(self.latest) > GENERATION:
            self.turn()

    def turn(self) -> None:
        """
        Drop the earlier generation, and begin a new one.
        """
        self.earlier, self.latest = self.latest, {}


def _identity(record: logging.LogRecord) -> tuple[float, object]:
    number = record.__dict__.get("relativeCreated")
    if type(number) is float:
        return number, number
    return id(record), record  # not made by logging.LogRecord


claims = Claims()


def attached_names(record: logging.LogRecord) -> frozenset[str]:
    """
    Return the names of the context attributes that we attached to *record* or to a copy of it.
    """
    return claims.get(record).attached


def note_attached(record: logging.LogRecord, names: frozenset[str]) -> None:
    """
    Store that the attributes *names* of *record* are context, not the caller's data.
    """
    known = claims.get(record)
    claims.put(record, known._replace(attached=known.attached | names))


def logged_elsewhere(
    record: logging.LogRecord, context: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """
    Return the worker context attached to *record*, if another call logged it than handles it.

    Args:
        record: Any record; a handler may have kept it for later.
        context: The worker context of the code that handles it, or None outside any worker.

    Returns:
        The context, or None if none is attached, or if it is that of the same call.
    """
    names = attached_names(record)
    attributes = record.__dict__
    if len(names) < len(CONTEXT_FIELDS) or not names <= attributes.keys():
        return None
    if context is not None and all(
        attributes[name] == context.get(name) for name in ("service_name", "call_id")
    ):
        return None
    return {name: attributes[name] for name in CONTEXT_FIELDS}
