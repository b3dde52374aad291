"""
Batches of messages into the tables, each in one transaction, or in some if it is very large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from kombu.serialization import registry
from sqlalchemy import (
    Connection,
    CursorResult,
    Engine,
    Insert,
    Table,
    bindparam,
    column,
    event,
    false,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from nameko_eventlog import limits
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.describing import describe_value
from nameko_eventlog.store.databases import (
    close_engine,
    database_errors,
    encode_body,
    open_engine,
)
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.files import check_in_place
from nameko_eventlog.store.migrating import Migration
from nameko_eventlog.store.rows import Unstorable, escape_unstorable, make_plain, make_row
from nameko_eventlog.store.schema import event_logs, rejects
from nameko_eventlog.store.times import now_ms


@dataclass(slots=True)
class _Portion:
    """
    What is written in one transaction.
    """

    rows: list[tuple[dict[str, Any], ReceivedMessage]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def add(self, message: ReceivedMessage, accept: Collection[str], now: int) -> None:
        """
        Decode *message* for a row, or for a reject.
        """
        try:
            row = make_row(message, accept, now)
        except Unstorable as exc:
            self.rejected.append(make_reject(message, str(exc), now))
            self.size += len(message.body)
            return
        self.rows.append((row, message))
        self.size += max(len(message.body), message.decoded_weight)


class EventLogWriter:
    """
    Writes to one database; the tables are made, or migrated, before the first row.

    Args:
        uri: The database's address.
        accept: The content types, or the names of kombu's serializers, that may be decoded.
        counts: Where rows and duplicates are counted.

    Raises:
        DatabaseError: If *uri* is no address of a database that can be used.
    """

    def __init__(
        self, uri: str, accept: Collection[str], counts: StoreCounts | None = None
    ) -> None:
        self._counts = StoreCounts() if counts is None else counts
        self._engine = open_engine(uri, writes=True)
        self._migration = Migration(self._engine)
        self._accept = content_types(accept)
        self._is_migrated = False
        self._connections = 0
        # it may be another file, or a server that was set up anew
        event.listen(self._engine, "connect", self._forget)

    def prepare(self) -> None:
        """
        Make the tables, or bring them to this version.

        Raises:
            DatabaseError: If the database cannot be used.
        """
        with database_errors(self._engine.url), self._engine.connect() as connection:
            check_in_place(connection)
        if not self._is_migrated:
            self._migration.run()
            self._is_migrated = True

    def _forget(self, *_: Any) -> None:
        self._is_migrated = False
        self._connections += 1

    def write(self, messages: Sequence[ReceivedMessage]) -> list[str]:
        """
        Write *messages*: each is a row, or a reject, when this returns.

        Returns:
            The reasons of those that were rejected.

        Raises:
            DatabaseError: If the database cannot be used now; some of them may be there.
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
        Write as many of *messages* as one transaction takes, the first ones.

        Returns:
            How many, and the reasons of those that were rejected.

        Raises:
            DatabaseError: If the database cannot be used now; some of them may be there.
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
        return number, self._write(portion, now)

    def try_write(self, messages: Sequence[ReceivedMessage]) -> None:
        """
        Write *messages* and take it back.

        Raises:
            DatabaseError: If the database would not take them now.
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
                with self._engine.connect() as connection:  # which commits nothing by itself
                    insert(connection, event_logs, [row for row, _ in portion.rows])
                    insert(connection, rejects, portion.rejected)
            except StatementError as exc:
                if not _is_about_a_row(exc):
                    raise

    def close(self) -> None:
        """
        Close the connection.
        """
        close_engine(self._engine)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """
        Begin a transaction, which has ended in the file that is at its path when this has ended.
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

    def _write(self, portion: _Portion, now: int) -> list[str]:
        """
        Write *portion*, if need be over a new connection.

        A kept connection may have been closed while it was idle, by the server, a pool in between
        or a failover, and only the next statement tells. Whatever became of it, what is written
        twice is there once.
        """
        connections = self._connections
        with database_errors(self._engine.url):
            try:
                return self._try_to_write(portion, now)
            except DBAPIError as exc:
                if self._connections != connections or not _is_about_connection(exc):
                    raise
            self.prepare()
            return self._try_to_write(portion, now)

    def _try_to_write(self, portion: _Portion, now: int) -> list[str]:
        rows, rejected = portion.rows, portion.rejected
        # one order for all writers: two that have the same rows do not wait for each other
        rows.sort(key=lambda pair: pair[0]["message_id"])
        try:
            with self._transaction() as connection:
                inserted = insert(connection, event_logs, [row for row, _ in rows])
                insert(connection, rejects, rejected)
            self._count(inserted, len(rows))
        except StatementError as exc:
            if not _is_about_a_row(exc):
                raise
            rejected = self._write_singly(rows, rejected, now)
        return [reject["reason"] for reject in rejected]

    def _write_singly(
        self,
        rows: list[tuple[dict[str, Any], ReceivedMessage]],
        rejected: list[dict[str, Any]],
        now: int,
    ) -> list[dict[str, Any]]:
        rejected = list(rejected)
        for row, message in rows:
            try:
                with self._transaction() as connection:
                    inserted = insert(connection, event_logs, [row])
                self._count(inserted, 1)
            except StatementError as exc:
                if not _is_about_a_row(exc):
                    raise
                rejected.append(make_reject(message, f"the database: {exc.orig or exc}", now))
        with self._transaction() as connection:
            insert(connection, rejects, rejected)
        return rejected

    def _count(self, inserted: int, number: int) -> None:
        self._counts.rows += inserted
        self._counts.duplicates += number - inserted


class Probe:
    """
    Asks whether a database lets somebody begin to write, over a connection made for the question.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri

    def __call__(self) -> bool:
        """
        Ask.

        Raises:
            DatabaseError: It does not.
        """
        engine: Engine = open_engine(self._uri, writes=True, deadline=Deadline(5))
        try:
            with database_errors(engine.url), engine.begin() as connection:
                connection.exec_driver_sql("SELECT 1")
        finally:
            close_engine(engine)
        return True


def try_tables(uri: str) -> str:
    """
    Write no row to either table: there they are, and may be written by who asks.

    Returns:
        What the store does about them at its start, in words.

    Raises:
        DatabaseError: They are not, or may not; or the database takes no writes now.
    """
    engine: Engine = open_engine(uri, writes=True, deadline=Deadline(5))
    try:
        migration = Migration(engine)
        does = migration.try_write()
        if not migration.is_current:
            return does
        with database_errors(engine.url), engine.begin() as connection:
            for table in (event_logs, rejects):
                names = [one.name for one in table.columns]
                nothing = select(table).where(false())
                connection.execute(table.insert().from_select(names, nothing))
        return does
    finally:
        close_engine(engine)


class RefusedBatchProbe:
    """
    Asks whether a database takes what it has refused, over a connection made for the question.

    One that answers may take no writes, or take a small one on a disk that is full. So what was
    refused is written, as much of it as one transaction takes: it is known by its message ids when
    it is delivered again. What has none is written and taken back.

    Args:
        uri: The database's address.
        accept: The content types that may be decoded.
        refused: The batch.
        counts: Where rows and duplicates are counted.
    """

    def __init__(
        self,
        uri: str,
        accept: Collection[str],
        refused: Sequence[ReceivedMessage],
        counts: StoreCounts | None = None,
    ) -> None:
        self._writer = EventLogWriter(uri, accept, counts)
        self._refused = refused

    def __call__(self) -> bool:
        """
        Ask.

        Raises:
            DatabaseError: It does not.
        """
        try:
            self._writer.try_write([one for one in self._refused if not has_id(one)])
            self._writer.write_first([one for one in self._refused if has_id(one)])
        finally:
            self._writer.close()
        return True


def has_id(message: ReceivedMessage) -> bool:
    """
    Tell whether its sender has given *message* an id: what it is known by, however often it comes.
    """
    return message.properties.get("message_id") not in (None, "")


def content_types(accept: Collection[str]) -> frozenset[str]:
    """
    Return the content types for the names of kombu's serializers, with the names.
    """
    names = registry.name_to_type
    return frozenset(accept) | {names[name] for name in accept if name in names}


def insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> int:
    """
    Insert *rows*; one whose key is there already is left out.

    Returns:
        How many were inserted, of event logs.
    """
    if not rows:
        return 0
    is_postgresql = connection.dialect.name == "postgresql"
    result: CursorResult[Any]
    if table is not event_logs:
        dialect = postgresql if is_postgresql else sqlite
        result = connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)
    elif is_postgresql:
        result = connection.execute(_AS_ONE_DOCUMENT, {"rows": rows})
    else:
        values = [(*_but_the_body(row), encode_body(row["body"])) for row in rows]
        result = connection.exec_driver_sql(_OF_SQLITE, values)
    return max(result.rowcount, 0)


def _as_one_document() -> Insert:
    """
    Make the statement that takes all rows as one JSON document: twice as fast as a list of values.
    """
    row = (
        func.jsonb_to_recordset(bindparam("rows", type_=postgresql.JSONB))
        .table_valued(*(column(one.name, one.type) for one in event_logs.c))
        .render_derived(name="row", with_types=True)
    )
    names = [one.name for one in event_logs.c]
    return (
        postgresql.insert(event_logs)
        .from_select(names, select(*(row.c[name] for name in names)))
        .on_conflict_do_nothing()
    )


_AS_ONE_DOCUMENT = _as_one_document()


def _of_sqlite() -> str:
    """
    Make the statement whose values need nothing of SQLAlchemy, which takes a fifth of the time.
    """
    statement = sqlite.insert(event_logs).on_conflict_do_nothing()
    return str(statement.compile(dialect=sqlite.dialect()))


_OF_SQLITE = _of_sqlite()

_but_the_body = itemgetter(*[column.name for column in event_logs.c if column.name != "body"])


def make_reject(message: ReceivedMessage, reason: str, now: int) -> dict[str, Any]:
    """
    Make a row of the table of rejects: the message with nothing left out.
    """
    message_id = message.properties.get("message_id")
    described: dict[str, Any] = {
        "unreadable": escape_unstorable(describe_value(message.properties))
    }
    with suppress(Exception):  # nested too deep, for one
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
    Tell whether another row would have been taken: classes 22, 23 and 54 of SQLSTATE.
    """
    if not isinstance(exc, DBAPIError) or isinstance(exc, (DataError, IntegrityError)):
        return True
    return str(getattr(exc.orig, "pgcode", None) or "")[:2] in ("22", "23", "54")


def _is_about_connection(exc: DBAPIError) -> bool:
    """
    Tell whether another connection may do: this one has been closed, or leads to a standby.
    """
    state = str(getattr(exc.orig, "pgcode", None) or "")
    return exc.connection_invalidated or state.startswith(("08", "25006", "57P"))
