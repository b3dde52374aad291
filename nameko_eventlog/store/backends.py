"""
Backends: what the store asks of a kind of database.

`sql` is SQLite and PostgreSQL, `clickhouse` is ClickHouse. What does not depend on the database,
such as parameters, cursors and the shape of answers, is outside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from nameko_eventlog.limits import DISTINCT_NAMES
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.call_filters import CallFilters
from nameko_eventlog.store.databases import is_clickhouse, parse_address
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.expiry import Expiry, Plan
from nameko_eventlog.store.packing import CallContext
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.rules import Rule


@dataclass(slots=True)
class Taken:
    """
    Event logs that were read.

    Args:
        rows: The event logs.
        number: How many of the positions were read for them.
        size: How large their bodies are, in bytes as stored.
    """

    rows: list[EventLogRow]
    number: int
    size: int


class StoredCall(NamedTuple):
    """
    A call, as its summary tells it; the names are those of its first event log.
    """

    first: bytes
    first_ms: int
    ended: bytes | None
    duration: float | None
    outcome: int
    severity: int
    number: int
    context: CallContext
    service_name: str
    entrypoint_name: str | None
    entrypoint_protocol: str | None
    caller: str | None


class CallEnd(NamedTuple):
    """
    Where a page of calls ended: the last call's duration, and the position of its first event log.
    """

    duration: float | None
    first: bytes


class Reading(Protocol):
    """
    What a query reads: one state of the database, as far as the database has it so.

    Times are milliseconds since 1970, and groups of calls are (service, entrypoint, beginning of
    their span of time). Each method may raise what its backend turns into a `DatabaseError`.
    """

    def find(self, filters: Filters, order: str, limit: int, after: bytes | None) -> list[bytes]:
        """
        Return the positions of the first event logs, in order.

        Args:
            filters: Which event logs.
            order: One of `parameters.ORDERS`.
            limit: How many, at most.
            after: The position of the last event log of the page before.
        """

    def take(self, positions: Sequence[bytes], most_bytes: int) -> Taken:
        """
        Read the event logs at *positions*, in this order, while they are within bounds; at least
        one.
        """

    def get(self, message_id: str, most_bytes: int | None) -> EventLogRow | None:
        """
        Return an event log; a body of more bytes is left out.
        """

    def get_json(self, message_id: str) -> str | None:
        """
        Return the body of an event log as JSON.
        """

    def count(self, filters: Filters, group: str | int, limit: int) -> list[tuple[Any, int]]:
        """
        Count event logs.

        Args:
            filters: Which event logs.
            group: A column of names; or, for groups by time, their length in milliseconds.
            limit: How many groups, at most: the largest, or the latest.
        """

    def count_calls(
        self, filters: Filters, limit: int
    ) -> list[tuple[str | None, str, int, int, int]]:
        """
        Count the calls between services: caller, service, calls, failed calls, event logs.
        """

    def find_calls(
        self, wanted: CallFilters, order: str, limit: int, end: CallEnd | None
    ) -> Sequence[StoredCall]:
        """
        Return the first calls in order.
        """

    def count_outcomes(
        self, filters: Filters, bucket_ms: int | None
    ) -> Iterator[tuple[str, str | None, int, int, int]]:
        """
        Count calls: service, entrypoint, beginning of the span, outcome, number.
        """

    def count_durations(
        self, filters: Filters, bucket_ms: int | None
    ) -> Iterator[tuple[str, str | None, int, int, int]]:
        """
        Count durations: service, entrypoint, beginning of the span, histogram's bucket, number.
        """

    def names(self, column: str, prefix: str = "", most: int = DISTINCT_NAMES) -> list[str]:
        """
        Return the distinct values of a column of names, in order.
        """

    def is_seen(self, filters: Filters) -> bool:
        """
        Tell whether an event log has the names, or a call the ids, of *filters*.
        """

    def services(self, most: int) -> list[tuple[str, int, int]]:
        """
        Return the services that have event logs, with the times of the first and last.
        """

    def call_above(self, key: bytes) -> CallContext | None:
        """
        Return a call with an origin: the call with a key, or else one that it led to.
        """

    def positions_of_call(self, key: bytes, most: int) -> list[bytes]:
        """
        Return the first positions of a call's event logs that name no origin.
        """

    def positions_led_to(self, origins: Sequence[bytes], most: int) -> list[bytes]:
        """
        Return the first positions of the event logs of the calls with one of *origins*.
        """


class Reader(Protocol):
    """
    A connection that reads.
    """

    def reading(self) -> AbstractContextManager[Reading]:
        """
        Begin to read.

        Raises:
            DatabaseError: From the context, if the database cannot be used.
        """

    def close(self) -> None:
        """
        Close the connection.
        """


class RowRefused(Exception):
    """
    The database does not accept a row because of what it holds.
    """


class Writer(Protocol):
    """
    A connection that writes. Its methods raise `DatabaseError` if the database cannot be used.
    """

    problem: str | None
    """What keeps the database from preparing for the next days."""

    def prepare(self) -> None:
        """
        Create or migrate the tables, if needed, and prepare for the next days.
        """

    def insert(self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]) -> int:
        """
        Insert event logs and rejects, all or nothing; skip those that are there.

        Returns:
            How many event logs were inserted.

        Raises:
            RowRefused: One of them is not accepted.
        """

    def try_insert(
        self, rows: Sequence[dict[str, Any]], rejected: Sequence[dict[str, Any]]
    ) -> None:
        """
        Insert and take back, as far as the database can.
        """

    def close(self) -> None:
        """
        Close the connection.
        """


class RejectTable(Protocol):
    """
    The rejects of a database. Its methods raise `DatabaseError` if the database cannot be used.
    """

    def list(self, limit: int, with_bodies: bool) -> list[Any]:
        """
        Return the latest rejects.
        """

    def get(self, id: int) -> Any:  # noqa: A002
        """
        Return the reject with an id, or None.
        """

    def accept(self, id: int, row: dict[str, Any]) -> None:  # noqa: A002
        """
        Insert the event log that a reject became, and delete the reject.
        """

    def close(self) -> None:
        """
        Close the connections.
        """


class Purger(Protocol):
    """
    Deletes what is old. The iterators run a step each time, and raise `DatabaseError` if the
    database cannot be used.
    """

    def plan(self, rules: Sequence[Rule], now: int) -> Plan:
        """
        Find out what is too old at a time, in milliseconds since 1970.
        """

    def correct(self) -> Iterator[Counter[int]]:
        """
        Finish what an interrupted deletion has left.
        """

    def delete(self, expiry: Expiry) -> Iterator[Counter[int]]:
        """
        Delete what is too old: yield how much, by the number of the rule.
        """

    def purge(self, before: int, rule: Rule | None, step: int | None) -> Iterator[int]:
        """
        Delete what is from before a time: yield how much.

        Args:
            before: The time, in milliseconds since 1970.
            rule: Which event logs; None for all, and the rejects.
            step: How many rows a step deletes, at most, where steps are counted in rows.
        """

    def count_before(self, before: int, rule: Rule | None) -> int:
        """
        Count what `purge` would delete.
        """

    def close(self) -> None:
        """
        Close the connections.
        """


class Backend(Protocol):
    """
    A module that knows one kind of database.
    """

    Purger: Callable[[str], Purger]
    Reader: Callable[[str, Deadline], Reader]
    Rejects: Callable[[str], RejectTable]
    Writer: Callable[[str], Writer]
    probe: Callable[[str], None]
    try_tables: Callable[[str], str]


def backend_of(uri: str) -> Backend:
    """
    Return the backend for a database's address.

    Raises:
        DatabaseError: It is not an address of a supported database.
    """
    parse_address(uri)
    name = "clickhouse" if is_clickhouse(uri) else "sql"
    backend: Any = import_module(f"nameko_eventlog.store.{name}.backend")
    return backend  # type: ignore[no-any-return]
