"""
A ClickHouse of the tests' own: its engine as a library, behind its HTTP interface.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse

from tests.postgresql import DatabaseServerError
from tests.rabbitmq import free_ports


_ROOT = pathlib.Path(__file__).parent.parent

# Ends the server and removes its files when the pipe on its standard input closes,
# which happens however the process that holds the other end ended.
_WATCHDOG = """
import os, shutil, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
sys.stdin.read()
try:
    with open(sys.argv[1] + "/pid") as file:
        os.kill(int(file.read()), signal.SIGKILL)
except (OSError, ValueError):
    pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class ClickHouse:
    """
    A server that shares nothing with the system's: a port and a folder of its own.

    Its data outlive `stop` and `kill`; `close` ends it all, and so does the end of the process
    that made it, SIGKILL included.

    Args:
        user: The only one that it knows.
        password: The user's.
    """

    def __init__(self, user: str = "default", password: str = "") -> None:
        (self.port,) = free_ports(1)
        self.user = user
        self.password = password
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="eventlog-clickhouse-"))
        self._log = self._folder / "log"
        self._names = (f"test_{number}" for number in itertools.count())
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def __enter__(self) -> ClickHouse:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """
        Whether there is a server.
        """
        return self._server is not None and self._server.poll() is None

    def start(self) -> None:
        """
        Start it, unless it is running, and return when it answers.

        Raises:
            DatabaseServerError: It does not start; with what it said.
        """
        if self.running:
            return
        arguments = [str(self._folder), str(self.port), self.user, self.password]
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.clickhouse_server", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace")
                raise DatabaseServerError(f"ClickHouse does not start:\n{said}")
            time.sleep(0.02)

    def stop(self) -> None:
        """
        Stop it: what was inserted is on disk, what runs is cancelled. A frozen one is thawed.
        """
        self.thaw()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """
        Kill it, as a crash does.
        """
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """
        Stop it where it is.
        """
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        Let it go on.
        """
        self._signal(signal.SIGCONT)

    def create_database(self) -> str:
        """
        Make an empty database.

        Returns:
            Its address, as `EVENTLOG_STORE` takes it.
        """
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name}")
        user = urllib.parse.quote(self.user, safe="")
        if self.password:
            user += ":" + urllib.parse.quote(self.password, safe="")
        return f"clickhouse://{user}@127.0.0.1:{self.port}/{name}"

    def execute(self, statement: str, *, database: str = "default") -> str:
        """
        Execute a statement.

        Returns:
            What it answers, separated by tabs.

        Raises:
            DatabaseServerError: It fails; with the server's words.
        """
        status, answer = self._request(
            f"/?database={database}",
            statement,
            {"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password},
        )
        if status != 200:
            raise DatabaseServerError(answer)
        return answer

    def close(self) -> None:
        """
        End it, and remove what it has written.
        """
        if self.running:
            self.kill()
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait(60)

    def _answers(self) -> bool:
        try:
            return self._request("/ping")[0] == 200
        except OSError:
            return False

    def _request(
        self, path: str, body: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST" if body else "GET", path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()

    def _signal(self, signum: int) -> None:
        if self.running:
            assert self._server is not None
            self._server.send_signal(signum)

    def _end(self, signum: int) -> None:
        if self._server is None:
            return
        self._server.send_signal(signum)
        self._server.wait(60)
        self._server = None
