"""
Connections to SQLite or PostgreSQL.

One thread at a time uses an engine. Beside green threads that is a thread of ``eventlet.tpool``.
Code that runs there must not wait for a lock that a green thread may hold, because it would never
be woken: the engine's loggers are disabled, and its pool has one connection, for one user. Open
engines in a green thread, because SQLAlchemy's ``getLogger`` takes the lock of the ``logging``
module.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from eventlet import patcher
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from nameko_eventlog.addresses import masked_text
from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.extras import extra
from nameko_eventlog.store import json_text
from nameko_eventlog.store.databases import DatabaseError, parse_address, shown_address
from nameko_eventlog.store.deadlines import Deadline, TimeUp
from nameko_eventlog.store.sql import files, sqlite_files, sqlite_functions
from nameko_eventlog.store.sql.waiting import Connection


BUSY_SECONDS = 30.0
"""How long SQLite waits for another writer."""

CONNECT_SECONDS = 5
"""How long to wait for a connection to PostgreSQL."""

IDLE_SECONDS = 60.0
"""How long a transaction of PostgreSQL may wait for its writer, which others wait for."""

_CACHE_KIB = 64 * 1024
"""
The page cache of an SQLite reader, enough for a day of 86,400 rows. With SQLite's default of 2 MiB
each query reads such a day again, and takes a quarter longer.
"""

_STEPS = 2_000  # instructions of SQLite's VM between two checks of the deadline: a few rows

_FRESH = 0.9  # while more than this share of the time is left, PostgreSQL's timeout stays as it is

_time = patcher.original("time")


def open_engine(uri: str, *, writes: bool = False, deadline: Deadline | None = None) -> Engine:
    """
    Make an engine with one connection, which opens on first use.

    Args:
        uri: The database's address.
        writes: Whether transactions take SQLite's write lock when they begin.
        deadline: The time limit of a transaction; None for no limit.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """
    url = parse_address(uri)
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
        path = os.path.abspath(str(url.database))  # otherwise file: might be a URI
        options = {"creator": partial(sqlite_files.connect_for_reading, path, busy_seconds)}
    with extra("store"):  # the driver may be missing
        engine = create_engine(
            url,
            poolclass=QueuePool,
            pool_size=1,
            max_overflow=0,
            pool_pre_ping=not writes,  # else the first query after a restart fails
            json_serializer=json_text.encode,
            json_deserializer=decode_json if is_sqlite else json_text.decode_from_postgresql,
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
                engine, path, partial(_failure, url, "it changed while being read: try again")
            )
    else:
        if writes:
            _prepare_writers(engine)
        if deadline is not None:
            _set_postgresql_timeout(engine, deadline)
    if deadline is not None:
        _time_transactions(engine, deadline)
    return engine


def close_engine(engine: Engine) -> None:
    """
    Close the engine's connection. ``Engine.dispose`` would make a new pool, and a logger for it.
    """
    engine.pool.dispose()


@contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """
    Turn SQLAlchemy's exceptions, and a replaced file, into a `DatabaseError`.
    """
    try:
        yield
    except files.ReplacedFile as exc:
        raise _failure(url, str(exc), "its file was deleted or replaced") from exc
    except TimeUp as exc:
        raise _failure(url, _TOO_LONG) from exc
    except SQLAlchemyError as exc:
        raise _failure(url, *_describe(exc)) from exc


_NO_TABLES = "it has no event log tables: start the store once to create them"
_TOO_LONG = "it took too long"

_BY_SQLITE = {
    "interrupted": _TOO_LONG,  # by the progress handler
    "user-defined function raised exception": _TOO_LONG,  # one of ours, past the deadline
    "unable to open database file": "the file or the files beside it (-wal, -shm) cannot be read,"
    " or the directory does not exist",
    "attempt to write a readonly database": "it is read-only: the file or its directory cannot be"
    " written",
}

_BY_SQLSTATE = {
    "42P01": _NO_TABLES,
    "57014": _TOO_LONG,
    "42501": "permission denied",
    "3D000": "the database does not exist",
    "28": "it rejected the login",
    "53": "it is out of connections, memory or disk space",
    "57": "it is shutting down or starting",
    "08": "it cannot be reached",
}
"""By SQLSTATE, or by its first two characters, the class."""


def _describe(exc: SQLAlchemyError) -> tuple[str, str]:
    """
    Return the database's own message, and a reason without its address.
    """
    cause = getattr(exc, "orig", None)
    text = " ".join(str(cause or exc).split())
    if "no such table" in text:
        return _NO_TABLES, _NO_TABLES
    if isinstance(cause, sqlite3.Error):
        text = _BY_SQLITE.get(text, text)  # SQLite's messages name no file
        return text, text
    code = getattr(cause, "pgcode", None)
    if code is None:  # there is no connection, or it was lost
        is_login = "authentication failed" in text
        reason = "it rejected the login" if is_login else "it cannot be reached"
        return masked_text(text), reason
    reason = _BY_SQLSTATE.get(code) or _BY_SQLSTATE.get(code[:2]) or "it cannot run this query"
    return (reason if reason in (_NO_TABLES, _TOO_LONG) else masked_text(text)), reason


def _failure(url: URL, description: str, reason: str = "") -> DatabaseError:
    return DatabaseError(
        f"the database {shown_address(url)} cannot be used: {description}",
        reason=f"The database cannot be used: {reason or description}.",
    )


def check_exists(url: URL) -> None:
    """
    Refuse an SQLite file that does not exist: opening it would create an empty one.

    Raises:
        DatabaseError: It does not exist.
    """
    if url.get_backend_name() == "sqlite" and not os.path.exists(str(url.database)):
        raise DatabaseError(
            f"the file {url.database!r} does not exist: the store creates it when it starts",
            reason="The database does not exist yet: the store creates it when it starts.",
        )


def _make_private(engine: Engine) -> None:
    """
    Create a new file readable by its owner only.

    SQLite would follow the umask, which usually lets everyone read. The files beside it, ``-wal``
    and ``-shm``, get the mode of the file.
    """
    path = str(engine.url.database)

    @event.listens_for(engine, "do_connect")
    def do_connect(*_: Any) -> None:
        with suppress(OSError):  # it exists, or SQLite will report the error
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


def _set_up_sqlite(
    engine: Engine, writes: bool, busy_seconds: float, deadline: Deadline | None
) -> None:
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # keeps pysqlite from beginning transactions
        if writes:
            _use_wal(connection, busy_seconds)
            connection.execute("PRAGMA synchronous = FULL").close()
        else:
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}").close()
        sqlite_functions.register_sqlite_functions(connection, deadline)
        if deadline is not None:
            connection.set_progress_handler(deadline.has_passed, _STEPS)

    files.watch(engine, writes)

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Any) -> None:
        connection.exec_driver_sql(begin)


def _prepare_writers(engine: Engine) -> None:
    """
    Let the server end the transaction of a writer that has stopped, and holds the writers' lock.

    Writers look rows up by keys only. Without statistics, which a table has only after a while,
    the planner would rather read all of a table that grows.

    What is new in the index of texts waits in a list until it is merged. A longer list than by
    default saves a tenth of the server's time; a search takes about as long as before.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            milliseconds = _milliseconds(IDLE_SECONDS)
            cursor.execute("SET idle_in_transaction_session_timeout = %s", (milliseconds,))
            cursor.execute("SET enable_seqscan = off")
            cursor.execute("SET gin_pending_list_limit = '16MB'")
        connection.commit()


def _set_postgresql_timeout(engine: Engine, deadline: Deadline) -> None:
    is_shortened = False

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.deadline = deadline
        # as an option of the connection it would replace the options in the address
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
    Let a writer and readers work on the file at the same time.

    While another process switches a new file to WAL, SQLite reports the lock at once, whatever the
    timeout, because waiting could deadlock. So try again until it works.
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
