"""
Creating the tables in ClickHouse.
"""

from __future__ import annotations

from sqlalchemy import select, text

from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.schema import TABLES, VERSION, versions
from nameko_eventlog.store.databases import DatabaseError, shown_address


def create_tables(connection: Connection) -> None:
    """
    Create the tables that are missing.

    Raises:
        DatabaseError: The tables have the schema of a later version.
    """
    version = version_of(connection)
    if version == VERSION:
        return
    for statement in TABLES:
        connection.command(statement)
    if version_of(connection) is None:
        connection.insert("eventlog_schema", {"version_num": [VERSION]})


def version_of(connection: Connection) -> str | None:
    """
    Return the version of the tables' schema; None if there are none.

    Raises:
        DatabaseError: They have the schema of a later version.
    """
    if not connection.has_table(versions.name):
        return None
    version: str | None = connection.scalar(select(versions.c.version_num).limit(1))
    if version not in (None, VERSION):
        raise DatabaseError(
            f"the database {shown_address(connection.url)} has the schema {version!r}, which this"
            " version of nameko-eventlog does not know: install a later version",
            reason="The database has the schema of a later version.",
        )
    return version


def try_tables(uri: str) -> str:
    """
    Test whether the tables are writable, by inserting no rows.
    """
    connection = Connection(uri)
    try:
        with connection.errors():
            if version_of(connection) is None:
                return "none yet: the store creates them when it starts"
            connection.command("INSERT INTO arriving SELECT * FROM arriving WHERE 0")
            return "current and writable"
    finally:
        connection.close()


def probe(uri: str) -> None:
    """
    Ask for an answer.
    """
    connection = Connection(uri)
    try:
        with connection.errors():
            connection.scalar(select(text("1")))
    finally:
        connection.close()
