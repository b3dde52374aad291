"""
Inserting event logs, each once, with the changes of their summaries, in one transaction.

One transaction writes at a time: SQLite has it so, and on PostgreSQL a lock sees to it. So what
was looked up still holds when it is written, whichever instances of the store write.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import count
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, select
from sqlalchemy.dialects import postgresql, sqlite

from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.packing import CallContext, call_key, pack
from nameko_eventlog.store.positions import digest, position_of, time_of, uuid_bytes
from nameko_eventlog.store.sql import bulk, full_text
from nameko_eventlog.store.sql.numbering import next_numbers
from nameko_eventlog.store.sql.schema import (
    call_counts,
    calls,
    counts,
    durations,
    event_logs,
    message_ids,
    rejects,
    series,
)
from nameko_eventlog.store.summaries import CallSummary, Changes, Logged, summarize


_WRITING = 4_711_202_612
"""The key of PostgreSQL's advisory lock."""

_MOST_NEAR = 1_000
"""Above so many rows in the time of a batch, each of its event logs is looked up."""

_NAMES = tuple(column for column in series.c if column.name not in ("id", "key"))

_names_of = itemgetter(*(column.name for column in _NAMES))

_ENDPOINT = ("service_name", "entrypoint_name", "in_call")
_endpoint_of = itemgetter(*_ENDPOINT)

SUMMARY = tuple(
    calls.c[name]
    for name in (
        "series_id", "first", "first_ms", "last_ms", "ended", "is_captured", "duration",
         "outcome", "severity", "is_failed", "number",
    )
)  # fmt: skip
"""The columns of a call's summary, in the order of `CallSummary`."""

_CALL = (
    *(calls.c[name] for name in ("call_key", "stack_key", "context", "origin_key", "parent_key")),
    *SUMMARY,
    calls.c.id,
)
CHANGED = (*SUMMARY, calls.c.id)
"""The columns that change with a call's summary, and the call's number."""

_EVENT_LOG = tuple(
    event_logs.c[name]
    for name in (
        "position", "series_id", "call", "packed", "time_offset", "message_id", "body",
    )
)  # fmt: skip


class KnownCall(NamedTuple):
    """
    A call that the table has: its number, and its summary.
    """

    id: int
    summary: CallSummary


class _Present(NamedTuple):
    """
    What the tables have before a batch: the last numbers, and whether there is any message id.
    """

    last_series: int
    last_call: int
    any_message_id: bool


_PRESENT = (
    f"SELECT coalesce((SELECT max(id) FROM {series}), 0),"  # noqa: S608
    f" coalesce((SELECT max(id) FROM {calls}), 0), EXISTS (SELECT 1 FROM {message_ids})"
)


def lock_writers(connection: Connection) -> None:
    """
    Wait for another writer's transaction, and let no other write until this one ends.
    """
    if connection.dialect.name == "postgresql":  # SQLite's transaction is a lock
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITING})")


def insert_rejects(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """
    Insert rejects; skip those that are there.
    """
    if rows:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        connection.execute(dialect.insert(rejects).on_conflict_do_nothing(), list(rows))


def insert_event_logs(connection: Connection, rows: Iterable[dict[str, Any]]) -> int:
    """
    Insert event logs, as `rows.make_row` makes them; skip those that are there.

    Returns:
        How many were inserted.
    """
    lock_writers(connection)
    present = _Present(*connection.exec_driver_sql(_PRESENT).one())
    new = _only_new(connection, rows, present.any_message_id)
    if not new:
        return 0
    writes = bulk.Writes(connection)
    _number_series(connection, new, present.last_series, writes)
    changes = Changes()
    _summarize_calls(connection, new, present.last_call, changes, writes)
    packed = [_packed(row) for row in new]
    if connection.dialect.name == "sqlite":
        numbers = next_numbers(connection, (row["position"] for row in new))
        numbered = [(number, *values) for number, values in zip(numbers, packed, strict=True)]
        writes.insert((event_logs.c.id, *_EVENT_LOG), numbered)
        full_text.add(connection, ((one[0], one[-1]) for one in numbered))
    else:
        writes.insert(_EVENT_LOG, packed)
    odd = [(row["message_id"], row["position"]) for row in new if row["uuid"] != row["position"]]
    writes.insert((message_ids.c.message_id, message_ids.c.position), odd)
    for row in new:
        changes.count(row["time_ms"], row["series_id"])
        changes.names[row["series_id"]] = _endpoint_of(row)
    write_changes(connection, changes, writes)
    writes.run()
    return len(new)


def _only_new(
    connection: Connection, rows: Iterable[dict[str, Any]], any_message_id: bool
) -> list[dict[str, Any]]:
    """
    Return those of *rows* that the table does not have, each once, with their positions, in order.
    """
    by_id: dict[str, dict[str, Any]] = {}
    for row in rows:
        by_id.setdefault(row["message_id"], row)
    for message_id, row in by_id.items():
        uuid, time_ms = uuid_bytes(message_id), row["time_ms"]
        is_position = uuid is not None and time_of(uuid) == time_ms  # nearly always
        row["uuid"] = uuid
        row["position"] = uuid if is_position else position_of(message_id, time_ms)
    taken = _taken_positions(connection, by_id.values())
    # the clock of another may have been wrong before
    known_ids = _known_ids(connection, by_id) if any_message_id else set()
    new = []
    for message_id, row in by_id.items():
        if taken.get(row["uuid"], message_id) is None or message_id in known_ids:
            continue
        salt = 0
        while row["position"] in taken:  # by another event log
            salt += 1
            row["position"] = position_of(message_id, row["time_ms"], salt)
        taken[row["position"]] = message_id
        new.append(row)
    return sorted(new, key=itemgetter("position"))


def _taken_positions(
    connection: Connection, rows: Collection[dict[str, Any]]
) -> dict[bytes | None, str | None]:
    """
    Return which of the positions and UUIDs of *rows* are positions of the table, with the message
    id that is there, if it is not the position.
    """
    wanted = {row["position"] for row in rows} | {row["uuid"] for row in rows} - {None}
    column = event_logs.c
    columns = (column.position, column.message_id)
    if not wanted:
        return {}
    # mostly nothing is stored yet from the time of a batch
    near = connection.execute(
        select(*columns)
        .where(column.position.between(min(wanted), max(wanted)))
        .limit(_MOST_NEAR + 1)
    ).all()
    found: Iterable[Any] = near
    if len(near) > _MOST_NEAR:
        found = bulk.find(connection, column.position, wanted, *columns)
    return {bulk.as_key(position): message_id for position, message_id in found}


def _known_ids(connection: Connection, wanted: Collection[str]) -> set[str]:
    """
    Return those of *wanted* that the table has beside a position.
    """
    column = message_ids.c.message_id
    return {message_id for (message_id,) in bulk.find(connection, column, wanted, column)}


def _number_series(
    connection: Connection, rows: Iterable[dict[str, Any]], last: int, writes: bulk.Writes
) -> None:
    """
    Set the ``series_id`` of each row; add the series that are new, with numbers above *last*.
    """
    by_names: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        row["in_call"] = row["call_id"] is not None
        by_names.setdefault(_names_of(row), []).append(row)
    column = series.c
    by_key = {_series_key(names): names for names in by_names}
    ids = {
        bulk.as_key(key): number
        for key, number in bulk.find(connection, column.key, by_key, column.key, column.id)
    }
    if missing := [key for key in by_key if key not in ids]:
        ids |= zip(missing, count(last + 1))
        writes.insert(
            (column.id, column.key, *_NAMES),
            [(ids[key], key, *by_key[key]) for key in missing],
        )
    for key, names in by_key.items():
        for row in by_names[names]:
            row["series_id"] = ids[key]


@lru_cache(1024)
def _series_key(names: tuple[Any, ...]) -> bytes:
    return digest(encode(names))


def _summarize_calls(
    connection: Connection,
    rows: Iterable[dict[str, Any]],
    last: int,
    changes: Changes,
    writes: bulk.Writes,
) -> None:
    """
    Set the ``call`` of each row; add new calls, with numbers above *last*, and change the
    summaries of the others.
    """
    of_call: dict[tuple[bytes, bytes], list[dict[str, Any]]] = {}
    of_ids: dict[tuple[Any, ...], tuple[CallContext | None, list[dict[str, Any]]]] = {}
    for row in rows:
        body = row["body"]
        ids = (row["call_id"], *(body.get("call_stack") or ()))
        found = of_ids.get(ids)
        if found is None:
            context = CallContext.of(body)
            some = [] if context is None else of_call.setdefault(context.keys, [])
            found = of_ids[ids] = context, some
        row["context"], some = found
        some.append(row)
        row["call"] = None
    known = find_calls(connection, {keys[0] for keys in of_call})
    added, changed = [], []
    for keys, some in of_call.items():
        call = known.get(keys)
        before = None if call is None else call.summary
        after = summarize(before, map(Logged.of, some))
        if call is None:
            number = last = last + 1
            added.append((*_new_call(keys, some[0]), *after, number))
        else:
            number = call.id
            changed.append((*after, number))
        changes.change_call(before, after)
        for row in some:
            row["call"] = number
    writes.insert(_CALL, added)
    writes.update(CHANGED, changed)


def find_calls(
    connection: Connection, call_keys: Collection[bytes]
) -> dict[tuple[bytes, bytes], KnownCall]:
    """
    Return the calls that have one of *call_keys*, by both keys.
    """
    column = calls.c
    found = bulk.find(
        connection, column.call_key, call_keys, column.call_key, column.stack_key, column.id,
        *SUMMARY,
    )  # fmt: skip
    return {
        (bulk.as_key(key), bulk.as_key(stack)): KnownCall(number, read_summary(values))
        for key, stack, number, *values in found
    }


def read_summary(values: list[Any]) -> CallSummary:
    """
    Make a summary of the values of the columns `SUMMARY`.
    """
    (
        series_id, first, first_ms, last_ms, ended, is_captured, duration,
         outcome, severity, is_failed, number,
    ) = values  # fmt: skip
    return CallSummary(
        series_id, bulk.as_key(first), first_ms, last_ms,
        None if ended is None else bulk.as_key(ended), bool(is_captured), duration, outcome,
        severity, bool(is_failed), number,
    )  # fmt: skip


def _new_call(keys: tuple[bytes, bytes], row: Mapping[str, Any]) -> tuple[Any, ...]:
    origin, parent = row["origin_call_id"], row["parent_call_id"]
    return (
        *keys,
        encode(row["context"].stored),
        None if origin is None else call_key(origin),
        None if parent is None or parent == origin else call_key(parent),
    )


def _packed(row: dict[str, Any]) -> tuple[Any, ...]:
    packed, offset, rest = pack(row)
    body = encode(rest)
    message_id = None if row["uuid"] == row["position"] else row["message_id"]
    return (
        row["position"], row["series_id"], row["call"], packed, offset, message_id, body,
    )  # fmt: skip


def write_changes(
    connection: Connection, changes: Changes, writes: bulk.Writes
) -> list[tuple[Table, bulk.Rows]]:
    """
    Add *changes* to the tables of counts, with *writes*.

    Returns:
        The rows that are added, by table.
    """
    written: list[tuple[Table, bulk.Rows]] = []
    for table, counter in (
        (counts, changes.counts),
        (call_counts, changes.calls),
        (durations, _by_name(connection, changes)),
    ):
        rows = sorted((*key, number) for key, number in counter.items() if number)
        writes.add_numbers(tuple(table.c), rows)
        written.append((table, rows))
    return written


def _by_name(connection: Connection, changes: Changes) -> Mapping[tuple[Any, ...], int]:
    """
    Return the changes of durations by service and entrypoint in the place of series.
    """
    column = series.c
    names = changes.names
    wanted = {series_id for _, _, series_id, _ in changes.durations} - names.keys()
    names |= {
        number: tuple(names)
        for number, *names in bulk.find(
            connection, column.id, wanted, column.id, *(column[name] for name in _ENDPOINT)
        )
    }
    named: dict[tuple[Any, ...], int] = {}
    for (span, begin, series_id, bucket), number in changes.durations.items():
        service, entrypoint, in_call = names[series_id]
        if in_call:
            key = (span, begin, service, entrypoint or "", bucket)
            named[key] = named.get(key, 0) + number
    return named
