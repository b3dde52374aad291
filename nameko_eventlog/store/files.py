"""
Whether an SQLite connection still has the files open that are at its path.

A file that is deleted or replaced while it is open goes on taking rows, which vanish with the
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
    The file at the database's path is not the one that is open.
    """


def watch(engine: Engine, writes: bool) -> None:
    """
    Note which file a connection of *engine* opens.

    A reader's opens the one that is there now before each transaction; a writer's is compared by
    `check_in_place`, so that what has happened is logged.

    Args:
        engine: SQLite's.
        writes: Whether it is a writer's.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, record: Any) -> None:
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        record.info["files"] = {path: identity(path)}

    if writes:

        @event.listens_for(engine, "commit")
        def commit(connection: Connection) -> None:
            # only now, with a transaction begun, has it surely opened the write-ahead log
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
    Check that the files that *connection* has open are those at their paths; else it is closed.

    Raises:
        ReplacedFile: One was deleted or replaced.
    """
    files: dict[str, Identity | None] | None = connection.info.get("files")
    if files is None:  # another database
        return
    main = next(iter(files))
    for path, opened in files.items():
        if identity(path) == opened:
            continue
        if path != main:
            # what the write-ahead log has, and nobody else will read, goes into the main file
            dbapi: Any = connection.connection.dbapi_connection
            dbapi.execute("PRAGMA wal_checkpoint(PASSIVE)").close()
        connection.invalidate()
        raise ReplacedFile(
            f"its file {path!r} was deleted or replaced while it was open; what comes from now on"
            " goes into the one that is there"
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
