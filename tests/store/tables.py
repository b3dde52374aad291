"""
The tables themselves, for tests that look behind the store: alike in each kind of database.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, func, select, text

from nameko_eventlog.store.clickhouse import schema as clickhouse_schema
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.sql import schema as sql_schema
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.writing import EventLogWriter
from tests.clickhouse import ClickHouse
from tests.postgresql import PostgreSQL


SQL = ("sqlite", "postgresql")
"""The kinds of databases that speak SQL as SQLAlchemy's engines do."""

VERSIONS = "eventlog_schema"


class Tables:
    """
    The tables of a database, which a writer has created.

    Args:
        database: Its address.
    """

    def __init__(self, database: str) -> None:
        self._clickhouse: Connection | None = None
        if is_clickhouse(database):
            self._clickhouse = Connection(database)
            self._metadata = clickhouse_schema.metadata
        else:
            self._engine = open_engine(database, writes=True)
            self._metadata = sql_schema.metadata

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection.
        """
        if self._clickhouse is None:
            self._engine.dispose()
        else:
            self._clickhouse.close()

    def empty(self, *names: str) -> None:
        """
        Delete all rows of some tables, or of all but the version.
        """
        tables = [one for one in self._metadata.sorted_tables if not names or one.name in names]
        if self._clickhouse is None:
            with self._engine.begin() as connection:
                for table in tables:
                    connection.execute(delete(table))
            return
        for table in tables:
            if table.name != VERSIONS:
                self._clickhouse.command(f"TRUNCATE TABLE {table.name}")

    def rows(self, table: str, *columns: str) -> list[tuple[Any, ...]]:
        """
        Return columns of all rows of a table.
        """
        found = self._metadata.tables[table]
        return self._execute(select(*(found.c[name] for name in columns)))

    def count(self, *tables: str) -> int:
        """
        Return how many rows there are in some tables.
        """
        statements = [select(func.count()).select_from(self._metadata.tables[t]) for t in tables]
        return sum(self._execute(one)[0][0] for one in statements)

    def positions(self) -> list[bytes]:
        """
        Return the positions of all event logs.
        """
        return [bytes(one) for (one,) in self.rows("event_logs", "position")]

    def bodies(self) -> list[Any]:
        """
        Return the stored parts of all bodies: as text on ClickHouse.
        """
        return [one for (one,) in self.rows("event_logs", "body")]

    def version(self) -> str:
        """
        Return the version of the schema.
        """
        return str(self._execute(text(f"SELECT version_num FROM {VERSIONS}"))[0][0])

    def set_version(self, version: str) -> None:
        """
        Change the version of the schema.
        """
        if self._clickhouse is None:
            with self._engine.begin() as connection:
                connection.execute(
                    text(f"UPDATE {VERSIONS} SET version_num = :one"), {"one": version}
                )
            return
        self._clickhouse.command(
            f"ALTER TABLE {VERSIONS} UPDATE version_num = '{version}' WHERE 1", is_long=True
        )

    def refuse(self, table: str, column: str, value: str) -> None:
        """
        Let the database refuse rows with a value.
        """
        if self._clickhouse is not None:
            self._clickhouse.command(
                f"ALTER TABLE {table} ADD CONSTRAINT refuse CHECK {column} != '{value}'"
            )
            return
        statement = f"ALTER TABLE {table} ADD CHECK ({column} <> '{value}')"
        if self._engine.dialect.name == "sqlite":
            statement = (
                f"CREATE TRIGGER refuse BEFORE INSERT ON {table} WHEN NEW.{column} = '{value}'"
                " BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
        with self._engine.begin() as connection:
            connection.execute(text(statement))

    def _execute(self, statement: Any) -> list[tuple[Any, ...]]:
        if self._clickhouse is not None:
            with self._clickhouse.errors():
                return [tuple(one) for one in self._clickhouse.execute(statement)]
        with self._engine.begin() as connection:
            return [tuple(one) for one in connection.execute(statement)]


def is_clickhouse(database: str) -> bool:
    """
    Tell whether an address is that of a ClickHouse.
    """
    return database.startswith("clickhouse")


def server_of(database: str, request: pytest.FixtureRequest) -> PostgreSQL | ClickHouse | None:
    """
    Return the server of a database, if it has one.
    """
    kind = database.partition(":")[0]
    return None if kind == "sqlite" else request.getfixturevalue(kind)


def with_tables(database: str) -> Tables:
    """
    Create the tables, and return them.
    """
    writer = EventLogWriter(database, ["json"])
    writer.prepare()
    writer.close()
    return Tables(database)
