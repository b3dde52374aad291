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
from typing import Any

import msgspec
from eventlet import patcher
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nameko_eventlog.checking import masked
from nameko_eventlog.exceptions import EventLogError
from nameko_eventlog.store import files, matching
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

_TOO_LONG = "it took too long"

# by SQLite, as the progress handler told it to, and by one of our functions that it called
_GIVEN_UP = ("interrupted", "user-defined function raised exception")

_time = patcher.original("time")


class DatabaseError(EventLogError):
    """
    The database cannot be used now; the text names it and says why.
    """


def shown(url: URL) -> str:
    """
    Return the database's address without its password.
    """
    return masked(url.render_as_string(hide_password=True))


def parse_uri(uri: str) -> URL:
    """
    Read a database's address.

    Raises:
        ValueError: With what was expected, if it is not one of SQLite's or PostgreSQL's.
    """
    expected = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):  # the latter, if the port is no number
        raise ValueError(expected) from None
    if "@" in (url.host or ""):  # the rest of a password, which errors would show as the host
        raise ValueError(f"{expected}, with %40 for @ in the password")
    if url.drivername in ("postgresql", "postgresql+psycopg2"):
        return url.set(drivername="postgresql+psycopg2")  # which driver is meant, changes
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        if url.database in (None, "", ":memory:"):
            raise ValueError("sqlite:///FILE: what is kept in memory ends with the process")
        return url
    raise ValueError(expected)


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
            f"{masked(repr(uri))} is no database for event logs; use {exc}"
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
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=1,
        max_overflow=0,
        connect_args=connect_args,
        pool_pre_ping=not writes,  # else the first question after a restart of PostgreSQL fails
        json_serializer=_encode,
        json_deserializer=msgspec.json.decode,
        logging_name="nameko_eventlog",
        pool_logging_name="nameko_eventlog",
    )
    for silent in (engine, engine.pool):
        silent.logger.disabled = True  # type: ignore[union-attr]
    if is_sqlite:
        if writes:
            _make_private(engine)
        _set_up_sqlite(engine, writes, busy_seconds, deadline)
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
        raise DatabaseError(f"the database {shown(url)} cannot be used: {exc}") from exc
    except TimeUp as exc:
        raise DatabaseError(f"the database {shown(url)} cannot be used: {_TOO_LONG}") from exc
    except SQLAlchemyError as exc:
        cause = getattr(exc, "orig", None)
        reason = " ".join(str(cause or exc).split())
        if "no such table" in reason or getattr(cause, "pgcode", "") == "42P01":
            reason = "it has no tables of event logs: start the store once, which makes them"
        if isinstance(cause, sqlite3.OperationalError) and reason in _GIVEN_UP:
            reason = _TOO_LONG
        raise DatabaseError(f"the database {shown(url)} cannot be used: {reason}") from exc


def check_exists(url: URL) -> None:
    """
    Refuse an SQLite file that is not there: opening it would make an empty one.

    Raises:
        DatabaseError: It is not there.
    """
    if url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        raise DatabaseError(f"there is no file {url.database!r}: the store makes it at its start")


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _make_private(engine: Engine) -> None:
    """
    Let a new file be readable by its owner alone.

    SQLite would make it as the umask says, which mostly lets everyone read; its files beside it,
    ``-wal`` and ``-shm``, get the mode of the file.
    """
    path = str(engine.url.database)
    if path.startswith("file:"):  # an address of SQLite's own, with parameters
        return

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
        _use_wal(connection, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL").close()
        if not writes:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").close()
        matching.teach_sqlite(connection, deadline)
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
