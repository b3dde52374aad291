"""
The tests' own PostgreSQL.
"""

from __future__ import annotations

import eventlet
import pytest
from sqlalchemy.exc import OperationalError

from nameko_eventlog.store.databases import open_engine
from tests.postgresql import PostgreSQL


def execute(uri: str, statement: str) -> list[tuple[object, ...]]:
    """
    Execute a statement in a connection of its own.
    """
    engine = open_engine(uri)
    try:
        with engine.begin() as connection:
            result = connection.exec_driver_sql(statement)
            return [tuple(row) for row in result] if result.returns_rows else []
    finally:
        engine.dispose()


class TestPostgreSQL:
    def test_kill(self, postgresql: PostgreSQL) -> None:
        """
        What was committed is there after a crash.
        """
        uri = postgresql.create_database()
        execute(uri, "CREATE TABLE kept (value int)")
        execute(uri, "INSERT INTO kept VALUES (4711)")
        postgresql.kill()

        with pytest.raises(OperationalError):
            execute(uri, "SELECT 1")
        postgresql.start()

        assert [(4711,)] == execute(uri, "SELECT value FROM kept")

    def test_stop(self, postgresql: PostgreSQL) -> None:
        """
        It is stopped and started again on the same port.
        """
        uri = postgresql.create_database()
        postgresql.stop()

        assert not postgresql.running
        postgresql.start()
        assert [(1,)] == execute(uri, "SELECT 1")

    def test_freeze(self, postgresql: PostgreSQL) -> None:
        """
        Frozen, it answers nobody; thawed, it goes on.
        """
        uri = postgresql.create_database()
        postgresql.freeze()
        try:
            with eventlet.Timeout(2, False):
                execute(uri, "SELECT 1")
                pytest.fail("a frozen server has answered")
        finally:
            postgresql.thaw()

        assert [(1,)] == execute(uri, "SELECT 1")
