"""
SQLite's files: how an address names one, and how one is read that may only be read.

Readers of a file in WAL mode write to files beside it. Where they may not (another user's file, a
read-only directory or mount), SQLite reads it only as long as a writer is at work, whose files it
shares. When none is, nothing changes the file, and it is read as it is: a snapshot, which is given
up as soon as the file is another than when it was opened.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any
from urllib.parse import quote, unquote

from sqlalchemy import Engine, event
from sqlalchemy.exc import DisconnectionError


EXPECTED = "sqlite:///FILE"

_ADDRESS = re.compile(r"sqlite(?:\+pysqlite)?:///(.*)", re.DOTALL)
_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})

State = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of the file and of its log; None where there is nothing."""


class Connection(sqlite3.Connection):
    """
    A connection that knows what it was opened on, if that is a snapshot.
    """

    snapshot: State | None = None


def file_of(address: str) -> str | None:
    """
    Return the path that an address of SQLite names, or None if it is none of SQLite's.

    What stands behind a ``?`` is a parameter if it has a ``=``, and else part of the name.

    Raises:
        ValueError: With what was expected, if the address names no file.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        return None
    path, mark, query = match[1].partition("?")
    if "=" not in query:
        path, query = match[1], ""
        if mark and path.endswith("?"):
            raise ValueError(f"{EXPECTED} without ? at its end")
    is_uri = False
    for parameter in query.split("&") if query else ():
        name, _, value = parameter.partition("=")
        if name != "uri" or value.lower() not in _TRUE | _FALSE:
            raise ValueError(f"{EXPECTED} without the parameter {name!r}: there is only uri=true")
        is_uri = value.lower() in _TRUE
    if is_uri and path.startswith("file:"):
        path = _path_of_uri(path.removeprefix("file:"))
    if path in ("", ":memory:"):
        raise ValueError(f"{EXPECTED}: what is kept in memory ends with the process")
    if "\0" in path:
        raise ValueError(f"{EXPECTED} without a NUL character")
    return path


def _path_of_uri(uri: str) -> str:
    """
    Read what stands behind ``file:``, see https://sqlite.org/uri.html.
    """
    if uri.startswith("//"):
        host, slash, path = uri[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{EXPECTED}: a file of this machine")
        uri = slash + path
    return unquote(uri.partition("#")[0])


def connect_for_reading(path: str, seconds: float) -> Connection:
    """
    Open a file to read it, whether it may be written or not.

    Args:
        path: The file.
        seconds: For how long a writer's lock is waited for.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    try:
        return _open(path, seconds)
    except sqlite3.OperationalError:
        before = _state(path)
        if before[0] is None or os.path.exists(f"{path}-shm"):
            raise
        connection = _open_snapshot(path, seconds, has_log=before[1] is not None)
        if connection is None or _state(path) != before:
            raise
        connection.snapshot = before
        return connection


def watch_snapshots(engine: Engine, path: str, changed: Callable[[], Exception]) -> None:
    """
    Open a snapshot anew when the file is another, and let no answer out that was read meanwhile.

    Args:
        engine: The reader's.
        path: The file.
        changed: Makes what is raised in the place of such an answer.
    """

    def is_other(connection: Any) -> bool:
        snapshot = getattr(connection, "snapshot", None)
        return snapshot is not None and snapshot != _state(path)

    @event.listens_for(engine, "checkout")
    def check_out(connection: Any, *_: Any) -> None:
        if is_other(connection):
            raise DisconnectionError

    @event.listens_for(engine, "commit")
    def commit(connection: Any) -> None:
        if is_other(connection.connection.dbapi_connection):
            raise changed()

    @event.listens_for(engine, "handle_error")
    def fail(context: Any) -> None:
        connection = context.connection
        if connection is None or connection.closed or connection.invalidated:
            return
        if is_other(connection.connection.dbapi_connection):
            raise changed() from context.original_exception


def _open(address: str, seconds: float, *statements: str, is_uri: bool = False) -> Connection:
    connection = sqlite3.connect(
        address,
        timeout=seconds,
        check_same_thread=False,
        isolation_level=None,
        factory=Connection,
        uri=is_uri,
    )
    try:
        for statement in (*statements, "SELECT count(*) FROM sqlite_master"):
            with closing(connection.execute(statement)) as cursor:
                cursor.fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _open_snapshot(path: str, seconds: float, *, has_log: bool) -> Connection | None:
    uri = f"file://{quote(os.path.abspath(path))}"
    try:
        if not has_log:
            return _open(f"{uri}?immutable=1", seconds, is_uri=True)
        # the index of what a process has left in the log behind it, in memory; without locks, for
        # which the file would have to be opened for writing
        return _open(
            f"{uri}?mode=ro&vfs=unix-none", seconds, "PRAGMA locking_mode = EXCLUSIVE", is_uri=True
        )
    except sqlite3.OperationalError:
        return None


def _state(path: str) -> State:
    return _stamp(path), _stamp(f"{path}-wal")


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found.st_size else None
