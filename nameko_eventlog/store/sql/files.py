"""
Whether the files that an SQLite connection has open are still at their paths.

A file that is deleted or replaced while it is open keeps accepting rows, which vanish with the
process: https://www.sqlite.org/howtocorrupt.html#_unlinking_or_renaming_a_database_file_while_in_use
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DisconnectionError


Identity = tuple[int, int]
"""Device and inode."""


class ReplacedFile(Exception):
    """
    The file at the database's path is not the open one.
    """


def watch(engine: Engine, writes: bool) -> None:
    """
    Note which files a connection of *engine* opens.

    A reader reconnects before a transaction if its file was replaced. A writer's files are checked
    by `check_in_place`, so that a replacement is logged.

    Args:
        engine: An engine of SQLite.
        writes: Whether the engine writes.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        record.info["files"] = {path: identity(path)}

    if writes:

        @event.listens_for(engine, "commit")
        def commit(connection: Connection) -> None:
            # only now, in a transaction, is the write-ahead log certain to be open
            opened: dict[str, Identity | None] = connection.info["files"]
            log = f"{next(iter(opened))}-wal"
            if log not in opened and (found := identity(log)):
                opened[log] = found

        return

    @event.listens_for(engine, "checkout")
    def checkout(connection: Any, record: Any, proxy: Any) -> None:
        for path, opened in record.info["files"].items():
            if identity(path) != opened:
                raise DisconnectionError


def check_in_place(connection: Connection) -> None:
    """
    Check that the open files of *connection* are those at their paths; if not, close it.

    Raises:
        ReplacedFile: A file was deleted or replaced.
    """
    files: dict[str, Identity | None] | None = connection.info.get("files")
    if files is None:  # not SQLite
        return
    main = next(iter(files))
    for path, opened in files.items():
        if identity(path) == opened:
            continue
        if path != main:
            # no other connection will read this write-ahead log: copy it into the main file
            dbapi: Any = connection.connection.dbapi_connection
            dbapi.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        connection.invalidate()
        raise ReplacedFile(
            f"its file {path!r} was deleted or replaced while it was open; new event logs go into"
            " the file that is there now"
        )


def identity(path: str) -> Identity | None:
    """
    Return the device and the inode of the file at *path*, or None if there is none.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
