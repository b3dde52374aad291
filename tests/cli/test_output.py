"""
What becomes of a command that cannot write.
"""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

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
        timeout=60,
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
        for line in COMMANDS:
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

                wait_until(ended, timeout=30, interval=0.3)
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
