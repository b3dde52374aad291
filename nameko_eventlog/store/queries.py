"""
`EventLogQuery`: finds what the store has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    case,
    func,
    literal,
    or_,
    select,
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
)
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.parameters import (
    MAX_VALUES,
    ORDERS,
    Cursor,
    Filters,
    InvalidQuery,
    check_choice,
    check_id,
    check_limit,
    compile_patterns,
    default_since,
)
from nameko_eventlog.store.schema import event_logs
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.traces import build_trace


MAX_TRACE = 10_000
"""How many event logs a trace holds at the most."""

GROUPS = {
    "service": event_logs.c.service_name,
    "event_type": event_logs.c.event_type,
    "entrypoint": event_logs.c.entrypoint_name,
    "level": event_logs.c.level,
}


class EventLogQuery:
    """
    Queries of one database. They block: in a Nameko service call the store's RPC methods instead.

    Args:
        uri: The database's address: ``sqlite:///FILE`` or ``postgresql://…``.
        seconds: After how long a statement is given up.

    Raises:
        DatabaseError: Here and from every method, if the database cannot be used.

    .. versionadded:: 0.2.0
    """

    def __init__(self, uri: str, *, seconds: float = 30.0) -> None:
        self._engine = open_engine(uri, seconds=seconds)
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

        Args:
            order: ``newest`` or ``oldest`` first.
            limit: How many: 1000 at the most.
            cursor: The last page's, for the one behind it.
            **filters: Which; all must be met.

                - ``service``, ``entrypoint``, ``level``: a name or a list of names.
                - ``event_type``: the same; ``*`` stands for any text.
                - ``caller``: the name of the service that has called, or a list of names.
                - ``call_id``, ``origin_call_id``: an id or a list of ids.
                - ``since``, ``until``: a datetime or ISO 8601; from the one until before the
                  other.
                - ``data``, ``metadata``: a mapping of paths, ``"customer.id"``, to what is there.
                - ``data_contains``, ``metadata_contains``: a mapping that is contained: nested
                  mappings by their keys, lists in any order.
                - ``text``: what is somewhere in the body as JSON, whatever its case.

                With one of the last five, and no ``since``, the last 24 hours are looked through.

        Raises:
            InvalidQuery: A parameter is wrong.
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
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            if scanning.is_needed(connection, wanted):
                found = scanning.page(connection, wanted, order, limit + 1, start)
            else:
                statements.allow_parallel(connection, wanted)
                statement = statements.page(self._dialect, wanted, order, limit + 1, start)
                found = list(connection.execute(statement))
            rows = [_row(one) for one in found]
            last = None
            if len(rows) > limit:
                last = connection.scalar(
                    select(event_logs.c.time_ms).where(
                        event_logs.c.message_id == rows[limit - 1]["message_id"]
                    )
                )
        following = None
        if last is not None:
            end = rows[limit - 1]["message_id"]
            following = Cursor(order, wanted.since, wanted.until, last, end).encode(wanted)
        return {"event_logs": rows[:limit], "cursor": following}

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
        Count event logs: of the last 24 hours, if there is no ``since``.

        Args:
            group_by: ``service``, ``event_type``, ``entrypoint``, ``level`` or ``time``.
            bucket: The length of a group by time, in seconds.
            limit: How many groups: 1000 at the most; the largest, or the latest.
            **filters: Which event logs: those of `query`.

        Raises:
            InvalidQuery: A parameter is wrong.
        """
        wanted = _parse(filters)
        check_choice("group_by", group_by, (*GROUPS, "time"))
        if type(bucket) is not int or not 0 < bucket < 10**9:
            raise InvalidQuery("bucket", bucket, "pass an integer of seconds, above 0")
        limit = check_limit(limit)
        if wanted.since is None:
            wanted = replace(wanted, since=default_since(wanted.until))
        number = func.count()
        group: ColumnElement[Any]
        if group_by == "time":
            length = literal(bucket * 1000, BigInteger)
            group = event_logs.c.time_ms - event_logs.c.time_ms % length
            ranking = group.desc()
        else:
            group = GROUPS[group_by] + ""  # as such, SQLite would go through all of its index
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
        Count the calls between services: of the last 24 hours, if there is no ``since``.

        A call has failed if one of its event logs is of the level ``error`` or above, or tells
        that it failed. What happened outside calls is not counted.

        Args:
            limit: How many pairs of services, those with the most calls: 1000 at the most.
            **filters: Which event logs are looked at: those of `query`.

        Raises:
            InvalidQuery: A parameter is wrong.
        """
        wanted = _parse(filters)
        limit = check_limit(limit)
        if wanted.since is None:
            wanted = replace(wanted, since=default_since(wanted.until))
        row = event_logs.c
        is_failure = or_(row.level.in_(FAILURE_LEVELS), row.event_type == ENTRYPOINT_FAILED)
        calls = func.count(row.call_id.distinct())
        failures = func.count(case((is_failure, row.call_id)).distinct())
        with self._connection() as connection:
            wanted = self._resolve(connection, wanted)
            caller = row.caller
            service = row.service_name + ""  # as such, SQLite would go through all of its index
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

    def get(self, message_id: str) -> EventLogRow | None:
        """
        Return the event log of a message id, or None.

        Raises:
            InvalidQuery: It is no id.
        """
        statement = select(*statements.ROW).where(
            event_logs.c.message_id == check_id("message_id", message_id)
        )
        with self._connection() as connection:
            found = connection.execute(statement).one_or_none()
        return None if found is None else _row(found)

    def services(self) -> list[ServiceInfo]:
        """
        Return the services there are event logs of, by name.
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
        Return all calls, of all services, that share an origin with a call; None if no event log
        is known of it, nor of its children.

        Raises:
            InvalidQuery: It is no id.
        """
        asked = origin = check_id("call_id", call_id)
        first = event_logs.c.origin_call_id
        rows: dict[str, EventLogRow] = {}
        with self._connection() as connection:
            seen: set[str] = set()
            while origin not in seen:  # Nameko cuts long call stacks: their first is no origin
                seen.add(origin)
                for known_by in (event_logs.c.call_id, event_logs.c.parent_call_id):
                    above = connection.scalar(
                        select(first).where(known_by == origin, first.is_not(None)).limit(1)
                    )
                    if above:
                        origin = above
                        break
            for call in {asked, origin}:  # what tells no call stack is led to by nothing
                own = Filters.parse(call_id=call)
                alone = statements.page(self._dialect, own, "oldest", MAX_TRACE + 1, None)
                for row in connection.execute(alone.where(first.is_(None))):
                    rows[row.message_id] = _row(row)
            new, seen = {origin}, set()
            while new and len(rows) <= MAX_TRACE:
                seen |= new
                for found in self._led_to_by(connection, new, MAX_TRACE + 1 - len(rows)):
                    rows[found["message_id"]] = found
                calls = {row["body"].get("call_id") for row in rows.values()}
                new = {str(call) for call in calls if call} - seen
        if not rows:
            return None
        return build_trace(origin, list(rows.values())[:MAX_TRACE], len(rows) > MAX_TRACE)

    def _led_to_by(
        self, connection: Connection, origins: Iterable[str], limit: int
    ) -> Iterator[EventLogRow]:
        for some in _portions(sorted(origins), MAX_VALUES):
            wanted = Filters.parse(origin_call_id=some)
            statement = statements.page(self._dialect, wanted, "oldest", limit, None)
            yield from map(_row, connection.execute(statement))

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        check_exists(self._engine.url)
        with database_errors(self._engine.url), self._engine.begin() as connection:
            yield connection

    def _resolve(self, connection: Connection, filters: Filters) -> Filters:
        """
        Put the event types that there are in the place of patterns.
        """
        if not filters.patterns:
            return filters
        means = compile_patterns(filters.patterns)
        prefixes = {pattern.split("*")[0] for pattern in filters.patterns}
        names = {
            name
            for prefix in prefixes
            for name in statements.distinct(connection, event_logs.c.event_type, prefix)
            if means.fullmatch(name)
        }
        columns = {**filters.columns, "event_type": tuple(sorted(names))}
        if len(names) > MAX_VALUES and filters.since is None:
            filters = replace(filters, since=default_since(filters.until))
        return replace(filters, columns=columns)


def _parse(filters: dict[str, Any]) -> Filters:
    known = Filters.parse.__kwdefaults__ or {}
    for name, value in filters.items():
        if name not in known:
            raise InvalidQuery(
                name, value, f"there is no such filter; there are {', '.join(known)}"
            )
    return Filters.parse(**filters)


def _portions(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


def _row(found: Any) -> EventLogRow:
    return {
        "message_id": found.message_id,
        "time": format_time(found.time_ms),
        "body": found.body,
    }
