"""
export, into files and pipes, whatever interrupts it.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import pathlib
import pty
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from nameko_eventlog.store.archives import formats as archives
from tests.cli.conftest import Cli
from tests.cli.test_output import shell
from tests.cli.test_tailing import command
from tests.dispatching.test_extras import run_without
from tests.store.archived import all_rows, store, store_many, store_odd
from tests.store.conftest import body, make_message


Stored = Callable[..., None]

LINE = "x" * 2000


@pytest.fixture
def uri(folder: pathlib.Path) -> str:
    """
    The configured database.
    """
    return f"sqlite:///{folder}/eventlog.db"


def lines(path: pathlib.Path) -> list[Any]:
    """
    Read JSON lines.
    """
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def cursor_in(said: str) -> str:
    """
    Return the cursor with which an interrupted export goes on.
    """
    found = re.search(r"^--cursor (\S+)$", said, re.M)
    assert found is not None, said
    return found[1]


class TestFormats:
    def test_standard_output(self, run: Cli, uri: str) -> None:
        """
        Without a file, JSON lines go to standard output, and nothing else.
        """
        store_odd(uri)

        for args in ((), ("-",), ("--format", "jsonl")):
            result = run("export", *args)

            assert (0, "16 event logs exported\n") == (result.exit_code, result.stderr)
            assert all_rows(uri) == [json.loads(line) for line in result.stdout.splitlines()]

    def test_files(self, run: Cli, folder: pathlib.Path, uri: str) -> None:
        """
        The suffix of a file tells the format, and --format does where it cannot.
        """
        store_many(uri, 3)

        for name in ("x.jsonl", "x.csv", "x.jsonl.gz", "x.csv.gz", "X.PARQUET"):
            result = run("export", name)
            assert (0, "", "3 event logs exported\n") == (
                result.exit_code,
                result.stdout,
                result.stderr,
            )
        assert 0 == run("export", "x.txt", "--format", "jsonl").exit_code
        assert 0 == run("export", "x.gz", "--format", "csv").exit_code

        assert all_rows(uri) == lines(folder / "x.jsonl") == lines(folder / "x.txt")
        assert (folder / "x.jsonl").read_bytes() == unzipped(folder / "x.jsonl.gz")
        assert (folder / "x.csv").read_bytes() == unzipped(folder / "x.csv.gz")
        assert (folder / "x.csv").read_bytes() == unzipped(folder / "x.gz")
        assert b"PAR1" == (folder / "X.PARQUET").read_bytes()[:4]

    def test_csv(self, run: Cli, stored: Stored) -> None:
        """
        CSV has a head, and no cell is a formula.
        """
        evil = "=HYPERLINK(1)"
        stored({"event_type": evil, "service_name": evil, "level": evil, "entrypoint_name": evil})

        head, row = csv.reader(io.StringIO(run("export", "--format", "csv").stdout))

        assert ["message_id", "time", "time_note", "service_name", "event_type"] == head[:5]
        assert 4 == row.count(f"'{evil}") + row.count(f"'{evil.lower()}")
        assert evil == json.loads(row[-1])["event_type"]

    def test_filters(self, run: Cli, stored: Stored) -> None:
        """
        It takes the filters of `query`, and without --since those of the body search all times.
        """
        stored(
            {"timestamp": "2020-01-01T00:00:00Z", "data": {"order": 5}},
            {"data": {"order": 5}},
            {"service_name": "web"},
        )

        def number(*args: str) -> int:
            return len(run("export", *args).stdout.splitlines())

        assert 3 == number()
        assert 1 == number("-s", "web")
        assert 2 == number("--data", "order=5")
        assert 1 == number("--data", "order=5", "--since", "7d")
        assert 1 == number("--until", "2021-01-01")

    def test_nothing(self, run: Cli, stored: Stored, folder: pathlib.Path) -> None:
        """
        If there is nothing to export, the exit code says so, and similar names are suggested.
        """
        stored({})

        result = run("export", "x.jsonl", "-s", "shp")

        assert 1 == result.exit_code
        assert (
            "no stored event log has service 'shp'; did you mean 'shop'?\nno event logs found\n"
        ) == result.stderr
        assert b"" == (folder / "x.jsonl").read_bytes()
        assert 0 == run("export", "x.jsonl").exit_code

    @pytest.mark.parametrize(
        ("args", "code", "said"),
        [
            (("x.txt",), 2, "pass --format: the name of 'x.txt' does not tell it"),
            (("--format", "parquet"), 2, "Parquet cannot be written to standard output"),
            (("x.jsonl", "--cursor", "abc"), 2, "pass the cursor of an interrupted export"),
            (("x.jsonl", "--since", "never"), 2, "'never' is not a time"),
            (("nowhere/x.jsonl",), 2, "'nowhere/x.jsonl' cannot be written: No such file"),
            (("there.csv",), 2, "'there.csv' exists: name another file, or remove it"),
            (("there.parquet",), 2, "'there.parquet' exists: name another file"),
        ],
    )
    def test_mistakes(
        self,
        run: Cli,
        stored: Stored,
        folder: pathlib.Path,
        args: tuple[str, ...],
        code: int,
        said: str,
    ) -> None:
        """
        A mistake is told in a sentence, and no file is made or changed.
        """
        stored({})
        for name in ("there.csv", "there.parquet"):
            (folder / name).write_text("precious")

        result = run("export", *args)

        assert code == result.exit_code
        assert said in result.stderr
        assert not (folder / "x.jsonl").exists()
        assert "precious" == (folder / "there.csv").read_text()

    def test_no_database(self, run: Cli, folder: pathlib.Path) -> None:
        """
        Without a database there is no file, either.
        """
        for name in ("x.jsonl", "x.parquet"):
            result = run("export", name)

            assert 3 == result.exit_code
            assert "does not exist: the store creates it when it starts" in result.stderr
            assert "nothing was exported: run the same command again" in result.stderr
            assert not (folder / name).exists()

    @pytest.mark.parametrize("args", [["export", "x.parquet"], ["import", "x.parquet"]])
    def test_missing_extra(self, folder: pathlib.Path, uri: str, args: list[str]) -> None:
        """
        If pyarrow is not installed, one line says what to install.
        """
        store_many(uri, 1)
        (folder / "x.parquet").touch()
        code = f"import sys; sys.argv[1:] = {args!r}; import _nameko_eventlog as m; m.main()"

        found = run_without("pyarrow", code, folder)

        said = "Error: pyarrow is not installed: pip install 'nameko-eventlog[parquet]'"
        assert (2, said) == found


def content(path: pathlib.Path) -> bytes:
    """
    Read a file, whether it is compressed or not.
    """
    return unzipped(path) if path.suffix == ".gz" else path.read_bytes()


def unzipped(path: pathlib.Path) -> bytes:
    """
    Read a file that is compressed with gzip.
    """
    return gzip.decompress(path.read_bytes())


class TestInterruption:
    @pytest.mark.parametrize(
        ("name", "number", "kibibytes", "how"),
        [
            ("x.jsonl", 6, 5_000, "this option, which appends to 'x.jsonl':"),
            ("x.csv.gz", 6, 3_000, "this option, which appends to 'x.csv.gz':"),
            ("x.parquet", 20, 22_000, "another FILE and with this option:"),
        ],
        ids=["jsonl", "csv.gz", "parquet"],
    )
    def test_full_disk(
        self, folder: pathlib.Path, uri: str, name: str, number: int, kibibytes: int, how: str
    ) -> None:
        """
        When the disk is full, it says what is exported, and how to go on.
        """
        large = [body(data=os.urandom(1_000_000).hex()) for _ in range(number)]
        store(uri, [make_message(one) for one in large])
        whole = f"whole-{name}"
        all_of_them = (0, "", f"{number} event logs exported\n")
        assert all_of_them == shell(f"export {whole} -s shop", folder)

        code, out, err = limited(f"export {name} -s shop", folder, kibibytes)

        assert (1, "") == (code, out)
        first, second, _ = err.splitlines()
        assert f"Error: '{name}' cannot be written: File too large" == first
        said = r"(\d+) event logs were exported; to export the rest, run the same command with "
        found = re.fullmatch(f"{said}{re.escape(how)}", second)
        assert found is not None
        further = "y.parquet" if name == "x.parquet" else name
        rest = (0, "", f"{number - int(found[1])} event logs exported\n")
        assert rest == shell(f"export {further} -s shop --cursor {cursor_in(err)}", folder)
        if name == "x.parquet":
            imported = shell("import x.parquet y.parquet", folder)
            assert (0, "20 read, 0 stored, 20 already there\n", "") == imported
        else:
            assert content(folder / whole) == content(folder / name)

    def test_full_redirection(self, folder: pathlib.Path, uri: str) -> None:
        """
        So it does if standard output is a file; that has whole lines, and can be appended to.
        """
        store_many(uri, 5000, text=LINE)
        shell("export > whole.jsonl", folder)
        (folder / "x.jsonl").write_text("before\n")

        code, out, err = limited("export >> x.jsonl", folder, 3000)

        assert (1, "") == (code, out)
        assert err.startswith("Error: standard output cannot be written: File too large\n")
        assert "append the output of the same command with this option" in err
        shell(f"export --cursor {cursor_in(err)} >> x.jsonl", folder)
        assert (
            f"before\n{(folder / 'whole.jsonl').read_text()}" == (folder / "x.jsonl").read_text()
        )

    def test_ctrl_c(self, folder: pathlib.Path, uri: str) -> None:
        """
        Ctrl-C ends it after a whole line, and it goes on with the next one.
        """
        store_many(uri, 5000, text=LINE)
        with command("export", folder=folder, stderr=subprocess.PIPE) as process:
            first = process.stdout.read(1000)
            process.send_signal(signal.SIGINT)  # while it writes, because nobody reads
            first += process.stdout.read()
            said = process.stderr.read().decode()

        assert 1 == process.returncode
        assert said.startswith("Error: interrupted\n")
        number = len(first.splitlines())
        assert 0 < number < 5000
        assert f"{number:,} event logs were exported; to export the rest, append the" in said
        code, rest, _ = shell(f"export --cursor {cursor_in(said)}", folder)
        assert 0 == code
        found = [json.loads(line) for line in (first.decode() + rest).splitlines()]
        assert all_rows(uri) == found

    def test_ctrl_c_twice(self, folder: pathlib.Path, uri: str) -> None:
        """
        Pressed twice, it ends at once, even if nobody reads what it writes.
        """
        store_many(uri, 5000, text=LINE)
        with command("export", folder=folder, stderr=subprocess.PIPE) as process:
            process.stdout.read(1000)
            process.send_signal(signal.SIGINT)
            while process.poll() is None:
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            said = process.stderr.read().decode()

        assert 1 == process.returncode
        assert "Error: interrupted\nnothing was exported: run the same command again" in said

    def test_interrupted_file(
        self, run: Cli, folder: pathlib.Path, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        An interrupted file is appended to, however often, with the same relative times.
        """
        monkeypatch.setattr(archives, "_FLUSH_BYTES", 100_000)
        store_many(uri, 3000, text="x" * 100)
        flush = archives.LineArchive.flush
        flushed = 0

        def interrupted(archive: archives.LineArchive) -> None:
            nonlocal flushed
            flushed += 1
            if flushed % 4 == 0:
                raise KeyboardInterrupt
            flush(archive)

        monkeypatch.setattr(archives.LineArchive, "flush", interrupted)
        args = ["export", "x.jsonl", "--since", "7d"]
        result = run(*args)
        interruptions = 0
        while result.exit_code == 1:
            interruptions += 1
            result = run(*args, "--cursor", cursor_in(result.stderr))

        assert interruptions > 2
        assert all_rows(uri) == lines(folder / "x.jsonl")

    def test_cursor_for_a_new_file(self, run: Cli, folder: pathlib.Path, uri: str) -> None:
        """
        With a cursor, CSV begins with its head in a new file, and not on standard output.
        """
        store_many(uri, 5000, text=LINE)
        *_, said = limited("export x.csv", folder, 3000)
        (folder / "x.csv").unlink()

        run("export", "x.csv", "--cursor", cursor_in(said))
        rest = run("export", "--format", "csv", "--cursor", cursor_in(said)).stdout_bytes

        head, _, others = (folder / "x.csv").read_bytes().partition(b"\r\n")
        assert head.startswith(b"message_id,time")
        assert others == rest

    def test_cursor_for_parquet(self, run: Cli, folder: pathlib.Path, uri: str) -> None:
        """
        With a cursor, an existing Parquet file is not touched.
        """
        store_many(uri, 5000, text=LINE)
        *_, said = limited("export x.jsonl", folder, 3000)
        (folder / "x.parquet").write_text("precious")

        result = run("export", "x.parquet", "--cursor", cursor_in(said))

        assert 2 == result.exit_code
        assert "exists: Parquet cannot be appended to: name another file" in result.stderr
        assert "precious" == (folder / "x.parquet").read_text()

    def test_unwritable(self, folder: pathlib.Path, uri: str) -> None:
        """
        Standard output that cannot be written ends it, and so does a device that is full.
        """
        store_many(uri, 3)

        for line in ("export > /dev/full", "export /dev/full --format jsonl"):
            code, _, err = shell(line, folder)

            assert 1 == code
            assert "cannot be written: No space left on device\nnothing was exported" in err

    def test_closed_pipe(self, folder: pathlib.Path, uri: str) -> None:
        """
        Who reads may stop, and sees nothing of it.
        """
        store_many(uri, 5000, text=LINE)

        code, out, err = shell("export | head -c 10", folder)

        assert (0, '{"message_', "") == (code, out, err)


def limited(line: str, folder: pathlib.Path, kibibytes: int) -> tuple[int, str, str]:
    """
    Run a command whose files can have only so many KiB.
    """
    script = shlex.quote(str(pathlib.Path(sys.executable).with_name("nameko-eventlog")))
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f {kibibytes}; {script} {line}"],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


class TestProgress:
    def test_terminal(self, folder: pathlib.Path, uri: str) -> None:
        """
        On a terminal there is a progress bar on standard error.
        """
        store_many(uri, 3000)
        for args in (["export", "x.jsonl"], ["import", "x.jsonl"]):
            ours, theirs = pty.openpty()
            with command(*args, folder=folder, stderr=theirs) as process:
                os.close(theirs)
                out = process.stdout.read().decode()
            said = drained(ours)

            assert 0 == process.returncode
            assert f"{args[0]}ing" in said
            assert "100%" in said
            assert (
                "" if args[0] == "export" else "3,000 read, 0 stored, 3,000 already there\n"
            ) == out

    def test_all_on_terminal(self, folder: pathlib.Path, uri: str) -> None:
        """
        If standard output is a terminal, too, there are only the lines.
        """
        store_many(uri, 3)
        ours, theirs = pty.openpty()
        with command("export", folder=folder, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            said = drained(ours)

        assert 0 == process.returncode
        assert "exporting" not in said
        assert 4 == len(said.splitlines())


def drained(terminal: int) -> str:
    """
    Read what was written to a terminal, and close it.
    """
    said = b""
    try:
        while some := os.read(terminal, 100_000):
            said += some
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return said.decode()
