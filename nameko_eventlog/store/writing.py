"""
Writing batches of messages, each in one transaction, or in several if it is very large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from kombu.serialization import registry
from sqlalchemy import Connection, event
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from nameko_eventlog import limits
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.describing import describe_value
from nameko_eventlog.store.databases import (
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.files import check_in_place
from nameko_eventlog.store.inserting import insert_event_logs, insert_rejects
from nameko_eventlog.store.migrating import Migration
from nameko_eventlog.store.partitions import DailyPartitions
from nameko_eventlog.store.rows import Unstorable, escape_unstorable, make_plain, make_row
from nameko_eventlog.store.times import now_ms


T = TypeVar("T")


@dataclass(slots=True)
class _Portion:
    """
    The rows and rejects of one transaction.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    messages: list[ReceivedMessage] = field(default_factory=list)
    """Those of the rows."""

    rejected: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def add(self, message: ReceivedMessage, accept: Collection[str], now: int) -> None:
        """
        Make *message* a row, or a reject.
        """
        try:
            row = make_row(message, accept, now)
        except Unstorable as exc:
            self.rejected.append(make_reject(message, str(exc), now))
            self.size += len(message.body)
            return
        self.rows.append(row)
        self.messages.append(message)
        self.size += max(len(message.body), message.decoded_weight)


class EventLogWriter:
    """
    Writes to one database, whose tables it creates or migrates before the first row.

    Args:
        uri: The database's address.
        accept: The content types that may be decoded, or the names of kombu's serializers.
        counts: Where rows and duplicates are counted.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """

    def __init__(
        self, uri: str, accept: Collection[str], counts: StoreCounts | None = None
    ) -> None:
        self._counts = StoreCounts() if counts is None else counts
        self._engine = open_engine(uri, writes=True)
        self._migration = Migration(self._engine)
        is_postgresql = self._engine.dialect.name == "postgresql"
        self.partitions = DailyPartitions(self._engine) if is_postgresql else None
        """PostgreSQL's partitions."""
        self._accept = content_types(accept)
        self._is_migrated = False
        self._connections = 0
        # the new connection may be to another file, or to a server that was set up again
        event.listen(self._engine, "connect", self._forget)

    def prepare(self) -> None:
        """
        Create or migrate the tables, if needed, and add partitions for the next days.

        Raises:
            DatabaseError: If the database cannot be used.
        """
        with database_errors(self._engine.url), self._engine.connect() as connection:
            check_in_place(connection)
        if not self._is_migrated:
            self._migration.run()
            self._is_migrated = True
            if self.partitions is not None:
                self.partitions.forget()
        if self.partitions is not None:
            with database_errors(self._engine.url):
                self.partitions.add()

    def _forget(self, *_: Any) -> None:
        self._is_migrated = False
        self._connections += 1

    def write(self, messages: Sequence[ReceivedMessage]) -> list[str]:
        """
        Write *messages*, each as a row or as a reject.

        Returns:
            The reasons for the rejects.

        Raises:
            DatabaseError: If the database cannot be used now; some messages may be written.
        """
        self.prepare()
        reasons: list[str] = []
        while messages:
            number, some = self.write_first(messages)
            reasons += some
            messages = messages[number:]
        return reasons

    def write_first(self, messages: Sequence[ReceivedMessage]) -> tuple[int, list[str]]:
        """
        Write the first of *messages*, as many as one transaction takes.

        Returns:
            How many, and the reasons for the rejects among them.

        Raises:
            DatabaseError: If the database cannot be used now; some messages may be written.
        """
        self.prepare()
        now = now_ms()
        portion = _Portion()
        number = 0
        for message in messages:
            portion.add(message, self._accept, now)
            number += 1
            if portion.size >= limits.TRANSACTION_BYTES:
                break
        return number, self._repeat_if_closed(partial(self._try_to_write, portion, now))

    def try_write(self, messages: Sequence[ReceivedMessage]) -> None:
        """
        Write *messages*, and roll back.

        Raises:
            DatabaseError: If the database does not accept them now.
        """
        self.prepare()
        now = now_ms()
        portion = _Portion()
        for message in messages:
            portion.add(message, self._accept, now)
            if portion.size >= limits.TRANSACTION_BYTES:
                break
        with database_errors(self._engine.url):
            try:
                with self._engine.connect() as connection:  # rolls back when it closes
                    insert_event_logs(connection, portion.rows)
                    insert_rejects(connection, portion.rejected)
            except StatementError as exc:
                if not _is_about_a_row(exc):
                    raise

    def write_rows(self, rows: Sequence[dict[str, Any]]) -> tuple[int, list[tuple[int, str]]]:
        """
        Write rows that `make_row` could have made, in one transaction.

        If the database refuses one of them, each is written in its own transaction.

        Returns:
            How many are new; and the index of each that the database refuses, with the reason.

        Raises:
            DatabaseError: If the database cannot be used now; some rows may be written.
        """
        self.prepare()
        return self._repeat_if_closed(partial(self._try_to_write_rows, rows))

    def close(self) -> None:
        """
        Close the connection.
        """
        close_engine(self._engine)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """
        Run a transaction, and check that it was committed to the file at the database's path.
        """
        with self._engine.connect() as connection:
            try:
                with connection.begin():
                    yield connection
            except DBAPIError as exc:
                if _is_about_connection(exc):
                    connection.invalidate()
                raise
            check_in_place(connection)

    def _repeat_if_closed(self, write: Callable[[], T]) -> T:
        """
        Call *write*; if the connection turns out to be closed, repeat it over a new one.

        An idle connection may have been closed by the server, a connection pool or a failover,
        which only the next statement shows. If the first attempt was committed after all, the
        second one writes nothing twice.
        """
        connections = self._connections
        with database_errors(self._engine.url):
            try:
                return write()
            except DBAPIError as exc:
                if self._connections != connections or not _is_about_connection(exc):
                    raise
            self.prepare()
            return write()

    def _try_to_write(self, portion: _Portion, now: int) -> list[str]:
        rows, rejected = portion.rows, portion.rejected
        try:
            with self._transaction() as connection:
                inserted = insert_event_logs(connection, rows)
                insert_rejects(connection, rejected)
            self._count(inserted, len(rows))
        except StatementError as exc:
            if not _is_about_a_row(exc):
                raise
            rejected = self._write_singly(portion, now)
        return [reject["reason"] for reject in rejected]

    def _write_singly(self, portion: _Portion, now: int) -> list[dict[str, Any]]:
        rejected = list(portion.rejected)
        for row, message in zip(portion.rows, portion.messages, strict=True):
            try:
                with self._transaction() as connection:
                    inserted = insert_event_logs(connection, [row])
                self._count(inserted, 1)
            except StatementError as exc:
                if not _is_about_a_row(exc):
                    raise
                rejected.append(make_reject(message, f"the database: {exc.orig or exc}", now))
        with self._transaction() as connection:
            insert_rejects(connection, rejected)
        return rejected

    def _try_to_write_rows(
        self, rows: Sequence[dict[str, Any]]
    ) -> tuple[int, list[tuple[int, str]]]:
        try:
            with self._transaction() as connection:
                return insert_event_logs(connection, rows), []
        except StatementError as exc:
            if not _is_about_a_row(exc):
                raise
        number = 0
        refused = []
        for index, row in enumerate(rows):
            try:
                with self._transaction() as connection:
                    number += insert_event_logs(connection, [row])
            except StatementError as exc:
                if not _is_about_a_row(exc):
                    raise
                refused.append((index, f"the database: {exc.orig or exc}"))
        return number, refused

    def _count(self, inserted: int, number: int) -> None:
        self._counts.rows += inserted
        self._counts.duplicates += number - inserted


def has_id(message: ReceivedMessage) -> bool:
    """
    Tell whether *message* has an id, which identifies it however often it is delivered.
    """
    return message.properties.get("message_id") not in (None, "")


def content_types(accept: Collection[str]) -> frozenset[str]:
    """
    Return *accept*, and the content types of the kombu serializers that it names.
    """
    names = registry.name_to_type
    return frozenset(accept) | {names[name] for name in accept if name in names}


def make_reject(message: ReceivedMessage, reason: str, now: int) -> dict[str, Any]:
    """
    Make a row of the table of rejects: the complete message.
    """
    message_id = message.properties.get("message_id")
    described: dict[str, Any] = {
        "unreadable": escape_unstorable(describe_value(message.properties))
    }
    with suppress(Exception):  # nested too deeply, for example
        described = make_plain(
            {
                **message.properties,
                "content_type": message.content_type,
                "content_encoding": message.content_encoding,
                "headers": message.headers,
            }
        )
    digest = hashlib.sha256(message.body)
    identity = message_id if has_id(message) else message.nonce
    for part in (identity, message.exchange, message.routing_key, message.content_type):
        text = repr(part) if isinstance(part, (str, bytes)) else describe_value(part)
        digest.update(b"\0" + text.encode(errors="backslashreplace"))
    return {
        "rejected_ms": now,
        "reason": escape_unstorable(reason[:1000]),
        "digest": digest.hexdigest(),
        "message_id": None if message_id is None else escape_unstorable(_as_text(message_id)),
        "exchange": escape_unstorable(message.exchange),
        "routing_key": escape_unstorable(message.routing_key),
        "properties": described,
        "body": message.body,
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else describe_value(value)


def _is_about_a_row(exc: StatementError) -> bool:
    """
    Tell whether the row is at fault: classes 22, 23 and 54 of SQLSTATE.
    """
    if not isinstance(exc, DBAPIError) or isinstance(exc, (DataError, IntegrityError)):
        return True
    return str(getattr(exc.orig, "pgcode", None) or "")[:2] in ("22", "23", "54")


def _is_about_connection(exc: DBAPIError) -> bool:
    """
    Tell whether a new connection may work: this one is closed, or leads to a standby.
    """
    state = str(getattr(exc.orig, "pgcode", None) or "")
    return exc.connection_invalidated or state.startswith(("08", "25006", "57P"))
