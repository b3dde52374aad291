"""
Writing to ClickHouse.

There are no transactions. A batch goes into all tables by one insert, and what arrives again after
a failure is inserted again, which changes nothing: see `schema`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

from sqlalchemy import func, select

from nameko_eventlog.store.answers import ENTRYPOINT_FAILED, FAILURE_LEVELS
from nameko_eventlog.store.backends import RowRefused
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.migrating import create_tables
from nameko_eventlog.store.clickhouse.schema import (
    NO_KEY,
    event_logs,
    message_ids,
    rejects,
)
from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.levels import level_number
from nameko_eventlog.store.outcomes import OUTCOMES, duration_of, is_captured_end, outcome_of
from nameko_eventlog.store.packing import CallContext, call_key, pack
from nameko_eventlog.store.portions import portions
from nameko_eventlog.store.positions import digest, position_of, uuid_bytes


_AT_ONCE = 10_000  # values of a condition

_MOST_NEAR = 1_000
"""Above so many rows in the time of a batch, each of its event logs is looked up."""

_NAMES = (
    "service_name", "entrypoint_protocol", "entrypoint_name", "caller", "event_type", "level",
    "time_note",
)  # fmt: skip
_names_of = itemgetter(*_NAMES)

_ARRIVING = (
    "position", "series_id", "call", "packed", "time_offset", "message_id", "body", "ending",
    "duration", "call_key", "origin_key", "parent_key", "context", "severity", "is_failure",
)  # fmt: skip

_CAPTURED = 8

Stored = dict[tuple[bytes, str], tuple[int, bytes, str]]
"""By position and message id: the series, the call and the body."""


class ClickHouseWriter:
    """
    Implements `backends.Writer`.

    Args:
        uri: The database's address.
    """

    problem: str | None = None

    def __init__(self, uri: str) -> None:
        self.connection = Connection(uri)
        self._is_prepared = False
        self._series: dict[tuple[Any, ...], int] = {}

    def prepare(self) -> None:
        """
        Create the tables that are missing.
        """
        if self._is_prepared:
            return
        with self.connection.errors():
            create_tables(self.connection)
        self._series.clear()
        self._is_prepared = True

    def insert(self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> int:
        """
        Insert event logs and rejects; those that are there change nothing.
        """
        try:
            with self.connection.errors():
                placed, stored = self._place(rows)
                if placed:
                    self._insert_series(placed)
                    self._insert(placed, stored)
                self._insert_rejects(rejected)
                return len(placed) - len(stored)
        except RowRefused:
            raise
        except BaseException:
            self._is_prepared = False  # it may be another server the next time
            raise

    def try_insert(
        self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]
    ) -> None:
        """
        Ask for the tables: what is inserted cannot be taken back.
        """
        with self.connection.errors():
            self.connection.command("INSERT INTO arriving SELECT * FROM arriving WHERE 0")

    def close(self) -> None:
        """
        Close the connection.
        """
        self.connection.close()

    def _place(self, rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], Stored]:
        """
        Return *rows*, each once, with their positions, in order; and what the table has of them.
        """
        by_id: dict[str, dict[str, Any]] = {}
        for row in rows:
            by_id.setdefault(row["message_id"], row)
        if not by_id:
            return [], {}
        for message_id, row in by_id.items():
            row["uuid"] = uuid_bytes(message_id)
            row["position"] = position_of(message_id, row["time_ms"])
        self._place_odd(by_id)
        stored = self._stored([row["position"] for row in by_id.values()])
        own = {
            (row["position"], message_id if _is_odd(row) else "")
            for message_id, row in by_id.items()
        }
        ordered = sorted(by_id.values(), key=itemgetter("position"))
        return ordered, {key: stored[key] for key in own & stored.keys()}

    def _place_odd(self, by_id: dict[str, dict[str, Any]]) -> None:
        """
        Give a position of its own to each row whose message id is none, and record it.
        """
        if not self._has_odd() and not any(map(_is_odd, by_id.values())):
            return
        known = self._known(by_id, [row["position"] for row in by_id.values()])
        owners = {position: message_id for message_id, position in known.items()}
        for message_id, row in by_id.items():
            salt = 0
            row["position"] = known.get(message_id, row["position"])
            while owners.setdefault(row["position"], message_id) != message_id:
                salt += 1
                row["position"] = position_of(message_id, row["time_ms"], salt)
        fresh = {one: row for one, row in by_id.items() if _is_odd(row) and one not in known}
        if not fresh:
            return
        positions = [row["position"] for row in fresh.values()]
        self.connection.insert("message_ids", {"message_id": list(fresh), "position": positions})
        # another writer may have recorded the same just before
        known = self._known(fresh, positions)
        for message_id, row in fresh.items():
            row["position"] = known[message_id]

    def _has_odd(self) -> bool:
        return bool(self.connection.execute(select(message_ids.c.position).limit(1)))

    def _known(self, message_ids_: Iterable[str], positions: Sequence[bytes]) -> dict[str, bytes]:
        """
        Return the message ids that are no positions, with theirs: of each the first that was
        written. These and those that have one of *positions* are looked up.
        """
        column = message_ids.c
        position = func.argMin(column.position, column.written, type_=column.position.type)
        found: dict[str, bytes] = {}
        for which, values in (
            (column.message_id, list(message_ids_)),
            (column.position, positions),
        ):
            for some in portions(values, _AT_ONCE):
                statement = (
                    select(column.message_id, position)
                    .where(which.in_(some))
                    .group_by(column.message_id)
                )
                found |= {one: bytes(at) for one, at in self.connection.execute(statement)}
        return found

    def _stored(self, positions: list[bytes]) -> Stored:
        """
        Return what is stored at *positions*.
        """
        column = event_logs.c
        columns = select(
            column.position, column.message_id, column.series_id, column.call, column.body
        )
        # mostly nothing is stored yet from the time of a batch
        near = columns.where(column.position.between(min(positions), max(positions)))
        found = self.connection.execute(near.limit(_MOST_NEAR + 1))
        if len(found) > _MOST_NEAR:
            found = [
                one
                for some in portions(positions, _AT_ONCE)
                for one in self.connection.execute(columns.where(column.position.in_(some)))
            ]
        return {
            (bytes(position), message_id): (series_id, bytes(call), body)
            for position, message_id, series_id, call, body in found
        }

    def _insert_series(self, rows: Iterable[dict[str, Any]]) -> None:
        """
        Set the ``series_id`` of each row, and insert the series that this writer does not know.
        """
        new: dict[int, tuple[Any, ...]] = {}
        for row in rows:
            values = (*_names_of(row), row["call_id"] is not None)
            number = self._series.get(values)
            if number is None:
                number = _number(values)
                new[number] = values
            row["series_id"] = number
        if new:
            columns = zip(*new.values(), strict=True)
            names = dict(zip((*_NAMES, "in_call"), map(list, columns), strict=True))
            of_level = [_severity(level) for level in names["level"]]
            pairs = zip(names["level"], names["event_type"], strict=True)
            self.connection.insert(
                "series",
                {
                    "id": list(new), **names, "severity": of_level,
                    "is_failure": [_is_failure(*pair) for pair in pairs],
                },
            )  # fmt: skip
            self._series |= {values: number for number, values in new.items()}

    def _insert(self, rows: Sequence[dict[str, Any]], stored: Stored) -> None:
        """
        Insert event logs that are not stored; and again those that are stored just so, because an
        insert that failed may have left them in one table alone.
        """
        calls = _Calls()
        inserted = []
        for row in rows:
            values = _values(row, calls)
            position, series_id, call, _, _, message_id, body, *_ = values
            what = (series_id, call, body)
            if stored.get((position, message_id), what) == what:
                inserted.append(values)
        if inserted:
            columns = zip(*inserted, strict=True)
            self.connection.insert("arriving", dict(zip(_ARRIVING, columns, strict=True)))

    def _insert_rejects(self, rejected: Sequence[dict[str, Any]]) -> None:
        if not rejected:
            return
        digests = [row["digest"] for row in rejected]
        column = rejects.c
        known = self.connection.execute(select(column.digest).where(column.digest.in_(digests)))
        new = {row["digest"]: row for row in rejected}
        for (one,) in known:
            new.pop(one, None)
        if not new:
            return
        last = self.connection.scalar(select(func.max(column.id))) or 0
        rows = list(new.values())
        self.connection.insert(
            "rejects",
            {
                "id": [last + 1 + at for at in range(len(rows))],
                **{
                    name: [row[name] for row in rows]
                    for name in ("rejected_ms", "reason", "digest", "message_id", "exchange",
                                 "routing_key", "body")
                },
                "properties": [encode(row["properties"]) for row in rows],
            },
        )  # fmt: skip


def _is_odd(row: dict[str, Any]) -> bool:
    """
    Tell whether a row's message id is not its position.
    """
    return bool(row["position"] != row["uuid"])


def _number(values: tuple[Any, ...]) -> int:
    """
    Return the number of a series: the same for all writers, without asking the database.
    """
    return int.from_bytes(digest(encode(values))[:8], "big") >> 1


def _severity(level: str | None) -> int:
    return 0 if level is None else level_number(level) or 0


def _is_failure(level: str | None, event_type: str) -> bool:
    return level in FAILURE_LEVELS or event_type == ENTRYPOINT_FAILED


def _values(row: dict[str, Any], calls: _Calls) -> tuple[Any, ...]:
    """
    Return the values of `_ARRIVING`.
    """
    body = row["body"]
    context = row["context"] = CallContext.of(body)
    packed, offset, rest = pack(row)
    level, event_type = row["level"], row["event_type"]
    duration = duration_of(body)
    ending = 0
    if duration is not None:
        ending = 1 + OUTCOMES.index(outcome_of(body))
        ending += _CAPTURED if is_captured_end(event_type) else 0
    call, key, origin, parent, stored = calls.columns(context, row)
    return (
        row["position"],
        row["series_id"],
        call,
        int(packed),
        offset,
        "" if row["uuid"] == row["position"] else row["message_id"],
        encode(rest),
        ending,
        duration or 0.0,
        key,
        origin,
        parent,
        stored,
        _severity(level),
        _is_failure(level, event_type),
    )


class _Calls:
    """
    What the table has of calls; a batch has several event logs of most.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[bytes, bytes, bytes, bytes, str]] = {}

    def columns(
        self, context: CallContext | None, row: dict[str, Any]
    ) -> tuple[bytes, bytes, bytes, bytes, str]:
        """
        Return a call's id, its keys (its own, its origin's, its parent's), and its context.
        """
        if context is None:
            return NO_KEY, NO_KEY, NO_KEY, NO_KEY, ""
        of = (context.call_id, context.is_complete, *context.call_stack)
        known = self._known.get(of)
        if known is None:
            known = self._known[of] = self._columns(context, row)
        return known

    @staticmethod
    def _columns(
        context: CallContext, row: dict[str, Any]
    ) -> tuple[bytes, bytes, bytes, bytes, str]:
        key, stack = context.keys
        origin, parent = row["origin_call_id"], row["parent_call_id"]
        return (
            digest((key + stack).hex()),
            key,
            NO_KEY if origin is None else call_key(origin),
            NO_KEY if parent is None or parent == origin else call_key(parent),
            encode(context.stored),
        )
