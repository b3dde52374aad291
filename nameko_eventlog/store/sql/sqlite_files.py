"""
SQLite's files: the file that an address names, and how to read a read-only file.

Readers of a file in WAL mode write to the files beside it. Where they may not (another user's
file, a read-only directory or mount), SQLite can read the file only while a writer is active,
whose files it shares. Without a writer nothing changes the file, so it is read as a snapshot. The
snapshot is discarded as soon as the file changes.
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
NOT_IN_MEMORY = f"{EXPECTED}: a database in memory is lost when the process ends"

_ADDRESS = re.compile(r"sqlite(?:\+pysqlite)?:///(.*)", re.DOTALL)
_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})

State = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and modification time of the file and of its log; None if missing or empty."""


class Connection(sqlite3.Connection):
    """
    A connection that may read a snapshot.
    """

    snapshot: State | None = None
    """The state of the files when the snapshot was opened, or None."""


def file_of(address: str) -> str | None:
    """
    Return the path that an address of SQLite names, or None for an address of another kind.

    Text after a ``?`` is a parameter if it contains ``=``, and otherwise part of the name.

    Raises:
        ValueError: The address names no file; the text says what was expected.
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
            raise ValueError(f"{EXPECTED} without the parameter {name!r}: only uri=true is known")
        is_uri = value.lower() in _TRUE
    if is_uri and path.startswith("file:"):
        path = _path_of_uri(path.removeprefix("file:"))
    if path in ("", ":memory:"):
        raise ValueError(NOT_IN_MEMORY)
    if "\0" in path:
        raise ValueError(f"{EXPECTED} without a NUL character")
    return path


def _path_of_uri(uri: str) -> str:
    """
    Return the path of a URI without its ``file:``: https://sqlite.org/uri.html.
    """
    if uri.startswith("//"):
        host, slash, path = uri[2:].partition("/")
        if host not in ("", "localhost"):
            raise ValueError(f"{EXPECTED}: a file on this machine")
        uri = slash + path
    return unquote(uri.partition("#")[0])


def connect_for_reading(path: str, seconds: float) -> Connection:
    """
    Open a file for reading, whether or not it is writable.

    Args:
        path: The file.
        seconds: How long to wait for a writer's lock.

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
    Reopen a snapshot when the file has changed, and discard answers read in the meantime.

    Args:
        engine: An engine that reads.
        path: The file.
        changed: Makes the exception that replaces such an answer.
    """

    def is_stale(connection: Any) -> bool:
        snapshot = getattr(connection, "snapshot", None)
        return snapshot is not None and snapshot != _state(path)

    @event.listens_for(engine, "checkout")
    def check_out(connection: Any, *_: Any) -> None:
        if is_stale(connection):
            raise DisconnectionError

    @event.listens_for(engine, "commit")
    def commit(connection: Any) -> None:
        if is_stale(connection.connection.dbapi_connection):
            raise changed()

    @event.listens_for(engine, "handle_error")
    def fail(context: Any) -> None:
        connection = context.connection
        if connection is None or connection.closed or connection.invalidated:
            return
        if is_stale(connection.connection.dbapi_connection):
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
        # for a log that a process has left behind: its index is kept in memory, and nothing is
        # locked, because a lock would need write access
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
