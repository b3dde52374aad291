"""
Which log records are known: what became of each, and what was put onto it.

One log call can pass several handlers, in several threads, and copies of its record as well
(``QueueHandler`` makes one). It makes one event log. A record and its copies have the very
objects of each other's attributes, and ``relativeCreated`` is a number that each record gets for
itself, even while a clock stands still. So that object stands for the log call, and a table says
what is known of it. Nothing is put onto the record for this. A record that was pickled is a new
one.

The table holds the latest 1,000 to 2,000.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from logging_ext.event import CONTEXT_FIELDS


GENERATION = 1_000
"""How many records make a generation."""

_NO_NAMES: frozenset[str] = frozenset()


class Claim(NamedTuple):
    """
    What is known of a record.

    Args:
        attached: The names of the context attributes that we put onto it.
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
    The table: two generations of records, of which the earlier one is forgotten as a whole.

    An entry is the object that stands for its record, under its value, and a `Claim`. For most
    records the object is all of it: they were forwarded, with all of the context attached.
    """

    __slots__ = ("earlier", "latest")

    def __init__(self) -> None:
        self.latest: dict[float, Any] = {}
        self.earlier: dict[float, Any] = {}

    def get(self, record: logging.LogRecord) -> Claim:
        """
        Return what is known of *record*.
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
        Remember *claim* of *record*.
        """
        key, identity = _identity(record)
        self.latest[key] = identity, claim
        if len(self.latest) > GENERATION:
            self.turn()

    def turn(self) -> None:
        """
        Forget the earlier generation.
        """
        self.earlier, self.latest = self.latest, {}


def _identity(record: logging.LogRecord) -> tuple[float, object]:
    number = record.__dict__.get("relativeCreated")
    if type(number) is float:
        return number, number
    return id(record), record  # of somebody's own making


claims = Claims()


def attached_names(record: logging.LogRecord) -> frozenset[str]:
    """
    Return the names of the context attributes that we put onto *record*, or onto a copy.
    """
    return claims.get(record).attached


def note_attached(record: logging.LogRecord, names: frozenset[str]) -> None:
    """
    Remember that the attributes *names* of *record* are context, not the caller's data.
    """
    known = claims.get(record)
    claims.put(record, known._replace(attached=known.attached | names))


def logged_elsewhere(
    record: logging.LogRecord, context: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """
    Return the worker context that was put onto *record* in another call than it is handled in.

    Args:
        record: One that a handler has kept for later, maybe.
        context: The worker context of the code that handles it, or None outside any worker.

    Returns:
        None if nothing was put onto it, or if that is the same call.
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
