"""
The full-text index of bodies on SQLite: FTS5, by trigrams of the folded text.

It selects candidates. A small body is indexed as a whole; a large one, for which that would take
long, is a candidate for every text. The index keeps no texts, so what is deleted is given to it
once more: https://www.sqlite.org/fts5.html#contentless_tables
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, column, select, table, text
from sqlalchemy.exc import OperationalError

from nameko_eventlog.store.comparing import fold
from nameko_eventlog.store.sql import bulk
from nameko_eventlog.store.sql.schema import event_logs


NAME = "event_logs_text"

_LARGEST = 16_384  # characters of a body that is indexed; what is deleted must be as it was
_LARGE = "\x01\x01\x01"  # stands for a large body: no JSON has control characters
_EMPTY = "{}"  # has no trigram

_INSERT_INTO = f"INSERT INTO {NAME} (rowid, body)"
_INSERT = f"{_INSERT_INTO} VALUES (?, ?)"
_DELETE = f"INSERT INTO {NAME} ({NAME}, rowid, body) VALUES ('delete', ?, ?)"  # noqa: S608

index = table(NAME, column("rowid"), column(NAME))
"""The index, in statements."""


def exists(connection: Connection) -> bool:
    """
    Tell whether the tables have the index. SQLite may still lack what it needs to use it.
    """
    if connection.dialect.name != "sqlite":
        return False
    named = text("SELECT 1 FROM sqlite_master WHERE name = :name")
    return connection.execute(named, {"name": NAME}).first() is not None


def can_search(connection: Connection) -> bool:
    """
    Tell whether the tables have the index, and this SQLite can use it.
    """
    try:
        connection.execute(select(index.c.rowid).limit(0))
    except OperationalError:
        return False
    return True


def add(connection: Connection, bodies: Iterable[tuple[int, str]]) -> None:
    """
    Add bodies: the numbers of their rows, and their JSON as stored.
    """
    if exists(connection):
        _write(connection, _INSERT, bodies)


def try_write(connection: Connection) -> None:
    """
    Write nothing to the index, which fails where this SQLite cannot use it.
    """
    if exists(connection):
        connection.exec_driver_sql(f"{_INSERT_INTO} SELECT 0, '' WHERE FALSE")


def forget(connection: Connection, positions: Sequence[bytes]) -> None:
    """
    Take out the bodies of rows, which must be there still.
    """
    if not exists(connection):
        return
    row = event_logs.c
    found = bulk.find(connection, row.position, positions, row.id, row.body)
    _write(connection, _DELETE, [(number, body) for number, body in found])


def _write(connection: Connection, statement: str, bodies: Iterable[tuple[int, str]]) -> None:
    values = [
        (number, _LARGE if len(body) > _LARGEST else fold(body))
        for number, body in bodies
        if body != _EMPTY
    ]
    if values:
        connection.exec_driver_sql(statement, values)


def expression(trigrams: Iterable[Iterable[str]]) -> str:
    """
    Return what to look up for the candidates that have one of each of *trigrams*.
    """
    every = " AND ".join(f"({' OR '.join(map(_quoted, some))})" for some in trigrams)
    return f"({every}) OR {_quoted(_LARGE)}"


def _quoted(trigram: str) -> str:
    return '"{}"'.format(trigram.replace('"', '""'))
