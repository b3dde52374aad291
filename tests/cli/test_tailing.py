"""
tail, from a broker and from a store.
"""

from __future__ import annotations

import json
import os
import pathlib
import pty
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import kombu
import pytest
from kombu import Connection

from tests.cli.conftest import Cli
from tests.nameko_version import event_exchange
from tests.store.conftest import body
from tests.waiting import wait_until


def publish(uri: str, content: Any) -> None:
    """
    Send the shop's exchange an event log.
    """
    with Connection(uri) as connection:
        kombu.Producer(connection.channel()).publish(
            content if isinstance(content, bytes) else json.dumps(content).encode(),
            exchange=event_exchange("shop"),
            routing_key="log_event",
            content_type="application/json",
            content_encoding="utf-8",
            message_id="4711",
            declare=[event_exchange("shop")],
        )


def command(
    *args: str, folder: pathlib.Path, stdout: Any = subprocess.PIPE, **environment: str
) -> Any:
    """
    Start the command line in a process of its own.
    """
    script = pathlib.Path(sys.executable).with_name("nameko-eventlog")
    return subprocess.Popen(
        [str(script), *args],
        cwd=folder,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        env={
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "TERM": "xterm-256color",
            **environment,
        },
    )


class TestTail:
    def test_broker(
        self, rabbit_config: dict[str, Any], configure: Callable[..., None], folder: pathlib.Path
    ) -> None:
        """
        What is published is printed, if it is wanted, until so many were.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])
        with command(
            "tail", "-s", "shop", "-t", "order_*", "--json", "-n", "2", folder=folder
        ) as process:

            def ended() -> bool:
                publish(rabbit_config["AMQP_URI"], b"{rubbish")
                publish(rabbit_config["AMQP_URI"], body(event_type="login"))
                publish(rabbit_config["AMQP_URI"], body(data={"evil": "\x1b"}))
                return process.poll() is not None

            wait_until(ended, timeout=30, interval=0.3)
            lines = process.stdout.read().splitlines()

        assert 0 == process.returncode
        assert [("4711", "order_paid")] * 2 == [
            (json.loads(line)["message_id"], json.loads(line)["body"]["event_type"])
            for line in lines
        ]

    def test_terminal(self, folder: pathlib.Path, stored: Callable[..., None]) -> None:
        """
        On a terminal levels have colours, and control characters still do not pass.
        """
        stored({"level": "error", "data": {"evil": "\x1b[2J"}})
        ours, theirs = pty.openpty()
        with command("query", folder=folder, stdout=theirs) as process:
            os.close(theirs)
            process.wait(30)
            said = os.read(ours, 100_000).decode()
        os.close(ours)

        assert "\x1b[31m" in said
        assert "\x1b[2J" not in said
        assert "\\u001b[2J" in said

    def test_narrow(self, folder: pathlib.Path, stored: Callable[..., None]) -> None:
        """
        On a narrow terminal lines are broken by it, and nothing of them is left out.
        """
        stored({"call_stack": ["shop.pay.2"]})
        ours, theirs = pty.openpty()
        with command("trace", "shop.pay.2", folder=folder, stdout=theirs, COLUMNS="20") as process:
            os.close(theirs)
            process.wait(30)
            said = os.read(ours, 100_000).decode()
        os.close(ours)

        assert "  shop.pay.2" in said
        assert "order_paid" in said

    def test_locale(self, folder: pathlib.Path, stored: Callable[..., None]) -> None:
        """
        What the locale cannot say is spelt out.
        """
        stored({"data": {"name": "☃"}})
        for args, said in ((("query",), b"\\u2603"), (("count",), b"####")):
            with command(*args, folder=folder, PYTHONIOENCODING="ascii") as process:
                assert said in process.stdout.read()
            assert 0 == process.returncode

    def test_broken_pipe(self, folder: pathlib.Path, stored: Callable[..., None]) -> None:
        """
        Who reads may stop: ``nameko-eventlog query | head -1``.
        """
        stored(*[{"data": {"text": "x" * 500}} for _ in range(900)])
        with command("query", "--all", folder=folder) as process:
            process.stdout.readline()
            process.stdout.close()

            assert 1 >= abs(process.wait(30))

    def test_follow(
        self, folder: pathlib.Path, stored: Callable[..., None], configure: Callable[..., None]
    ) -> None:
        """
        From the store: each once, although the last seconds are read again.
        """
        stored({})
        with command("tail", "--follow", "--json", "-n", "3", folder=folder) as process:
            numbers = iter(range(1000))

            def ended() -> bool:
                stored({"data": {"n": next(numbers)}})
                return process.poll() is not None

            wait_until(ended, timeout=30, interval=0.7)
            found = [json.loads(line)["message_id"] for line in process.stdout.read().splitlines()]

        assert 3 == len(found) == len(set(found))

    @pytest.mark.parametrize(
        ("changes", "args", "code", "said"),
        [
            ({}, (), 2, "set AMQP_URI"),
            ({"AMQP_URI": "nowhere"}, (), 3, "cannot be used"),
            (
                {"AMQP_URI": "nowhere", "EVENTLOG_DISPATCHER": {"fan_in_exchange": None}},
                (),
                2,
                "there is no fan-in exchange: name services by --service",
            ),
            ({}, ("--follow",), 3, "there is no file"),
        ],
    )
    def test_mistakes(
        self,
        run: Cli,
        nowhere: str,
        configure: Callable[..., None],
        changes: dict[str, Any],
        args: tuple[str, ...],
        code: int,
        said: str,
    ) -> None:
        """
        What it cannot do, it says.
        """
        if "AMQP_URI" in changes:
            changes = {**changes, "AMQP_URI": nowhere}
        configure(**changes)

        result = run("tail", *args)

        assert code == result.exit_code
        assert said in result.stderr
