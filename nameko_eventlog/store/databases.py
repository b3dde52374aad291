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
from contextlib import contextmanager
from typing import Any

import msgspec
from eventlet import patcher
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nameko_eventlog.checking import masked
from nameko_eventlog.exceptions import EventLogError
from nameko_eventlog.store import matching


BUSY_SECONDS = 30.0
"""For how long SQLite waits for another writer."""

CONNECT_SECONDS = 5
"""For how long PostgreSQL is waited for."""

_CACHE_KIB = 64 * 1024
"""
What a reader of SQLite keeps of the file in memory, at the most: a day of 86,400 rows. With
SQLite's own 2 MiB each question reads such a day again, and takes a quarter more time.
"""

_STEPS = 10_000  # of SQLite's machine, some milliseconds, between two looks at the clock

_time = patcher.original("time")


class DatabaseError(EventLogError):
    """
    The database cannot be used now; the text names it and says why.

    Args:
        message: The text, for logs and the command line.
        reason: What may be told to those who must not know where the database is.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason


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


def open_engine(uri: str, *, writes: bool = False, seconds: float | None = None) -> Engine:
    """
    Make an engine with one connection, which is opened when it is first used.

    Args:
        uri: The database's address.
        writes: Whether transactions take SQLite's write lock when they begin.
        seconds: After how long a statement is given up; None for never.

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
        connect_args = {"timeout": BUSY_SECONDS, "check_same_thread": False}
    else:
        connect_args = {
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "nameko-eventlog",
            "client_encoding": "utf8",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
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
        _set_up_sqlite(engine, writes)
        if seconds is not None:
            _give_up_sqlite(engine, seconds)
    elif seconds is not None:
        _give_up_postgresql(engine, seconds)
    return engine


def close_engine(engine: Engine) -> None:
    """
    Close the engine's connection. ``Engine.dispose`` makes a pool anew, and a logger with it.
    """
    engine.pool.dispose()


@contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """
    Turn what SQLAlchemy raises into a `DatabaseError`.
    """
    try:
        yield
    except SQLAlchemyError as exc:
        cause = getattr(exc, "orig", None)
        reason = " ".join(str(cause or exc).split())
        public = None
        if "no such table" in reason or getattr(cause, "pgcode", "") == "42P01":
            public = reason = (
                "it has no tables of event logs: start the store once, which makes them"
            )
        if isinstance(cause, sqlite3.OperationalError) and reason == "interrupted":
            public = reason = "it took too long"
        message = f"the database {shown(url)} cannot be used: {reason}"
        raise DatabaseError(message, public) from exc


def check_exists(url: URL) -> None:
    """
    Refuse an SQLite file that is not there: opening it would make an empty one.

    Raises:
        DatabaseError: It is not there.
    """
    if url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        reason = "the store makes it at its start"
        message = f"there is no file {url.database!r}: {reason}"
        raise DatabaseError(message, f"it is not there: {reason}")


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _set_up_sqlite(engine: Engine, writes: bool) -> None:
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # pysqlite begins no transactions of its own
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL").close()
        if not writes:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").close()
        matching.teach_sqlite(connection)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)


def _give_up_sqlite(engine: Engine, seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        known = record.info
        known["until"] = float("inf")
        connection.set_progress_handler(lambda: _time.monotonic() > known["until"], _STEPS)

    @event.listens_for(engine, "before_cursor_execute")
    def begin_statement(connection: Any, *_: Any) -> None:
        connection.info["until"] = _time.monotonic() + seconds

    @event.listens_for(engine, "rollback")
    @event.listens_for(engine, "commit")
    def end_transaction(connection: Any) -> None:
        connection.info["until"] = float("inf")


def _give_up_postgresql(engine: Engine, seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        # connecting with it would put it in the place of the options that the address has
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", (int(seconds * 1000),))
        connection.commit()


def _use_wal(connection: Any) -> None:
    """
    Let writers and readers of a file go on beside each other.

    While another process is just changing a new file over, SQLite answers at once that it is
    locked, whatever the timeout: it would wait for itself. So it is asked again.
    """
    deadline = _time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or _time.monotonic() >= deadline:
                raise
            _time.sleep(0.01)
