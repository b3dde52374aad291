"""
import, of files and pipes, good and bad.
"""

from __future__ import annotations

import json
import pathlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from nameko_eventlog import limits
from nameko_eventlog.store.writing import EventLogWriter
from tests.cli.conftest import Cli
from tests.cli.test_output import shell
from tests.store.archived import all_rows, odd_messages, store_many, store_odd
from tests.store.conftest import body


@pytest.fixture
def uri(folder: pathlib.Path) -> str:
    """
    The configured database.
    """
    return f"sqlite:///{folder}/eventlog.db"


@pytest.fixture
def other(folder: pathlib.Path) -> str:
    """
    Another database, that of other.yaml.
    """
    uri = f"sqlite:///{folder}/other.db"
    (folder / "other.yaml").write_text(yaml.safe_dump({"EVENTLOG_STORE": {"uri": uri}}))
    return uri


def line(message_id: str, **changes: Any) -> str:
    """
    Make a line of an export.
    """
    time = "2026-01-02T03:04:05.678+00:00"
    return json.dumps({"message_id": message_id, "time": time, "body": body(**changes)})


class TestImport:
    def test_files(self, run: Cli, uri: str, other: str) -> None:
        """
        Several files of any format are imported, each event log once.
        """
        store_odd(uri)
        for name in ("x.jsonl", "x.jsonl.gz", "x.parquet"):
            run("export", name)

        result = run("import", "x.jsonl", "x.jsonl.gz", "x.parquet", "--config", "other.yaml")

        assert (0, "48 read, 16 stored, 32 already there\n", "") == (
            result.exit_code,
            result.stdout,
            result.stderr,
        )
        assert all_rows(uri) == all_rows(other)

    def test_pipe(self, folder: pathlib.Path, uri: str, other: str) -> None:
        """
        One database is copied to another through a pipe.
        """
        store_odd(uri)
        number = len(odd_messages())

        script = shlex.quote(str(pathlib.Path(sys.executable).with_name("nameko-eventlog")))

        code, out, err = shell(f"export | {script} import - --config other.yaml", folder)

        assert (0, f"{number} read, {number} stored, 0 already there\n") == (code, out)
        assert f"{number} event logs exported\n" == err
        assert all_rows(uri) == all_rows(other)

    def test_numbers(self, run: Cli, uri: str) -> None:
        """
        Large numbers are easy to read.
        """
        store_many(uri, 1500)
        run("export", "x.jsonl")

        assert "1,500 read, 0 stored, 1,500 already there\n" == run("import", "x.jsonl").stdout


class TestBadLines:
    def test_stops(self, run: Cli, folder: pathlib.Path, uri: str) -> None:
        """
        A bad line stops the import; corrected, it goes on.
        """
        path = folder / "x.jsonl"
        good, bad, last = line("a"), line("b", service_name=None), line("c")
        path.write_text("\n".join([good, bad, last]))

        result = run("import", "x.jsonl")

        assert (1, "") == (result.exit_code, result.stdout)
        assert (
            "Error: x.jsonl, line 2: service_name must be a non-empty string, not None"
            " (message_id 'b')\n"
            "1 read, 1 stored, 0 already there; correct it or pass --skip-bad, and import it again"
            " to go on: nothing is stored twice\n"
        ) == result.stderr
        path.write_text("\n".join([good, line("b"), last]))
        assert "3 read, 2 stored, 1 already there\n" == run("import", "x.jsonl").stdout
        assert ["a", "b", "c"] == sorted(row["message_id"] for row in all_rows(uri))

    def test_skipped(self, run: Cli, folder: pathlib.Path, uri: str) -> None:
        """
        With --skip-bad it goes on, prints each error, and ends with exit code 1.
        """
        lines = [line("a"), "rubbish \x1b[2J", line("b"), line("c", event_type="\u202e" * 501)]
        (folder / "x.jsonl").write_text("\n".join(lines))
        (folder / "y.jsonl").write_text("[]")

        result = run("import", "x.jsonl", "y.jsonl", "--skip-bad")

        assert (1, "5 read, 2 stored, 0 already there, 3 skipped\n") == (
            result.exit_code,
            result.stdout,
        )
        first, second, third = result.stderr.splitlines()
        assert first.startswith("skipped x.jsonl, line 2: it is not a line of an export: JSON")
        assert "\x1b" not in first
        assert "skipped x.jsonl, line 4: event_type has 501 characters, more than 500" in second
        assert third.startswith("skipped y.jsonl, line 1: it is not a line of an export")
        assert ["a", "b"] == sorted(row["message_id"] for row in all_rows(uri))

    @pytest.mark.parametrize(
        ("args", "code", "said"),
        [
            ((), 2, "Missing argument"),
            (("nope.jsonl",), 2, "'nope.jsonl' cannot be read: No such file or directory"),
            (("x.jsonl", "x.csv"), 2, "'x.csv' cannot be imported, because CSV is made for"),
            (("x.jsonl", "x.txt"), 2, "'x.txt' is not an archive: name a .jsonl, .jsonl.gz or"),
            (("folder.jsonl",), 2, "'folder.jsonl' cannot be read: Is a directory"),
        ],
    )
    def test_mistakes(
        self, run: Cli, folder: pathlib.Path, args: tuple[str, ...], code: int, said: str
    ) -> None:
        """
        A mistake is told in a sentence, before anything is imported.
        """
        (folder / "x.jsonl").write_text(line("a"))
        (folder / "x.csv").write_text("a,b")
        (folder / "x.txt").write_text(line("a"))
        (folder / "folder.jsonl").mkdir()

        result = run("import", *args)

        assert code == result.exit_code
        assert said in result.stderr
        assert not (folder / "eventlog.db").exists()

    def test_no_database(
        self, run: Cli, folder: pathlib.Path, configure: Callable[..., None]
    ) -> None:
        """
        If the database cannot be used, it says so, and that nothing is lost.
        """
        configure(EVENTLOG_STORE={"uri": f"sqlite:///{folder}/nowhere/x.db"})
        (folder / "x.jsonl").write_text(line("a"))

        result = run("import", "x.jsonl")

        assert 3 == result.exit_code
        assert "0 read, 0 stored, 0 already there; import it again to go on" in result.stderr

    def test_interrupted(
        self, run: Cli, folder: pathlib.Path, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Ctrl-C leaves what was committed, and says so.
        """
        monkeypatch.setattr(limits, "IMPORT_ROWS", 10)
        (folder / "x.jsonl").write_text("\n".join(line(f"m{number}") for number in range(35)))
        write_rows = EventLogWriter.write_rows

        def interrupted(writer: EventLogWriter, rows: Any) -> Any:
            if rows[0]["message_id"] == "m20":
                raise KeyboardInterrupt
            return write_rows(writer, rows)

        with monkeypatch.context() as changed:
            changed.setattr(EventLogWriter, "write_rows", interrupted)
            result = run("import", "x.jsonl")

        assert 1 == result.exit_code
        assert (
            "Error: interrupted\n20 read, 20 stored, 0 already there; import it again to go on:"
            " nothing is stored twice\n"
        ) == result.stderr
        assert "35 read, 15 stored, 20 already there\n" == run("import", "x.jsonl").stdout
