"""
`EventLogQuery`: finds what the store has written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
    TRACE_BYTES,
    TRACE_ROWS,
    TRACE_STEPS,
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
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.levels import UNNAMED
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
from nameko_eventlog.store.unseen import find_unseen


_STREAMED = 100  # rows of a trace that are fetched at once

GROUPS = {
    "service": event_logs.c.service_name,
    "event_type": event_logs.c.event_type,
    "entrypoint": event_logs.c.entrypoint_name,
    "level": event_logs.c.level,
    "time_note": event_logs.c.time_note,
}


class EventLogQuery:
    """
    Queries of one database. They block: in a Nameko service call the store's RPC methods instead.

    Args:
        uri: The database's address: ``sqlite:///FILE`` or ``postgresql://…``.
        seconds: After how long a method is given up.

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

        A page holds 4 MiB of bodies, and ends before its limit where there is more. Of a body
        above 32 KiB a page has only what stands in the table's columns, with an empty ``data``,
        and ``omitted_bytes``, its size; `get` has all of it.

        Args:
            order: ``newest`` or ``oldest`` first.
            limit: How many: 1000 at the most.
            cursor: The last page's, for the one behind it.
            **filters: Which; all must be met.

                - ``service``, ``entrypoint``: a name or a list of names.
                - ``level``: the same, in any case, or an alias (``warn``, ``fatal``), or logging's
                  number for it; ``warning+`` is that level and those above.
                - ``event_type``: the same; ``*`` stands for any text.
                - ``caller``: the name of the service that has called, or a list of names.
                - ``call_id``, ``origin_call_id``: an id or a list of ids.
                - ``time_note``: what is odd about the sender's clock, or a list: ``ahead``,
                  ``past``, ``unreadable``, ``differs``.
                - ``since``, ``until``: a datetime or ISO 8601; from the one until before the
                  other.
                - ``data``, ``metadata``: a mapping of paths, ``"customer.id"``, to what is there.
                  A dot separates two keys, or stands in one; a key in quotes is as it is.
                - ``data_contains``, ``metadata_contains``: a mapping that is contained: nested
                  mappings by their keys, lists in any order.
                - ``text``: what is somewhere in the body as JSON, whatever its case.

                With one of the last five, and no ``since``, the last 24 hours are looked through.
                Without ``until``, what is dated more than five minutes ahead of now is left out,
                unless ``since`` is as late, or an id is asked for.

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
            kept, is_all = _within(found, limit, PAGE_BYTES)
            rows = self._rows(connection, kept)
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
        Count event logs: of the last 24 hours, if there is no ``since``.

        Args:
            group_by: ``service``, ``event_type``, ``entrypoint``, ``level``, ``time_note`` or
                ``time``.
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
        wanted = _in_range(wanted)
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
        wanted = _in_range(wanted)
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

    def get(self, message_id: str, *, most_bytes: int | None = None) -> EventLogRow | None:
        """
        Return the event log of a message id, or None.

        Args:
            message_id: The id.
            most_bytes: A larger body is left out, as it is in pages.

        Raises:
            InvalidQuery: It is no id.
        """
        is_it = event_logs.c.message_id == check_id("message_id", message_id)
        with self._connection() as connection:
            if most_bytes is not None:
                found = connection.execute(select(*statements.ROW).where(is_it)).one_or_none()
                if found is None or found.body is not None:
                    return None if found is None else _row(found)
                size = found.size
                if self._dialect.name == "postgresql" and size <= most_bytes:
                    size = connection.scalar(select(statements.WRITTEN).where(is_it)) or 0
                if size > most_bytes:
                    return next(iter(self._rows(connection, [found])), None)
            found = connection.execute(select(*statements.WHOLE).where(is_it)).one_or_none()
        return None if found is None else _row(found)

    def get_json(self, message_id: str) -> str | None:
        """
        Return the body of a message id as JSON, without decoding it, or None.

        Raises:
            InvalidQuery: It is no id.
        """
        statement = select(cast(event_logs.c.body, Text)).where(
            event_logs.c.message_id == check_id("message_id", message_id)
        )
        with self._connection() as connection:
            found: str | None = connection.scalar(statement)
        return found

    def unseen(self, /, **filters: Any) -> list[Unseen]:
        """
        Return the values of filters that no stored event log has, whenever it was, with names
        like them that some have. Ask it where a page is empty.

        Args:
            **filters: Those of `query`; looked at are the names and ids: ``service``,
                ``entrypoint``, ``event_type``, ``caller``, ``level``, ``call_id``,
                ``origin_call_id``.

        Raises:
            InvalidQuery: A parameter is wrong.
        """
        _parse(filters)
        with self._connection() as connection:
            return find_unseen(connection, filters, self._deadline.check)

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
        gathered = _Gathered()
        with self._connection() as connection:
            seen: set[str] = set()
            while origin not in seen:  # Nameko cuts long call stacks: their first is no origin
                if len(seen) == TRACE_STEPS:
                    break
                seen.add(origin)
                for known_by in (event_logs.c.call_id, event_logs.c.parent_call_id):
                    above = connection.scalar(
                        select(first).where(known_by == origin, first.is_not(None)).limit(1)
                    )
                    if above:
                        origin = above
                        break
            is_top = len(seen) < TRACE_STEPS
            is_all = True
            for call in {asked, origin}:  # what tells no call stack is led to by nothing
                own = Filters.parse(call_id=call)
                is_all &= self._gather(connection, own, gathered, first.is_(None))
            new, seen, steps = {origin}, set(), 0
            while new and is_all:
                for some in _portions(sorted(new), MAX_VALUES):
                    steps += 1
                    led_to = Filters.parse(origin_call_id=some)
                    is_all = steps <= TRACE_STEPS and self._gather(connection, led_to, gathered)
                    if not is_all:
                        break
                seen |= new
                new = gathered.calls - seen
        rows = list(gathered.rows.values())
        # of a large body, the call stack is not there but for its ends
        is_all &= is_top and not any("omitted_bytes" in row for row in rows)
        return build_trace(origin, rows, not is_all) if rows else None

    def _gather(
        self,
        connection: Connection,
        wanted: Filters,
        gathered: _Gathered,
        *conditions: ColumnElement[bool],
    ) -> bool:
        """
        Add event logs to those of a trace.

        Returns:
            Whether there was room for them all.
        """
        room = TRACE_ROWS - len(gathered.rows)
        statement = statements.page(self._dialect, wanted, "oldest", room + 1, None)
        # else PostgreSQL sends all of them before the first is looked at
        found = connection.execute(
            statement.where(*conditions),
            execution_options={"stream_results": True, "max_row_buffer": _STREAMED},
        )
        kept, is_all = _within(found, room, TRACE_BYTES - gathered.bytes)
        gathered.bytes += sum(one.size for one in kept if one.body is not None)
        for row in self._rows(connection, kept):
            gathered.rows[row["message_id"]] = row
            if call_id := row["body"].get("call_id"):
                gathered.calls.add(str(call_id))
        return is_all

    def _rows(self, connection: Connection, found: Sequence[Any]) -> list[EventLogRow]:
        """
        Make rows of what a list has: of large bodies, out of the table's columns.
        """
        large = {one.message_id: one.size for one in found if one.body is None}
        bodies: dict[str, dict[str, Any]] = {}
        for some in _portions(sorted(large), MAX_VALUES):
            is_one = event_logs.c.message_id.in_(some)
            for told in connection.execute(select(*statements.COLUMNS).where(is_one)):
                bodies[told.message_id] = _summary(told)
        rows: list[EventLogRow] = []
        for one in found:
            if one.body is not None:
                rows.append(_row(one))
            elif one.message_id in bodies:  # retention may have been quicker
                row: EventLogRow = {
                    "message_id": one.message_id,
                    "time": format_time(one.time_ms),
                    "body": bodies[one.message_id],
                    "omitted_bytes": one.size,
                }
                rows.append(_noted(row, one))
        return rows

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        check_exists(self._engine.url)
        with database_errors(self._engine.url), self._engine.begin() as connection:
            yield connection

    def _resolve(self, connection: Connection, filters: Filters) -> Filters:
        """
        Put the event types that there are in the place of patterns, unless there are too many, and
        add the levels without a name that are meant.
        """
        if filters.least_level is not None:
            unnamed = statements.distinct(connection, event_logs.c.level, UNNAMED, MAX_VALUES)
            levels = {*filters.columns["level"], *filter(filters.takes_level, unnamed)}
            filters = replace(filters, columns={**filters.columns, "level": tuple(sorted(levels))})
        if not filters.patterns:
            return filters
        means = compile_patterns(filters.patterns)
        prefixes = {pattern.split("*")[0] for pattern in filters.patterns}
        names: set[str] = set()
        for prefix in prefixes:
            known = statements.distinct(connection, event_logs.c.event_type, prefix)
            names |= set(filter(means.fullmatch, known))
            # there may be more, or they are more than one statement takes: each row is looked at
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
            raise InvalidQuery(
                name, value, f"there is no such filter; there are {', '.join(known)}"
            )
    return Filters.parse(**filters)


@dataclass
class _Gathered:
    """
    The event logs of a trace so far, their calls, and how large their bodies are.
    """

    rows: dict[str, EventLogRow] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)
    bytes: int = 0


def _in_range(filters: Filters) -> Filters:
    """
    Return filters of what is counted: with a begin, and without what is ahead of now.
    """
    if filters.since is None:
        filters = replace(filters, since=default_since(filters.until))
    return filters.up_to_now()


def _within(found: Any, limit: int, most_bytes: int) -> tuple[list[Any], bool]:
    """
    Take rows as long as they are within bounds, one at the least; and tell whether these are all.
    """
    kept: list[Any] = []
    total = 0
    for row in found:
        total += 0 if row.body is None else row.size
        if len(kept) == limit or (kept and total > most_bytes):
            found.close()
            return kept, False
        kept.append(row)
    return kept, True


def _summary(row: Any) -> dict[str, Any]:
    """
    Return what the table's columns tell of a body.
    """
    stack = (row.origin_call_id, row.parent_call_id, row.call_id)
    body = {
        "service_name": row.service_name,
        "entrypoint_protocol": row.entrypoint_protocol,
        "entrypoint_name": row.entrypoint_name,
        "call_id": row.call_id,
        "call_stack": list(dict.fromkeys(one for one in stack if one)),
        "event_type": row.event_type,
        "timestamp": format_time(row.time_ms),
        "data": {},
    }
    return body if row.level is None else {**body, "level": row.level}


def _portions(values: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for at in range(0, len(values), size):
        yield values[at : at + size]


def _row(found: Any) -> EventLogRow:
    row: EventLogRow = {
        "message_id": found.message_id,
        "time": format_time(found.time_ms),
        "body": found.body,
    }
    return _noted(row, found)


def _noted(row: EventLogRow, found: Any) -> EventLogRow:
    if found.time_note is not None:
        row["time_note"] = found.time_note
    return row
