"""
`EventLogQuery`: reads what the store has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    case,
    cast,
    func,
    literal,
    or_,
    select,
)

from nameko_eventlog.limits import (
    DISTINCT_NAMES,
    PAGE_BYTES,
    QUERY_SECONDS,
)
from nameko_eventlog.store import scanning, statements
from nameko_eventlog.store.answers import (
    ENTRYPOINT_FAILED,
    FAILURE_LEVELS,
    Count,
    EventLogRow,
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
from nameko_eventlog.store.levels import UNNAMED
from nameko_eventlog.store.listing import read_row, read_rows, take_within
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
from nameko_eventlog.store.patterns import Patterns
from nameko_eventlog.store.schema import event_logs
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.trace_search import TraceSearch
from nameko_eventlog.store.unseen import find_unseen


GROUPS = {
    "service": event_logs.c.service_name,
    "event_type": event_logs.c.event_type,
    "entrypoint": event_logs.c.entrypoint_name,
    "level": event_logs.c.level,
    "time_note": event_logs.c.time_note,
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
            found: Iterable[Any]
            if scanning.is_needed(connection, wanted):
                found = scanning.page(connection, wanted, order, limit + 1, start)
            else:
                statements.allow_parallel(connection, wanted)
                statement = statements.page(self._dialect, wanted, order, limit + 1, start)
                found = connection.execute(statement)
            kept, is_all = take_within(found, limit, PAGE_BYTES)
            rows = read_rows(connection, kept)
        following = None
        if not is_all:
            end = kept[-1]
            following = Cursor(
                order, wanted.since, wanted.until, end.time_ms, end.message_id
            ).encode(wanted)
        return {"event_logs": rows, "cursor": following}

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
        if type(bucket) is not int or not 0 < bucket < 10**9:
            raise InvalidQuery("bucket", bucket, "pass an integer number of seconds, above 0")
        limit = check_limit(limit)
        wanted = _in_range(wanted)
        number = func.count()
        group: ColumnElement[Any]
        if group_by == "time":
            length = literal(bucket * 1000, BigInteger)
            group = event_logs.c.time_ms - event_logs.c.time_ms % length
            ranking = group.desc()
        else:
            group = GROUPS[group_by] + ""  # keeps SQLite from scanning the column's whole index
            ranking = number.desc()
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            label = group.label("of")
            counted = connection.execute(
                select(label, number)
                .where(*statements.conditions(self._dialect, wanted))
                .group_by(label)
                .order_by(ranking if group_by != "time" else label.desc(), label.nulls_first())
                .limit(limit)
            ).all()
        if group_by == "time":
            return [{"group": format_time(of), "count": many} for of, many in reversed(counted)]
        return [{"group": of, "count": many} for of, many in counted]

    def service_map(self, /, *, limit: int = 1000, **filters: Any) -> list[Link]:
        """
        Count the calls between services, by default those of the last 24 hours.

        A call has failed if one of its event logs has the level ``error`` or above, or reports the
        failure. Event logs from outside calls are not counted.

        Args:
            limit: How many pairs of services, at most 1000: those with the most calls.
            **filters: Those of `query`.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        wanted = _parse(filters)
        limit = check_limit(limit)
        wanted = _in_range(wanted)
        row = event_logs.c
        is_failure = or_(row.level.in_(FAILURE_LEVELS), row.event_type == ENTRYPOINT_FAILED)
        calls = func.count(row.call_id.distinct())
        failures = func.count(case((is_failure, row.call_id)).distinct())
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            caller = row.caller
            service = row.service_name + ""  # keeps SQLite from scanning the column's whole index
            found = connection.execute(
                select(caller, service, calls, failures, func.count())
                .where(row.call_id.is_not(None), *statements.conditions(self._dialect, wanted))
                .group_by(caller, service)
                .order_by(calls.desc(), caller.nulls_first(), service)
                .limit(limit)
            ).all()
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

    def get(self, message_id: str, *, most_bytes: int | None = None) -> EventLogRow | None:
        """
        Return the event log with a message id, or None.

        Args:
            message_id: The id.
            most_bytes: A larger body is left out, as in pages.

        Raises:
            InvalidQuery: *message_id* is not a non-empty string.
        """
        is_it = event_logs.c.message_id == check_id("message_id", message_id)
        with self._connection() as connection:
            if most_bytes is not None:
                found = connection.execute(select(*statements.ROW).where(is_it)).one_or_none()
                if found is None or found.body is not None:
                    return None if found is None else read_row(found)
                size = found.size
                if self._dialect.name == "postgresql" and size <= most_bytes:
                    size = connection.scalar(select(statements.WRITTEN).where(is_it)) or 0
                if size > most_bytes:
                    return next(iter(read_rows(connection, [found])), None)
            found = connection.execute(select(*statements.WHOLE).where(is_it)).one_or_none()
        return None if found is None else read_row(found)

    def get_json(self, message_id: str) -> str | None:
        """
        Return the body of the event log with a message id as JSON, without decoding it, or None.

        Raises:
            InvalidQuery: *message_id* is not a non-empty string.
        """
        statement = select(cast(event_logs.c.body, Text)).where(
            event_logs.c.message_id == check_id("message_id", message_id)
        )
        with self._connection() as connection:
            found: str | None = connection.scalar(statement)
        return found

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
        service, time_ms = event_logs.c.service_name, event_logs.c.time_ms
        answer: list[ServiceInfo] = []
        with self._connection() as connection:
            for name in statements.distinct(connection, service):
                first, last = (
                    connection.scalars(
                        select(time_ms).where(service == name).order_by(order).limit(1)
                    ).one()
                    for order in (time_ms, time_ms.desc())
                )
                answer.append(
                    {
                        "service_name": name,
                        "first": format_time(first),
                        "last": format_time(last),
                    }
                )
        return answer

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
        Replace patterns by the event types that they match, unless there are too many, and add the
        unnamed levels that the filters select.
        """
        if filters.least_level is not None:
            unnamed = statements.distinct(connection, event_logs.c.level, UNNAMED, MAX_VALUES)
            levels = {*filters.columns["level"], *filter(filters.takes_level, unnamed)}
            filters = replace(filters, columns={**filters.columns, "level": tuple(sorted(levels))})
        if not filters.patterns:
            return filters
        patterns = Patterns(filters.patterns)
        prefixes = {pattern.split("*")[0] for pattern in filters.patterns}
        names: set[str] = set()
        for prefix in prefixes:
            known = statements.distinct(connection, event_logs.c.event_type, prefix)
            names |= set(filter(patterns.fullmatch, known))
            # possibly incomplete, or too many for one statement: test each row instead
            if len(known) == DISTINCT_NAMES or len(names) > DISTINCT_NAMES:
                if filters.since is None:
                    return replace(filters, since=default_since(filters.until))
                return filters
        columns = {**filters.columns, "event_type": tuple(sorted(names))}
        if len(names) > MAX_VALUES and filters.since is None:
            filters = replace(filters, since=default_since(filters.until))
        return replace(filters, columns=columns, patterns=())


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
