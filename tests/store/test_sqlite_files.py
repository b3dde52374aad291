"""
SQLite's files: which one an address names, and one that may only be read.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone

import pytest
from click.testing import CliRunner
from nameko.exceptions import ConfigurationError

from nameko_eventlog.cli.commands import cli
from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.probing import try_tables
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.retention import count_before, purge
from nameko_eventlog.store.sql import sqlite_files
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body


NOBODY = 65534


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "path"),
        [
            ("sqlite:///e.db", "e.db"),
            ("sqlite:////data/e.db", "/data/e.db"),
            ("sqlite+pysqlite:////data/e.db", "/data/e.db"),
            ("sqlite:////data/what?/e.db", "/data/what?/e.db"),
            ("sqlite:////data/a?b?c", "/data/a?b?c"),
            ("sqlite:////data/e.db?uri=true", "/data/e.db"),
            ("sqlite:///file:e.db?uri=true", "e.db"),
            ("sqlite:///file:/data/e.db?uri=1", "/data/e.db"),
            ("sqlite:///file:///data/e.db?uri=true", "/data/e.db"),
            ("sqlite:///file://localhost/data/e%20%3f.db?uri=true", "/data/e ?.db"),
            ("sqlite:///file:e.db", "file:e.db"),
            ("sqlite:///file:e.db?uri=false", "file:e.db"),
            ("sqlite:////data/e%20.db", "/data/e%20.db"),
            ("postgresql://h/x", None),
        ],
    )
    def test_named(self, address: str, path: str | None) -> None:
        """
        The file is the one that the address says, and that SQLAlchemy documents.
        """
        assert path == sqlite_files.file_of(address)

    @pytest.mark.parametrize(
        ("address", "expected"),
        [
            ("sqlite:////data/e.db?mode=ro", "without the parameter 'mode'"),
            ("sqlite:////data/e.db?timeout=5", "without the parameter 'timeout'"),
            ("sqlite:///file:e.db?mode=memory&uri=true", "without the parameter 'mode'"),
            ("sqlite:///file:e.db?uri=true&cache=shared", "without the parameter 'cache'"),
            ("sqlite:////data/e.db?uri=perhaps", "without the parameter 'uri'"),
            ("sqlite:////data/a?b=c/e.db", "without the parameter 'b'"),
            ("sqlite:////data/e.db?", "without ? at its end"),
            ("sqlite:///file://there/e.db?uri=true", "a file on this machine"),
            ("sqlite:///:memory:", "a database in memory is lost"),
            ("sqlite:///file::memory:?uri=true", "a database in memory is lost"),
            ("sqlite:///file:?uri=true", "a database in memory is lost"),
            ("sqlite://", "a database in memory is lost"),
            ("sqlite:///a\0b", "NUL"),
        ],
    )
    def test_refused(self, address: str, expected: str) -> None:
        """
        What has no effect is refused with its name, in every part by the same sentence.
        """
        with pytest.raises(ConfigurationError, match=r"EVENTLOG_STORE\.uri must be") as raised:
            parse_store_config({"EVENTLOG_STORE": {"uri": address}})
        assert expected in str(raised.value)
        with pytest.raises(DatabaseError, match="is not an address of an event log") as refused:
            EventLogQuery(address)
        assert expected in str(refused.value)

    @pytest.mark.parametrize(
        "address", ["sqlite:///file:x%20y.db?uri=true", "sqlite:///wh?t.db", "sqlite:///file:x"]
    )
    def test_every_part(
        self,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
        message: Make,
        address: str,
    ) -> None:
        """
        Store, queries, rejects, retention, check and commands all have the same file.
        """
        monkeypatch.chdir(tmp_path)
        path = sqlite_files.file_of(address)
        writer = EventLogWriter(address, ["json"])
        writer.write([message(body()), message("no body")])
        writer.close()
        now = datetime(2100, 1, 1, tzinfo=timezone.utc)
        (tmp_path / "config.yaml").write_text(f"EVENTLOG_STORE: {{uri: '{address}'}}")

        assert [path] == [one.name for one in tmp_path.glob("*[!l]")]
        with EventLogQuery(address) as query:
            assert 1 == len(query.query()["event_logs"])
        rejects = Rejects(address)
        assert 1 == len(rejects.list())
        rejects.close()
        assert 2 == count_before(address, now)
        assert "current and writable" == try_tables(address)
        assert "order_paid" in CliRunner().invoke(cli, ["query"]).output
        assert f"sqlite:///{path} answers" in CliRunner().invoke(cli, ["check"]).output
        assert 2 == sum(purge(address, now))


QUERY = """
import sys
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.rejecting import Rejects
rejects = Rejects(sys.argv[1]).list()
with EventLogQuery(sys.argv[1]) as query:
    print(len(query.query()["event_logs"]), len(query.services()), len(rejects))
"""


def ask_as_nobody(uri: str) -> str:
    """
    Ask as a user who may write nothing.
    """
    done = subprocess.run(
        [
            *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
            *(sys.executable, "-W", "ignore", "-c", QUERY, uri),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """
    A folder that every user reaches.
    """
    path = pathlib.Path(f"/tmp/eventlog-readonly-{os.getpid()}")
    path.mkdir(mode=0o755)
    yield path
    subprocess.run(["umount", str(path / "mounted")], capture_output=True, check=False)
    shutil.rmtree(path)


@pytest.fixture
def stored(folder: pathlib.Path, message: Make) -> Callable[[], EventLogWriter]:
    """
    Store an event log, and return the writer, which is open.
    """

    def stored() -> EventLogWriter:
        writer = EventLogWriter(f"sqlite:///{folder}/e.db", ["json"])
        writer.write([message(body()), message("no body")])
        (folder / "e.db").chmod(0o644)
        for path in folder.glob("e.db-*"):
            path.chmod(0o644)
        return writer

    return stored


class TestReadOnly:
    def test_nobody_writes(
        self, folder: pathlib.Path, stored: Callable[[], EventLogWriter]
    ) -> None:
        """
        Another user reads what a store that is stopped has left, and leaves nothing behind.
        """
        stored().close()
        folder.chmod(0o555)

        assert "1 1 1" == ask_as_nobody(f"sqlite:///{folder}/e.db")
        assert ["e.db"] == [path.name for path in folder.iterdir()]

    def test_while_the_store_runs(
        self, folder: pathlib.Path, stored: Callable[[], EventLogWriter], message: Make
    ) -> None:
        """
        While the store runs, another user reads what it has just written.
        """
        writer = stored()
        writer.write([message(body())])

        assert "2 1 1" == ask_as_nobody(f"sqlite:///{folder}/e.db")
        writer.close()

    def test_after_a_crash(
        self, folder: pathlib.Path, stored: Callable[[], EventLogWriter], tmp_path: pathlib.Path
    ) -> None:
        """
        What a store that was killed has left in its log is read as well.
        """
        writer = stored()
        (folder / "copy").mkdir()
        for name in ("e.db", "e.db-wal"):
            shutil.copy(folder / name, folder / "copy" / name)
        writer.close()
        assert (folder / "copy" / "e.db-wal").stat().st_size

        assert "1 1 1" == ask_as_nobody(f"sqlite:///{folder}/copy/e.db")

    def test_not_readable(
        self, folder: pathlib.Path, stored: Callable[[], EventLogWriter]
    ) -> None:
        """
        Who may not read it is told what cannot be read.
        """
        writer = stored()
        for path in folder.glob("e.db-*"):
            path.chmod(0o600)
        said = ask_as_nobody(f"sqlite:///{folder}/e.db")
        writer.close()

        assert "the file or the files beside it (-wal, -shm) cannot be read" in said

    def test_no_wal_yet(self, folder: pathlib.Path) -> None:
        """
        A file that was never in WAL mode is read as well, if it has the tables.
        """
        sqlite3.connect(folder / "e.db").execute("CREATE TABLE others (one)").connection.close()
        (folder / "e.db").chmod(0o444)

        assert "it has no event log tables" in ask_as_nobody(f"sqlite:///{folder}/e.db")


class TestSnapshot:
    """
    A file in a directory that cannot be written, as a reader in this process has it.
    """

    @pytest.fixture
    def query(
        self, tmp_path: pathlib.Path, message: Make, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[EventLogQuery]:
        uri = f"sqlite:///{tmp_path}/e.db"
        writer = EventLogWriter(uri, ["json"])
        writer.write([message(body())])
        writer.close()

        opened = sqlite_files._open

        def refused(address: str, *args: object, **options: bool) -> sqlite3.Connection:
            if not options and not os.path.exists(f"{tmp_path}/e.db-shm"):
                raise sqlite3.OperationalError("attempt to write a readonly database")
            return opened(address, *args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(sqlite_files, "_open", refused)  # root may write everywhere
        with EventLogQuery(uri) as query:
            yield query

    def test_writer_comes(
        self, query: EventLogQuery, tmp_path: pathlib.Path, message: Make
    ) -> None:
        """
        When a store begins to write, the next question sees it, and so on when it ends.
        """
        found = [len(query.query()["event_logs"])]
        writer = EventLogWriter(f"sqlite:///{tmp_path}/e.db", ["json"])
        for _ in range(2):
            writer.write([message(body())])
            found.append(len(query.query()["event_logs"]))
        writer.close()
        found.append(len(query.query()["event_logs"]))

        assert [1, 2, 3, 3] == found

    def test_changed_meanwhile(
        self, query: EventLogQuery, tmp_path: pathlib.Path, message: Make
    ) -> None:
        """
        An answer that was read while somebody wrote is none: the next one is right.
        """
        writer = EventLogWriter(f"sqlite:///{tmp_path}/e.db", ["json"])

        query.services()
        with pytest.raises(DatabaseError, match="it changed while being read: try again"):
            with query._reader.reading():
                writer.write([message(body())])

        assert 2 == len(query.query()["event_logs"])
        writer.close()
