"""
What queries answer: plain dictionaries, the same from code and by RPC.
"""

from __future__ import annotations

from typing import Any, TypedDict


FAILURE_LEVELS = ("error", "critical")
"""The levels of what went wrong, by their normal names."""

WARNING_LEVELS = ("warning",)
"""The levels of what may go wrong."""

ENTRYPOINT_FAILED = "entrypoint_failed"
"""The event type by which auto capture tells that a call has failed."""


class _Row(TypedDict):
    message_id: str
    time: str
    body: dict[str, Any]


class EventLogRow(_Row, total=False):
    """
    A stored event log; ``time`` is ISO 8601, UTC, with milliseconds.

    ``omitted_bytes`` is there if the body was too large for a list: the size of it as the
    database keeps it, in the place of the body, of which there is what the table's columns tell.

    ``time_note`` is there if the sender's clock cannot have been right: ``ahead``, ``past``,
    ``unreadable`` or ``differs``. The body has what the sender said, and ``time`` is the store's.
    """

    omitted_bytes: int
    time_note: str


class Page(TypedDict):
    """
    Some event logs, and what asks for the next ones: None, if there are none.
    """

    event_logs: list[EventLogRow]
    cursor: str | None


class Count(TypedDict):
    """
    How many event logs a group has; a group by time is the ISO time at which it begins.
    """

    group: str | None
    count: int


class ServiceInfo(TypedDict):
    """
    A service, and the times of its first and last event log.
    """

    service_name: str
    first: str
    last: str


class Unseen(TypedDict):
    """
    A filter's value that no stored event log has, and those that look like it and are there.
    """

    filter: str
    value: str
    near: list[str]


class Link(TypedDict):
    """
    Calls of a service by another one, whose name is None where nobody is known to have called.

    ``calls`` is how many there were, ``failures`` in how many of them something failed, and
    ``event_logs`` how many event logs they have.
    """

    caller: str | None
    service_name: str
    calls: int
    failures: int
    event_logs: int


class Call(TypedDict):
    """
    A call in a trace.

    ``status`` and ``duration``, in seconds, are those of its captured end; ``known`` is False for
    a call of which there is nothing but its children.
    """

    call_id: str
    parent_call_id: str | None
    depth: int
    service_name: str
    entrypoint_name: str
    started: str | None
    duration: float | None
    status: str | None
    known: bool
    event_logs: list[EventLogRow]


class Trace(TypedDict):
    """
    All calls that one call has led to: parents first, each before its children.
    """

    origin_call_id: str
    calls: list[Call]
    truncated: bool
