"""
The answers of queries: plain dictionaries, the same from Python and by RPC.
"""

from __future__ import annotations

from typing import Any, TypedDict


FAILURE_LEVELS = ("error", "critical")
"""The levels of failures, by their normalized names."""

WARNING_LEVELS = ("warning",)
"""The levels of warnings, by their normalized names."""

ENTRYPOINT_FAILED = "entrypoint_failed"
"""The event type by which auto capture reports a failed call."""


class _Row(TypedDict):
    message_id: str
    time: str
    body: dict[str, Any]


class EventLogRow(_Row, total=False):
    """
    A stored event log; ``time`` is ISO 8601, UTC, with milliseconds.

    ``omitted_bytes`` is set if the body was too large for a list: its size in the database.
    ``body`` then has only what the table's columns hold.

    ``time_note`` is set if the sender's clock must have been wrong: ``ahead``, ``past``,
    ``unreadable`` or ``differs``. ``body`` keeps the sender's time, and ``time`` is the store's.
    """

    omitted_bytes: int
    time_note: str


class Page(TypedDict):
    """
    A page of event logs, and the cursor for the next page, or None.
    """

    event_logs: list[EventLogRow]
    cursor: str | None


class Count(TypedDict):
    """
    The number of event logs in a group; a group by time is named by the ISO time of its beginning.
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
    A filter value that no stored event log has, and similar values that exist.
    """

    filter: str
    value: str
    near: list[str]


class Link(TypedDict):
    """
    Calls from one service to another; ``caller`` is None if the caller is unknown.

    ``calls`` is the number of calls, ``failures`` the number of those in which something failed,
    and ``event_logs`` the number of their event logs.
    """

    caller: str | None
    service_name: str
    calls: int
    failures: int
    event_logs: int


class Call(TypedDict):
    """
    A call in a trace.

    ``status`` and ``duration``, in seconds, come from its captured end; ``known`` is False for a
    call that has no event logs but children.
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


class FoundCall(TypedDict):
    """
    A call, as its event logs tell it.

    ``started`` is ISO 8601, UTC, with milliseconds; ``duration`` is in seconds, and None if no end
    is known. ``outcome`` is ``running`` (no end is known), ``completed``, ``failed`` or
    ``failed as expected``. ``level`` is the worst of its event logs' levels, and ``event_logs``
    their number.
    """

    call_id: str
    origin_call_id: str | None
    parent_call_id: str | None
    service_name: str
    entrypoint_name: str | None
    entrypoint_protocol: str | None
    caller: str | None
    started: str
    duration: float | None
    outcome: str
    level: str | None
    event_logs: int


class CallPage(TypedDict):
    """
    A page of calls, and the cursor for the next page, or None.
    """

    calls: list[FoundCall]
    cursor: str | None


class Latency(TypedDict):
    """
    The calls of an entrypoint, in a span of time: how many there were, and how long they took.

    ``time`` is the ISO time of the span's beginning, and None if the whole range is one. ``rate``
    is in calls a second. ``failures`` failed, and ``expected`` failed as expected. ``p50``,
    ``p95`` and ``p99`` are percentiles of the durations, in seconds, within 5 %; None if no end is
    known.
    """

    service_name: str
    entrypoint_name: str | None
    time: str | None
    calls: int
    rate: float
    failures: int
    expected: int
    p50: float | None
    p95: float | None
    p99: float | None


class Trace(TypedDict):
    """
    All calls that one call led to, each before its children.
    """

    origin_call_id: str
    calls: list[Call]
    truncated: bool
