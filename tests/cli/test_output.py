"""
What becomes of a command that cannot write.
"""

from __future__ import annotations

import io
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from _nameko_eventlog import run
from tests.cli.test_tailing import command, publish
from tests.store.conftest import body
from tests.waiting import wait_until


def shell(line: str, folder: pathlib.Path) -> tuple[int, str, str]:
    """
    Run a command with redirections: its exit code, its output and its errors.
    """
    script = shlex.quote(str(pathlib.Path(sys.executable).with_name("nameko-eventlog")))
    done = subprocess.run(
        ["bash", "-c", f"{script} {line}"],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


COMMANDS = [
    "query",
    "query --json",
    "query --csv",
    "trace shop.pay.2",
    "trace shop.pay.2 --json",
    "count",
    "count --json",
    "--help",
]


class TestTellingOutput:
    @pytest.mark.parametrize(
        ("redirection", "reason"),
        [(">&-", "it is closed"), ("> /dev/full", "No space left on device")],
    )
    def test_unwritable(
        self, folder: pathlib.Path, stored: Callable[..., None], redirection: str, reason: str
    ) -> None:
        """
        One line says why, and the exit code is 1.
        """
        stored({"call_stack": ["shop.pay.2"]})
        for line in ("query", "--help"):
            found = shell(f"{line} {redirection}", folder)

            assert (line, (1, "", f"Error: the output cannot be written: {reason}\n")) == (
                line,
                found,
            )

    def test_tail(
        self, configure: Callable[..., None], folder: pathlib.Path, nowhere: str
    ) -> None:
        """
        tail says so before it connects to anything.
        """
        configure(AMQP_URI=nowhere)
        for options in ("-s shop", "--follow"):
            assert (1, "", "Error: the output cannot be written: it is closed\n") == shell(
                f"tail {options} >&-", folder
            )

    def test_tail_full(
        self,
        folder: pathlib.Path,
        stored: Callable[..., None],
        rabbit_config: dict[str, Any],
        configure: Callable[..., None],
    ) -> None:
        """
        It is not taken for an error of the broker's, or of the database's.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])
        stored({})
        for args in (("-s", "shop"), ("-s", "shop", "--json"), ("--follow",)):
            with (
                open("/dev/full", "wb") as full,
                command(
                    "tail", *args, folder=folder, stdout=full, stderr=subprocess.PIPE
                ) as process,
            ):

                def ended(args: tuple[str, ...] = args, process: Any = process) -> bool:
                    stored({}) if "--follow" in args else publish(
                        rabbit_config["AMQP_URI"], body()
                    )
                    return process.poll() is not None

                wait_until(ended, interval=0.3)
                said = process.stderr.read().decode()

            assert (1, "Error: the output cannot be written: No space left on device\n") == (
                process.returncode,
                said,
            )

    def test_whole(self, folder: pathlib.Path, stored: Callable[..., None]) -> None:
        """
        What can be written is, to its end.
        """
        stored(*[{"data": {"n": number}} for number in range(300)])
        for options in ("--csv", "--json", ""):
            code, out, err = shell(f"query --all {options}", folder)

            assert (0, 300 + (options == "--csv"), "") == (code, len(out.splitlines()), err)


Exit = Callable[..., Any]


class TestMain:
    @pytest.fixture
    def exit_of(self, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Exit:
        """
        Run the command line with another standard output: ``exit_of(file, "query")``.
        """

        def exit_of(stdout: Any, *args: str) -> Any:
            monkeypatch.setattr(sys, "argv", ["nameko-eventlog", *args])
            with monkeypatch.context() as changed:
                changed.setattr(sys, "stdout", stdout)
                with pytest.raises(SystemExit) as raised:
                    run()
            return raised.value.code

        return exit_of

    @pytest.mark.parametrize("line", COMMANDS)
    def test_full(
        self,
        exit_of: Exit,
        stored: Callable[..., None],
        capsys: pytest.CaptureFixture[str],
        line: str,
    ) -> None:
        """
        Where the output takes no more one line says why, and the exit code is 1.
        """
        stored({"call_stack": ["shop.pay.2"]})
        with open("/dev/full", "w") as full:
            assert 1 == exit_of(full, *line.split())

        said = "Error: the output cannot be written: No space left on device\n"
        assert said == capsys.readouterr().err

    def test_nobody_reads(
        self, exit_of: Exit, stored: Callable[..., None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        Who reads may stop, and sees nothing of it.
        """
        stored({})
        reads, writes = os.pipe()
        os.close(reads)
        with os.fdopen(writes, "w") as pipe:
            assert 1 == exit_of(pipe, "query")

        assert "" == capsys.readouterr().err

    @pytest.mark.parametrize("line", COMMANDS)
    def test_closed(self, exit_of: Exit, line: str) -> None:
        """
        Without a standard output nothing is begun.
        """
        assert "Error: the output cannot be written: it is closed" == exit_of(None, *line.split())

    def test_written(
        self, exit_of: Exit, stored: Callable[..., None], tmp_path: pathlib.Path
    ) -> None:
        """
        What the output's encoding cannot say is spelt out, and what was printed before us stays
        before it.
        """
        stored({"data": {"name": "\u2603"}})
        with open(tmp_path / "out", "w", encoding="ascii") as file:
            file.write("before\n")
            assert 0 == exit_of(file, "query")

        first, second = (tmp_path / "out").read_text("ascii").splitlines()
        assert "before" == first
        assert second.endswith('{"name": "\\u2603"}')

    def test_no_file(self, exit_of: Exit, stored: Callable[..., None]) -> None:
        """
        What stands in the place of a file is written to as it is.
        """
        stored({"event_type": "login"})
        out = io.StringIO()

        assert 0 == exit_of(out, "query")
        assert 1 == out.getvalue().count("login")

    def test_extra_missing(self, exit_of: Exit, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What is not installed is named with the extra that brings it.
        """
        monkeypatch.delitem(sys.modules, "nameko_eventlog.cli.commands")
        monkeypatch.setitem(sys.modules, "click", None)

        assert "click is not installed: pip install 'nameko-eventlog[cli]'" == exit_of(
            io.StringIO(), "query"
        )
