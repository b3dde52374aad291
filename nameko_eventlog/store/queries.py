"""
`EventLogQuery`: reads what the store has written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, func, or_, select

from nameko_eventlog.limits import DISTINCT_NAMES, PAGE_BYTES, QUERY_SECONDS
from nameko_eventlog.store import counting, statements
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
from nameko_eventlog.store.cursors import Cursor
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.finding import find_positions
from nameko_eventlog.store.finding_calls import CallFilters, find_calls
from nameko_eventlog.store.latencies import find_latencies
from nameko_eventlog.store.levels import UNNAMED
from nameko_eventlog.store.listing import BodyReader, take_within
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
from nameko_eventlog.store.positions import uuid_bytes
from nameko_eventlog.store.schema import event_logs, message_ids, series
from nameko_eventlog.store.sql_functions import TimeOf
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.trace_search import TraceSearch
from nameko_eventlog.store.unseen import find_unseen


GROUPS = {
    "service": series.c.service_name,
    "event_type": series.c.event_type,
    "entrypoint": series.c.entrypoint_name,
    "level": series.c.level,
    "time_note": series.c.time_note,
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
        self._engine = open_engine(uri, deadline=self._deadline)
        self._dialect = self._engine.dialect

    def __enter__(self) -> EventLogQuery:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection.
        """
        close_engine(self._engine)

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
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            after = None if start is None else start.position
            positions = find_positions(connection, wanted, order, limit + 1, after)
            taken = take_within(connection, positions[:limit], PAGE_BYTES)
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
        group: ColumnElement[Any] | int = bucket * 1000 if group_by == "time" else GROUPS[group_by]
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            counted = counting.count(connection, wanted, group, limit)
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
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            found = counting.count_calls(connection, wanted, limit)
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
        with self._connection() as connection:
            return find_calls(connection, wanted, order, limit, cursor)

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
        with self._connection() as connection:
            return find_latencies(connection, wanted, bucket, limit)

    def get(self, message_id: str, *, most_bytes: int | None = None) -> EventLogRow | None:
        """
        Return the event log with a message id, or None.

        Args:
            message_id: The id.
            most_bytes: A larger body is left out, as in pages.

        Raises:
            InvalidQuery: *message_id* is not a non-empty string.
        """
        is_it = _has_id(check_id("message_id", message_id))
        with self._connection() as connection:
            columns = statements.WHOLE if most_bytes is None else statements.ROW
            found = connection.execute(select(*columns).where(is_it)).first()
            if found is not None and found.body is None and most_bytes is not None:
                size = found.size
                if self._dialect.name == "postgresql" and size <= most_bytes:
                    size = connection.scalar(select(statements.WRITTEN).where(is_it)) or 0
                if size <= most_bytes:
                    found = connection.execute(select(*statements.WHOLE).where(is_it)).first()
            return None if found is None else BodyReader(connection, [found]).row(found)

    def get_json(self, message_id: str) -> str | None:
        """
        Return the body of the event log with a message id as JSON, without decoding it, or None.

        Raises:
            InvalidQuery: *message_id* is not a non-empty string.
        """
        is_it = _has_id(check_id("message_id", message_id))
        text = cast(event_logs.c.body, Text).label("text")
        with self._connection() as connection:
            found = connection.execute(select(*statements.PLACED, text).where(is_it)).first()
            return None if found is None else BodyReader(connection, [found]).json(found)

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
        with self._connection() as connection:
            return find_unseen(connection, filters, self._deadline.check)

    def services(self) -> list[ServiceInfo]:
        """
        Return the services that have event logs, by name.
        """
        own = select(TimeOf(event_logs.c.position)).where(event_logs.c.series_id == series.c.id)
        position = event_logs.c.position
        first, last = (
            own.order_by(order).limit(1).scalar_subquery() for order in (position, position.desc())
        )
        service = series.c.service_name
        times = select(service, first.label("first"), last.label("last")).subquery()
        statement = (
            select(times.c.service_name, func.min(times.c.first), func.max(times.c.last))
            .where(times.c.first.is_not(None))
            .group_by(times.c.service_name)
            .order_by(times.c.service_name)
            .limit(DISTINCT_NAMES)
        )
        with self._connection() as connection:
            return [
                {"service_name": name, "first": format_time(first), "last": format_time(last)}
                for name, first, last in connection.execute(statement)
            ]

    def trace(self, call_id: str) -> Trace | None:
        """
        Return all calls, of all services, that share an origin with a call; None if neither the
        call nor its children have event logs.

        Raises:
            InvalidQuery: *call_id* is not a non-empty string.
        """
        asked = check_id("call_id", call_id)
        with self._connection() as connection:
            return TraceSearch(connection).find(asked)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        check_exists(self._engine.url)
        with database_errors(self._engine.url), self._engine.begin() as connection:
            yield connection

    def _resolve(self, connection: Connection, filters: Filters) -> Filters:
        """
        Add the unnamed levels that the filters select.
        """
        if filters.least_level is None:
            return filters
        unnamed = statements.distinct(connection, series.c.level, UNNAMED, MAX_VALUES)
        levels = {*filters.columns["level"], *filter(filters.takes_level, unnamed)}
        return replace(filters, columns={**filters.columns, "level": tuple(sorted(levels))})


def _has_id(message_id: str) -> ColumnElement[bool]:
    row = event_logs.c
    known = select(message_ids.c.position).where(message_ids.c.message_id == message_id)
    has_id = row.position == known.scalar_subquery()
    position = uuid_bytes(message_id)
    if position is None:
        return has_id
    return or_(and_(row.position == position, row.message_id.is_(None)), has_id)


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
