"""
The tests' own PostgreSQL.
"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import eventlet
import pytest
from sqlalchemy.exc import OperationalError

from nameko_eventlog.store.sql.engines import open_engine
from tests.postgresql import DatabaseServerError, PostgreSQL
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parent.parent

OWNER = """
import time
from tests.postgresql import PostgreSQL
server = PostgreSQL()
server.start()
{then}
print(server._folder, server._server.pid, flush=True)
time.sleep(60)
"""


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


def is_running(pid: int) -> bool:
    """
    Whether there is such a process, other than a dead one that nobody waited for.
    """
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


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

    def test_stop_frozen(self, postgresql: PostgreSQL) -> None:
        """
        A frozen server can be stopped.
        """
        postgresql.freeze()
        postgresql.stop()

        assert not postgresql.running
        postgresql.start()

    def test_start_fails(self) -> None:
        """
        A server that does not start says why.
        """
        server = PostgreSQL()
        try:
            with (server._data / "postgresql.conf").open("a") as file:
                file.write("nonsense = 1\n")
            with pytest.raises(DatabaseServerError) as raised:
                server.start()
        finally:
            server.close()

        assert 'unrecognized configuration parameter "nonsense"' in str(raised.value)

    @pytest.mark.parametrize("then", ["", "server.freeze()"])
    def test_owner_is_killed(self, then: str) -> None:
        """
        The server and its files go with the process that made it, killed or not, frozen or not.
        """
        with subprocess.Popen(
            [sys.executable, "-c", OWNER.format(then=then)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as owner:
            assert owner.stdout is not None
            folder, pid = owner.stdout.readline().split()
            owner.kill()

        wait_until(lambda: not pathlib.Path(folder).exists())
        wait_until(lambda: not is_running(int(pid)))
