"""
`EventLogQuery`: reads what the store has written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nameko_eventlog.limits import DISTINCT_NAMES, PAGE_BYTES, QUERY_SECONDS
from nameko_eventlog.store.answers import (
    CallPage,
    Count,
    EventLogRow,
    Latency,
    Link,
    Page,
    ServiceInfo,
    Trace,
    Unseen,
)
from nameko_eventlog.store.backends import Reader, Reading, backend_of
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.cursors import Cursor
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.finding_calls import find_calls
from nameko_eventlog.store.latencies import find_latencies
from nameko_eventlog.store.levels import UNNAMED
from nameko_eventlog.store.parameters import (
    MAX_VALUES,
    ORDERS,
    Filters,
    InvalidQuery,
    check_choice,
    check_id,
    check_limit,
    default_since,
)
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.trace_search import TraceSearch
from nameko_eventlog.store.unseen import find_unseen


GROUPS = {
    "service": "service_name",
    "event_type": "event_type",
    "entrypoint": "entrypoint_name",
    "level": "level",
    "time_note": "time_note",
}


class EventLogQuery:
    """
    Queries one database. Methods block: in a Nameko service, call the store's RPC methods instead.

    Args:
        uri: The database's address: ``sqlite:///FILE`` or ``postgresql://…``.
        seconds: The time limit of a method.

    Raises:
        DatabaseError: Here and from every method, if the database cannot be used.

    .. versionadded:: 0.1.0
    """

    def __init__(self, uri: str, *, seconds: float = QUERY_SECONDS) -> None:
        self._deadline = Deadline(seconds)
        self._reader: Reader = backend_of(uri).Reader(uri, self._deadline)

    def __enter__(self) -> EventLogQuery:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection.
        """
        self._reader.close()

    def query(
        self,
        /,
        *,
        order: str = "newest",
        limit: int = 100,
        cursor: str | None = None,
        **filters: Any,
    ) -> Page:
        """
        Return a page of event logs.

        A page holds 4 MiB of bodies, and ends before its limit if there is more. A body above
        32 KiB is replaced by what the table's columns hold, with an empty ``data``, and
        ``omitted_bytes``, its size; `get` returns all of it.

        Args:
            order: ``newest`` or ``oldest`` first.
            limit: How many, at most 1000.
            cursor: The cursor of a page, for the next page.
            **filters: Which event logs; all filters must match.

                - ``service``, ``entrypoint``: a name or a list of names.
                - ``level``: a name or a list of names, in any case; aliases (``warn``, ``fatal``)
                  and Python's numbers work too; ``warning+`` is that level and those above.
                - ``event_type``: a name or a list of names; ``*`` stands for any text.
                - ``caller``: the name of the calling service, or a list of names.
                - ``call_id``, ``origin_call_id``: an id or a list of ids.
                - ``time_note``: what is wrong with the sender's clock, or a list: ``ahead``,
                  ``past``, ``unreadable``, ``differs``.
                - ``since``, ``until``: a datetime or ISO 8601; ``until`` is exclusive.
                - ``data``, ``metadata``: a mapping of paths, ``"customer.id"``, to values. A dot
                  separates two keys, or belongs to a key; a key in quotes is taken literally.
                - ``data_contains``, ``metadata_contains``: a mapping that is contained: nested
                  mappings by their keys, lists in any order.
                - ``text``: a text that occurs in the body's JSON, in any case.

                The last five search the last 24 hours unless ``since`` is given. Without
                ``until``, event logs dated more than five minutes ahead of now are left out,
                unless ``since`` is as late, or the filters name an id.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        wanted = _parse(filters)
        order = check_choice("order", order, ORDERS)
        limit = check_limit(limit)
        start = None
        if cursor is not None:
            start = Cursor.decode(cursor, wanted, order)
            wanted = replace(wanted, since=start.since, until=start.until)
        elif wanted.needs_range and wanted.since is None:
            wanted = replace(wanted, since=default_since(wanted.until))
        if cursor is None:
            wanted = wanted.up_to_now()
        with self._reader.reading() as reading:
            wanted = _resolve(reading, wanted)
            after = None if start is None else start.position
            positions = reading.find(wanted, order, limit + 1, after)
            taken = reading.take(positions[:limit], PAGE_BYTES)
            following = None
            if taken.number < len(positions):
                end = positions[taken.number - 1]
                following = Cursor(order, wanted.since, wanted.until, end).encode(wanted)
        return {"event_logs": taken.rows, "cursor": following}

    def count(
        self,
        /,
        *,
        group_by: str = "service",
        bucket: int = 3600,
        limit: int = 100,
        **filters: Any,
    ) -> list[Count]:
        """
        Count event logs, by default those of the last 24 hours.

        Args:
            group_by: ``service``, ``event_type``, ``entrypoint``, ``level``, ``time_note`` or
                ``time``.
            bucket: The length of a group by time, in seconds.
            limit: How many groups, at most 1000: the largest, or the latest.
            **filters: Those of `query`.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        wanted = _parse(filters)
        check_choice("group_by", group_by, (*GROUPS, "time"))
        _check_bucket(bucket)
        limit = check_limit(limit)
        wanted = _in_range(wanted)
        group: str | int = bucket * 1000 if group_by == "time" else GROUPS[group_by]
        with self._reader.reading() as reading:
            wanted = _resolve(reading, wanted)
            counted = reading.count(wanted, group, limit)
        if group_by == "time":
            return [{"group": format_time(of), "count": many} for of, many in reversed(counted)]
        return [{"group": of, "count": many} for of, many in counted]

    def service_map(self, /, *, limit: int = 1000, **filters: Any) -> list[Link]:
        """
        Count the calls between services, by default those of the last 24 hours.

        A call counts at the time of its first event log. It has failed if one of its event logs
        has the level ``error`` or above, or reports the failure. Event logs from outside calls are
        not counted.

        Args:
            limit: How many pairs of services, at most 1000: those with the most calls.
            **filters: Those of `query`.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        wanted = _parse(filters)
        limit = check_limit(limit)
        wanted = _in_range(wanted)
        with self._reader.reading() as reading:
            wanted = _resolve(reading, wanted)
            found = reading.count_calls(wanted, limit)
        return [
            {
                "caller": caller,
                "service_name": service,
                "calls": calls,
                "failures": failures,
                "event_logs": number,
            }
            for caller, service, calls, failures, number in found
        ]

    def calls(
        self,
        /,
        *,
        order: str = "newest",
        limit: int = 100,
        cursor: str | None = None,
        **filters: Any,
    ) -> CallPage:
        """
        Return a page of calls.

        Args:
            order: ``newest`` or ``oldest`` first, by the first event log of each; or ``longest``
                first, by default of the last 24 hours.
            limit: How many, at most 1000.
            cursor: The cursor of a page, for the next page.
            **filters: Which calls; all filters must match.

                - ``service``, ``entrypoint``, ``caller``: a name or a list of names.
                - ``outcome``: ``running`` (no end is known), ``completed``, ``failed``, ``failed
                  as expected``, or a list.
                - ``min_duration``, ``max_duration``: in seconds.
                - ``since``, ``until``: a datetime or ISO 8601, of a call's first event log;
                  ``until`` is exclusive.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        wanted = CallFilters.parse(**filters)
        with self._reader.reading() as reading:
            return find_calls(reading, wanted, order, limit, cursor)

    def latencies(
        self, /, *, bucket: int | None = None, limit: int = 100, **filters: Any
    ) -> list[Latency]:
        """
        Return how many calls each entrypoint had, how many failed, and how long they took; by
        default those of the last 24 hours.

        A call counts at the time of its first event log.

        Args:
            bucket: The length of a span of time, in seconds, for numbers by time; multiples of 600
                are answered fastest.
            limit: How many entrypoints, at most 1000: those with the most calls.
            **filters: ``service``, ``entrypoint``, ``since`` and ``until``, as in `query`.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        for name, value in filters.items():
            if name not in ("service", "entrypoint", "since", "until"):
                raise InvalidQuery(
                    name, value, "unknown filter; pass one of service, entrypoint, since, until"
                )
        if bucket is not None:
            _check_bucket(bucket)
        limit = check_limit(limit)
        wanted = _in_range(Filters.parse(**filters))
        with self._reader.reading() as reading:
            return find_latencies(reading, wanted, bucket, limit)

    def get(self, message_id: str, *, most_bytes: int | None = None) -> EventLogRow | None:
        """
        Return the event log with a message id, or None.

        Args:
            message_id: The id.
            most_bytes: A larger body is left out, as in pages.

        Raises:
            InvalidQuery: *message_id* is not a non-empty string.
        """
        asked = check_id("message_id", message_id)
        with self._reader.reading() as reading:
            return reading.get(asked, most_bytes)

    def get_json(self, message_id: str) -> str | None:
        """
        Return the body of the event log with a message id as JSON, without decoding it, or None.

        Raises:
            InvalidQuery: *message_id* is not a non-empty string.
        """
        asked = check_id("message_id", message_id)
        with self._reader.reading() as reading:
            return reading.get_json(asked)

    def unseen(self, /, **filters: Any) -> list[Unseen]:
        """
        Return the filter values that no stored event log has, at any time, with similar ones that
        exist. It explains an empty page.

        Args:
            **filters: Those of `query`; only names and ids are looked up: ``service``,
                ``entrypoint``, ``event_type``, ``caller``, ``level``, ``call_id``,
                ``origin_call_id``.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        _parse(filters)
        with self._reader.reading() as reading:
            return find_unseen(reading, filters, self._deadline.check)

    def services(self) -> list[ServiceInfo]:
        """
        Return the services that have event logs, by name.
        """
        with self._reader.reading() as reading:
            return [
                {"service_name": name, "first": format_time(first), "last": format_time(last)}
                for name, first, last in reading.services(DISTINCT_NAMES)
            ]

    def trace(self, call_id: str) -> Trace | None:
        """
        Return all calls, of all services, that share an origin with a call; None if neither the
        call nor its children have event logs.

        Raises:
            InvalidQuery: *call_id* is not a non-empty string.
        """
        asked = check_id("call_id", call_id)
        with self._reader.reading() as reading:
            return TraceSearch(reading).find(asked)


def _resolve(reading: Reading, filters: Filters) -> Filters:
    """
    Add the unnamed levels that the filters select.
    """
    if filters.least_level is None:
        return filters
    unnamed = reading.names("level", UNNAMED, MAX_VALUES)
    levels = {*filters.columns["level"], *filter(filters.takes_level, unnamed)}
    return replace(filters, columns={**filters.columns, "level": tuple(sorted(levels))})


def _check_bucket(bucket: Any) -> None:
    if type(bucket) is not int or not 0 < bucket < 10**9:
        raise InvalidQuery("bucket", bucket, "pass an integer number of seconds, above 0")


def _parse(filters: dict[str, Any]) -> Filters:
    known = Filters.parse.__kwdefaults__ or {}
    for name, value in filters.items():
        if name not in known:
            raise InvalidQuery(name, value, f"unknown filter; pass one of {', '.join(known)}")
    return Filters.parse(**filters)


def _in_range(filters: Filters) -> Filters:
    """
    Return the filters for counting: with a beginning, and without event logs from the future.
    """
    if filters.since is None:
        filters = replace(filters, since=default_since(filters.until))
    return filters.up_to_now()
