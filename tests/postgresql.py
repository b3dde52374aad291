"""
A PostgreSQL of the tests' own: installed binaries, private everything else.

Run as a script it says whether those binaries are there (``--check``).
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.rabbitmq import free_ports


_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin")

# Ends the server and removes its files when the pipe on its standard input closes,
# which happens however the process that holds the other end ended.
_WATCHDOG = """
import os, shutil, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
sys.stdin.read()
try:
    with open(sys.argv[1] + "/data/postmaster.pid") as file:
        server = int(file.readline())
    with open(f"/proc/{server}/task/{server}/children") as file:
        processes = [server, *map(int, file.read().split())]
    for signum in (signal.SIGKILL, signal.SIGCONT):
        for process in processes:
            os.kill(process, signum)
except (OSError, ValueError):
    pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""

# Durable, as a crash test needs it, and otherwise small.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_connections": "50",
    # each test has a database of its own, and it would visit hundreds
    "autovacuum_naptime": "1h",
    # after a kill; file by file takes a minute on a busy machine (PostgreSQL 14 and later)
    "recovery_init_sync_method": "syncfs",
}


class DatabaseServerError(RuntimeError):
    """
    The private server is missing, or does not do what it is told.
    """


def find_binaries() -> pathlib.Path:
    """
    Find the folder that holds ``initdb`` and ``postgres``.

    Raises:
        DatabaseServerError: There is none.
    """
    for pattern in _FOLDERS:
        for folder in sorted(map(pathlib.Path, glob.glob(pattern)), reverse=True):
            if (folder / "initdb").exists() and (folder / "postgres").exists():
                return folder
    on_path = shutil.which("initdb")
    if on_path is not None:
        return pathlib.Path(os.path.realpath(on_path)).parent
    raise DatabaseServerError("PostgreSQL is not installed: install the package postgresql.")


class PostgreSQL:
    """
    A server that shares nothing with the system's: a port and a folder of its own.

    Its data outlive `stop` and `kill`; `close` ends it all, and so does the end of the process
    that made it, SIGKILL included. It refuses to run as root: then it is another user's.
    """

    def __init__(self) -> None:
        self._binaries = find_binaries()
        (self.port,) = free_ports(1)
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="eventlog-postgresql-"))
        self._data = self._folder / "data"
        self._log = self._folder / "log"
        self._names = (f"test_{number}" for number in itertools.count())
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            owner = _unprivileged()
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
            self._user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._run(
            "initdb", "-D", self._data, "-A", "trust", "-U", "eventlog", "-E", "UTF8", "--no-sync"
        )
        with (self._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in _SETTINGS.items())

    def __enter__(self) -> PostgreSQL:
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
        with self._log.open("ab") as log:
            # our own child: one that nobody has waited for looks to PostgreSQL as if it ran
            self._server = subprocess.Popen(
                [
                    self._binaries / "postgres",
                    "-D",
                    self._data,
                    "-p",
                    str(self.port),
                    "-k",
                    self._folder,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                start_new_session=True,
                **self._user,
            )
        deadline = time.monotonic() + 120
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                raise DatabaseServerError(f"postgres does not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """
        Stop it: sessions are ended, what was committed is on disk. A frozen one is thawed.
        """
        self.thaw()
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """
        Kill it and all its processes at once, as a crash of the machine does.
        """
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """
        Stop all its processes where they are.
        """
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        Let them go on.
        """
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)

    def create_database(self, locale: str = "C") -> str:
        """
        Make an empty database.

        Args:
            locale: What its text is ordered and lowered by.

        Returns:
            Its address, as `EVENTLOG_STORE` takes it.
        """
        name = next(self._names)
        server = ("-h", "127.0.0.1", "-p", str(self.port), "-U", "eventlog")
        self._run("createdb", *server, "-T", "template0", "--locale", locale, name)
        return f"postgresql://eventlog@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        """
        End it, and remove what it has written.
        """
        if self.running:
            self.kill()
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        self._watchdog.wait(120)  # hundreds of databases, on a busy disk

    def _answers(self) -> bool:
        try:
            self._run("pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port))
        except DatabaseServerError:
            return False
        return True

    def _end(self, signum: int) -> None:
        if self._server is None:
            return
        others = self._processes()[1:]
        self._server.send_signal(signum)
        if signum == signal.SIGKILL:
            for pid in others:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
        self._server.wait(60)
        self._server = None
        deadline = time.monotonic() + 10
        while any(map(_is_alive, others)):
            if time.monotonic() > deadline:
                raise DatabaseServerError(f"{others} do not end")
            time.sleep(0.02)

    def _processes(self) -> list[int]:
        if self._server is None:
            return []
        pid = self._server.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def _run(self, program: str, *args: object) -> None:
        output = self._folder / "output"
        with output.open("wb") as file:  # the server would keep a pipe open
            done = subprocess.run(
                [str(self._binaries / program), *map(str, args)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                timeout=90,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
                **self._user,
            )
        if done.returncode:
            said = output.read_text(errors="replace")
            log = self._log.read_text(errors="replace") if self._log.exists() else ""
            raise DatabaseServerError(f"{program} failed:\n{said}{log[-2000:]}")


def _unprivileged() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise DatabaseServerError("PostgreSQL refuses to run as root, and there is no other user.")


def _is_alive(pid: int) -> bool:
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


if __name__ == "__main__":
    try:
        print(find_binaries())
    except DatabaseServerError as exc:
        sys.exit(str(exc))
