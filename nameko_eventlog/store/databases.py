"""
Connections to the databases that keep event logs: SQLite and PostgreSQL.

An engine is used by one thread at a time. Where green threads are about, that is a thread of
``eventlet.tpool``, and nothing that runs there takes a lock that a green thread may hold, for it
would never be woken: the engine's loggers are off, and its pool has one connection that nobody
else asks for. It is opened elsewhere, since SQLAlchemy's ``getLogger`` takes the lock of the
whole ``logging`` module.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import msgspec
from eventlet import patcher
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nameko_eventlog.addresses import check_quoted, masked, masked_text
from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.exceptions import EventLogError
from nameko_eventlog.extras import extra
from nameko_eventlog.store import files, jsonb, matching, sqlite_files
from nameko_eventlog.store.deadlines import Deadline, TimeUp
from nameko_eventlog.store.waiting import Connection


BUSY_SECONDS = 30.0
"""For how long SQLite waits for another writer."""

CONNECT_SECONDS = 5
"""For how long PostgreSQL is waited for."""

_CACHE_KIB = 64 * 1024
"""
What a reader of SQLite keeps of the file in memory, at the most: a day of 86,400 rows. With
SQLite's own 2 MiB each question reads such a day again, and takes a quarter more time.
"""

_STEPS = 2_000  # of SQLite's machine, some rows, between two looks at the clock

_FRESH = 0.9  # of the time: while so much is left, PostgreSQL need not be told how much

_time = patcher.original("time")


class DatabaseError(EventLogError):
    """
    The database cannot be used now; the text names it and says why.

    Args:
        message: The text. The database's address is in it without secrets.
        reason: Why, in a sentence in which nothing of the address is, for those who may see the
            event logs but need not know where they are kept.
    """

    def __init__(
        self, message: str, *, reason: str = "The database cannot be used at the moment."
    ) -> None:
        super().__init__(message)
        self.reason = reason


def shown_address(url: URL) -> str:
    """
    Return the database's address without its password.
    """
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    # as it is configured: the driver is ours
    return masked(url.set(drivername="postgresql").render_as_string(hide_password=True))


def parse_uri(uri: str) -> URL:
    """
    Read a database's address.

    Raises:
        ValueError: With what was expected, if it is not one of SQLite's or PostgreSQL's.
    """
    expected = f"{sqlite_files.EXPECTED} or postgresql://USER:PASSWORD@HOST/DATABASE"
    path = sqlite_files.file_of(uri)
    if path is not None:
        return URL.create("sqlite", database=path)
    if uri in ("sqlite://", "sqlite+pysqlite://"):
        raise ValueError(f"{sqlite_files.EXPECTED}: what is kept in memory ends with the process")
    try:
        check_quoted(uri)
    except ValueError as exc:
        raise ValueError(f"{expected}; {exc}") from None
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):  # the latter, if the port is no number
        raise ValueError(expected) from None
    if url.drivername not in ("postgresql", "postgresql+psycopg2"):
        raise ValueError(expected)
    _check_parameters(url, masked(uri))
    return url.set(drivername="postgresql+psycopg2")  # which driver is meant, changes


def _check_parameters(url: URL, text: str) -> None:
    if not url.query:
        return
    with extra("store"):
        from psycopg2 import ProgrammingError
        from psycopg2.extensions import make_dsn
    for name in url.query:
        try:
            make_dsn(**{name: "1"})
        except (ProgrammingError, TypeError):
            # what stands behind a secret may be part of it
            which = f"the parameter {name!r}" if f"{name}=" in text else "parameters"
            raise ValueError(
                f"postgresql://USER:PASSWORD@HOST/DATABASE without {which}, unknown to libpq"
            ) from None


def open_engine(uri: str, *, writes: bool = False, deadline: Deadline | None = None) -> Engine:
    """
    Make an engine with one connection, which is opened when it is first used.

    Args:
        uri: The database's address.
        writes: Whether transactions take SQLite's write lock when they begin.
        deadline: When a transaction is given up; None for never.

    Raises:
        DatabaseError: If *uri* is no address of a database that can be used.
    """
    try:
        url = parse_uri(uri)
    except ValueError as exc:
        raise DatabaseError(
            f"{masked(uri)!r} is no database for event logs; use {exc}",
            reason="The address of the database is wrong.",
        ) from None
    is_sqlite = url.get_backend_name() == "sqlite"
    connect_args: dict[str, Any]
    if is_sqlite:
        busy_seconds = BUSY_SECONDS if deadline is None else min(BUSY_SECONDS, deadline.seconds)
        connect_args = {"timeout": busy_seconds, "check_same_thread": False}
    else:
        connect_args = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "nameko-eventlog",
            "client_encoding": "utf8",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            "connection_factory": Connection,
        }
    options: dict[str, Any] = {"connect_args": connect_args}
    if is_sqlite and not writes:
        path = os.path.abspath(str(url.database))  # else SQLite may take file: for its own
        options = {"creator": partial(sqlite_files.connect_for_reading, path, busy_seconds)}
    with extra("store"):  # the driver's
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=not writes,  # else the first question after PostgreSQL's restart fails
            json_serializer=encode_body,
            json_deserializer=decode_json if is_sqlite else jsonb.decode,
            logging_name="nameko_eventlog",
            pool_logging_name="nameko_eventlog",
            **options,
        )
    for silent in (engine, engine.pool):
        silent.logger.disabled = True  # type: ignore[union-attr]
    if is_sqlite:
        if writes:
            _make_private(engine)
        _set_up_sqlite(engine, writes, busy_seconds, deadline)
        if not writes:
            sqlite_files.watch_snapshots(
                engine, path, partial(_failure, url, "it was changed while it was read: ask again")
            )
    elif deadline is not None:
        _set_timeout_of_postgresql(engine, deadline)
    if deadline is not None:
        _time_transactions(engine, deadline)
    return engine


def close_engine(engine: Engine) -> None:
    """
    Close the engine's connection. ``Engine.dispose`` makes a pool anew, and a logger with it.
    """
    engine.pool.dispose()


@contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """
    Turn what SQLAlchemy raises, and a replaced file, into a `DatabaseError`.
    """
    try:
        yield
    except files.ReplacedFile as exc:
        raise _failure(url, str(exc), "its file was deleted or replaced") from exc
    except TimeUp as exc:
        raise _failure(url, _TOO_LONG) from exc
    except SQLAlchemyError as exc:
        raise _failure(url, *_told(exc)) from exc


_NO_TABLES = "it has no tables of event logs: start the store once, which makes them"
_TOO_LONG = "it took too long"

_BY_SQLITE = {
    "interrupted": _TOO_LONG,  # as the progress handler told it to
    "user-defined function raised exception": _TOO_LONG,  # one of ours, whose time is up
    "unable to open database file": "the file, or what SQLite keeps beside it (-wal, -shm),"
    " cannot be read, or the directory does not exist",
    "attempt to write a readonly database": "it may only be read: the file, or its directory,"
    " cannot be written",
}

_BY_SQLSTATE = {
    "42P01": _NO_TABLES,
    "57014": _TOO_LONG,
    "42501": "its user may not do that",
    "3D000": "there is no such database",
    "28": "it refuses the login",
    "53": "it has no connections, memory or disk left",
    "57": "it is shutting down or starting",
    "08": "it cannot be reached",
}
"""By the code, or by the first two characters of it, which are its class."""


def _told(exc: SQLAlchemyError) -> tuple[str, str]:
    """
    Return why, first as the database says it, then without anything of its address.
    """
    cause = getattr(exc, "orig", None)
    text = " ".join(str(cause or exc).split())
    if "no such table" in text:
        return _NO_TABLES, _NO_TABLES
    if isinstance(cause, sqlite3.Error):
        text = _BY_SQLITE.get(text, text)  # in which SQLite names no file
        return text, text
    code = getattr(cause, "pgcode", None)
    if code is None:  # no connection, or none any more
        reason = (
            "it refuses the login" if "authentication failed" in text else "it cannot be reached"
        )
        return masked_text(text), reason
    reason = _BY_SQLSTATE.get(code) or _BY_SQLSTATE.get(code[:2]) or "it cannot answer this"
    return (reason if reason in (_NO_TABLES, _TOO_LONG) else masked_text(text)), reason


def _failure(url: URL, told: str, reason: str = "") -> DatabaseError:
    return DatabaseError(
        f"the database {shown_address(url)} cannot be used: {told}",
        reason=f"The database cannot be used: {reason or told}.",
    )


def check_exists(url: URL) -> None:
    """
    Refuse an SQLite file that is not there: opening it would make an empty one.

    Raises:
        DatabaseError: It is not there.
    """
    if url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        raise DatabaseError(
            f"there is no file {url.database!r}: the store makes it at its start",
            reason="There is no database yet: the store makes it at its start.",
        )


def encode_body(value: Any) -> str:
    """
    Return a body as JSON, as databases keep it.
    """
    return msgspec.json.encode(value).decode()


def _make_private(engine: Engine) -> None:
    """
    Let a new file be readable by its owner alone.

    SQLite would make it as the umask says, which mostly lets everyone read; its files beside it,
    ``-wal`` and ``-shm``, get the mode of the file.
    """
    path = str(engine.url.database)

    @event.listens_for(engine, "do_connect")
    def do_connect(*_: Any) -> None:
        with suppress(OSError):  # it is there, or SQLite will say what is wrong
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _set_up_sqlite(
    engine: Engine, writes: bool, busy_seconds: float, deadline: Deadline | None
) -> None:
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # pysqlite begins no transactions of its own
        if writes:
            _use_wal(connection, busy_seconds)
            connection.execute("PRAGMA synchronous = FULL").close()
        else:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").close()
        matching.register_sqlite_functions(connection, deadline)
        if deadline is not None:
            connection.set_progress_handler(deadline.has_passed, _STEPS)

    files.watch(engine, writes)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)


def _set_timeout_of_postgresql(engine: Engine, deadline: Deadline) -> None:
    is_shortened = False

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.deadline = deadline
        # connecting with it would put it in the place of the options that the address has
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", (_milliseconds(deadline.seconds),))
        connection.commit()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        nonlocal is_shortened
        is_shortened = False

    @event.listens_for(engine, "before_cursor_execute")
    def begin_statement(connection: Any, cursor: Any, *_: Any) -> None:
        nonlocal is_shortened
        left = deadline.left()
        if is_shortened or left < deadline.seconds * _FRESH:
            is_shortened = True
            cursor.connection.cursor().execute(
                "SET LOCAL statement_timeout = %s", (_milliseconds(left),)
            )


def _milliseconds(seconds: float) -> int:
    return max(int(seconds * 1000), 1)  # 0 would be no limit


def _time_transactions(engine: Engine, deadline: Deadline) -> None:
    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        deadline.begin()

    @event.listens_for(engine, "before_cursor_execute")
    def begin_statement(*_: Any) -> None:
        deadline.check()

    @event.listens_for(engine, "rollback")
    @event.listens_for(engine, "commit")
    def end_transaction(connection: Any) -> None:
        deadline.end()


def _use_wal(connection: Any, busy_seconds: float) -> None:
    """
    Let writers and readers of a file go on beside each other.

    While another process is just changing a new file over, SQLite answers at once that it is
    locked, whatever the timeout: it would wait for itself. So it is asked again.
    """
    deadline = _time.monotonic() + busy_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or _time.monotonic() >= deadline:
                raise
            _time.sleep(0.01)
