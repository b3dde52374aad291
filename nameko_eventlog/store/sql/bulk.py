"""
Reading and writing many rows with one statement, as fast as each database allows.

PostgreSQL gets an array for each column, which is more than twice as fast as a list of values.
SQLite gets the values. Both bypass SQLAlchemy, which would take longer than the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import JSON, Column, Connection, Text
from sqlalchemy.dialects import postgresql

from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.sql.schema import Key


_AT_ONCE = 500  # values of a condition

_POSTGRESQL = postgresql.dialect()  # type: ignore[no-untyped-call]

Rows = Sequence[Sequence[Any]]
"""Rows to write: a value for each column; JSON as text."""


def portions(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """
    Split *values* into parts that a condition may list.
    """
    for at in range(0, len(values), _AT_ONCE):
        yield values[at : at + _AT_ONCE]


def find(
    connection: Connection, key: Column[Any], values: Collection[Any], *columns: Column[Any]
) -> Iterator[Any]:
    """
    Yield the *columns* of the rows that have one of *values* in the column *key*, as the driver
    returns them.
    """
    if not values:
        return
    ordered = sorted(values)
    if connection.dialect.name == "postgresql":
        array = _as_array(key, ordered)
        yield from connection.exec_driver_sql(_select_any(key, columns), (array,))
        return
    for some in portions(ordered):
        statement = _select_in(key, columns, len(some))
        yield from connection.exec_driver_sql(statement, tuple(some))


def as_key(value: Any) -> bytes:
    """
    Return the sixteen bytes of a `Key` as `find` or SQLAlchemy returns it.
    """
    return bytes.fromhex(value.replace("-", "")) if isinstance(value, str) else bytes(value)


@lru_cache
def _select_any(key: Column[Any], columns: tuple[Column[Any], ...]) -> str:
    names = ",".join(  # faster than UUIDs
        f'"{one.name}"::TEXT' if isinstance(one.type, Key) else f'"{one.name}"' for one in columns
    )
    return f'SELECT {names} FROM {key.table} WHERE "{key.name}" = ANY ({_array_of(key)})'  # noqa: S608


@lru_cache
def _select_in(key: Column[Any], columns: tuple[Column[Any], ...], number: int) -> str:
    marks = ",".join("?" * number)
    return f'SELECT {_names(columns)} FROM {key.table} WHERE "{key.name}" IN ({marks})'  # noqa: S608


class Writes:
    """
    Statements that write, and are run together: PostgreSQL gets all of them in one message.

    Args:
        connection: To the database.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._statements: list[str] = []
        self._arrays: list[str] = []

    def insert(self, columns: Sequence[Column[Any]], rows: Rows) -> None:
        """
        Insert *rows*, which the table does not have.

        Args:
            columns: Of one table.
            rows: The values of these columns.
        """
        self._add(_inserting, columns, rows)

    def add_numbers(self, columns: Sequence[Column[Any]], rows: Rows) -> None:
        """
        Add to the numbers of a table of counts.

        Args:
            columns: The table's key, then its number.
            rows: The values of these columns; numbers below 0 are subtracted.
        """
        self._add(_adding, columns, rows)

    def delete_zeros(self, keys: Sequence[Column[Any]], rows: Rows) -> None:
        """
        Delete those rows of a table of counts that count nothing.

        Args:
            keys: The table's key.
            rows: The keys to look at.
        """
        self._add(_deleting_zeros, keys, rows)

    def update(self, columns: Sequence[Column[Any]], rows: Rows) -> None:
        """
        Change rows.

        Args:
            columns: Those to change, then the table's key.
            rows: The values of these columns.
        """
        self._add(_updating, columns, rows)

    def run(self) -> None:
        """
        Run what was added since the last time.
        """
        if self._statements:
            text = ";".join(self._statements)
            self._connection.exec_driver_sql(text, tuple(self._arrays))
            self._statements, self._arrays = [], []

    def _add(
        self,
        statement: Callable[[str, tuple[Column[Any], ...]], str],
        columns: Sequence[Column[Any]],
        rows: Rows,
    ) -> None:
        if not rows:
            return
        text = statement(self._dialect, tuple(columns))
        if self._dialect == "postgresql":
            self._statements.append(text)
            self._arrays += map(_as_array, columns, zip(*rows, strict=True))
        else:  # there is no way to the database that would be saved
            self._connection.exec_driver_sql(text, list(map(tuple, rows)))


def _as_array(column: Column[Any], values: Sequence[Any]) -> str:
    r"""
    Return an array as PostgreSQL reads it: nearly as JSON, but ``\n`` would be an n there.

    https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO
    """
    if isinstance(column.type, Key):
        values = [value and value.hex() for value in values]
    elif isinstance(column.type, Text):
        return "{" + ",".join(map(_quoted, values)) + "}"
    return "{" + encode(values)[1:-1] + "}"  # the text of JSON has no line break


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@lru_cache
def _inserting(dialect: str, columns: tuple[Column[Any], ...]) -> str:
    into = f"INSERT INTO {columns[0].table} ({_names(columns)})"
    if dialect == "postgresql":
        values = ",".join(
            f'"{one.name}"::JSONB' if isinstance(one.type, JSON) else f'"{one.name}"'
            for one in columns
        )
        return f"{into} SELECT {values} FROM {_rows(columns)}"  # noqa: S608
    marks = ",".join("?" * len(columns))
    return f"{into} VALUES ({marks})"


@lru_cache
def _adding(dialect: str, columns: tuple[Column[Any], ...]) -> str:
    table, number = columns[0].table, columns[-1].name
    return (
        f"{_inserting(dialect, columns)} ON CONFLICT ({_names(columns[:-1])})"
        f" DO UPDATE SET {number} = {table}.{number} + excluded.{number}"
    )


@lru_cache
def _deleting_zeros(dialect: str, keys: tuple[Column[Any], ...]) -> str:
    table = keys[0].table
    if dialect == "postgresql":
        is_same = " AND ".join(f'{table}."{one.name}" = row."{one.name}"' for one in keys)
        return f"DELETE FROM {table} USING {_rows(keys)} WHERE {is_same} AND number = 0"  # noqa: S608
    is_same = " AND ".join(f'"{one.name}" = ?' for one in keys)
    return f"DELETE FROM {table} WHERE {is_same} AND number = 0"  # noqa: S608


@lru_cache
def _updating(dialect: str, columns: tuple[Column[Any], ...]) -> str:
    table, key = columns[0].table, columns[-1].name
    if dialect == "postgresql":
        sets = ",".join(f'"{one.name}" = row."{one.name}"' for one in columns[:-1])
        is_same = f'{table}."{key}" = row."{key}"'
        return f"UPDATE {table} SET {sets} FROM {_rows(columns)} WHERE {is_same}"  # noqa: S608
    sets = ",".join(f'"{one.name}" = ?' for one in columns[:-1])
    return f'UPDATE {table} SET {sets} WHERE "{key}" = ?'  # noqa: S608


def _rows(columns: Sequence[Column[Any]]) -> str:
    """
    Return the table ``row`` that PostgreSQL makes of the arrays.
    """
    arrays = ",".join(map(_array_of, columns))
    return f"unnest({arrays}) AS row ({_names(columns)})"


def _array_of(column: Column[Any]) -> str:
    kind = Text() if isinstance(column.type, JSON) else column.type
    return f"%s::{postgresql.ARRAY(kind).compile(dialect=_POSTGRESQL)}"


def _names(columns: Sequence[Column[Any]]) -> str:
    return ",".join(f'"{one.name}"' for one in columns)
