"""
tail, from a broker and from a store.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import pty
import select
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import amqp
import kombu
import psycopg2
import pytest
from kombu import Connection

from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.cli import tailing
from nameko_eventlog.cli.terminal import local_time
from nameko_eventlog.standalone import event_log_dispatcher
from nameko_eventlog.store.writing import EventLogWriter
from tests.cli.conftest import Cli, Running
from tests.consuming.conftest import Unreadable, send
from tests.foreground import FOREGROUND
from tests.nameko_version import event_exchange
from tests.postgresql import PostgreSQL
from tests.store.conftest import Make, body
from tests.waiting import wait_until


SKIPPED = "skipped a message that is not an event log: "


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


class Process(subprocess.Popen):  # type: ignore[type-arg]
    """
    A process that a test which fails does not wait for.
    """

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


def command(
    *args: str,
    folder: pathlib.Path,
    stdout: Any = subprocess.PIPE,
    stderr: Any = subprocess.DEVNULL,
    **environment: str,
) -> Any:
    """
    Start the command line in a process of its own.
    """
    script = pathlib.Path(sys.executable).with_name("nameko-eventlog")
    return Process(
        [*FOREGROUND, str(script), *args],
        cwd=folder,
        stdout=stdout,
        stderr=stderr,
        env={
            **os.environ,
            "PYTHONWARNINGS": "ignore",
            "TERM": "xterm-256color",
            **environment,
        },
    )


def read(process: Any, wanted: str, publish: Callable[[], None]) -> None:
    """
    Publish until *process* has printed what is wanted.
    """

    printed = b""

    def is_there() -> bool:
        nonlocal printed
        publish()
        if select.select([process.stdout], [], [], 0.3)[0]:
            printed += os.read(process.stdout.fileno(), 100_000)
        return wanted.encode() in printed

    wait_until(is_there)


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
                publish(rabbit_config["AMQP_URI"], body(event_type="login", call_stack=5))
                publish(rabbit_config["AMQP_URI"], body(data={"evil": "\x1b"}))
                return process.poll() is not None

            wait_until(ended, interval=0.3)
            lines = process.stdout.read().splitlines()

        assert 0 == process.returncode
        assert [("4711", "order_paid")] * 2 == [
            (json.loads(line)["message_id"], json.loads(line)["body"]["event_type"])
            for line in lines
        ]

    def test_hostile(
        self, rabbit_config: dict[str, Any], configure: Callable[..., None], folder: pathlib.Path
    ) -> None:
        """
        A message that cannot be read is told of, and those after it are printed.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])

        def message(content: bytes, **headers: Any) -> amqp.Message:
            return amqp.Message(
                content,
                content_type="application/json",
                content_encoding="utf-8",
                application_headers=headers,
            )

        hostile = {
            "its properties cannot be read": Unreadable("{}"),
            "incorrect header check": message(b"{}", compression="application/x-gzip"),
            "Invalid data stream": message(b"x", compression="application/x-bz2"),
            "the body must be a mapping, not 'text\\x9b31m'": message('"text\x9b31m"'.encode()),
        }
        with command(
            "tail", "-s", "shop", "-t", "*_one", folder=folder, stderr=subprocess.PIPE
        ) as process:
            read(
                process,
                "first_one",
                lambda: publish(rabbit_config["AMQP_URI"], body(event_type="first_one")),
            )
            for one in hostile.values():
                send(rabbit_config, one)
            read(
                process,
                "last_one",
                lambda: publish(rabbit_config["AMQP_URI"], body(event_type="last_one")),
            )
            process.terminate()
            said = process.stderr.read().decode()

        assert [True] * 4 == [reason in said for reason in hostile], said
        assert 4 == said.count(SKIPPED) == len(said.splitlines())

    def test_compressed(
        self, rabbit_config: dict[str, Any], configure: Callable[..., None], folder: pathlib.Path
    ) -> None:
        """
        What a dispatcher sends compressed is shown.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])
        with (
            event_log_dispatcher(
                rabbit_config, "shop", EventLogDispatcher(compression="gzip")
            ) as dispatch,
            command("tail", "--json", "-n", "1", folder=folder) as process,
        ):

            def ended() -> bool:
                dispatch("paid", {"text": "x" * 1000})
                return process.poll() is not None

            wait_until(ended, interval=0.3)
            found = json.loads(process.stdout.read())

        assert {"text": "x" * 1000} == found["body"]["data"]

    def test_terminal(self, folder: pathlib.Path, stored: Callable[..., None]) -> None:
        """
        On a terminal levels have colours, and control characters still do not pass.
        """
        stored({"level": "error", "data": {"evil": "\x1b[2J"}})
        ours, theirs = pty.openpty()
        with command("query", folder=folder, stdout=theirs) as process:
            os.close(theirs)
            process.wait(120)
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
            process.wait(120)
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
        Who reads may stop, ``nameko-eventlog query | head -1``, and sees no traceback.
        """
        stored(*[{"data": {"text": "x" * 500}} for _ in range(900)])
        for options in ((), ("--json",), ("--csv",)):
            with command(
                "query", "--all", *options, folder=folder, stderr=subprocess.PIPE
            ) as process:
                process.stdout.readline()
                process.stdout.close()
                said = process.stderr.read().decode()

                assert ("", 1) == (said, process.wait(120))

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

            wait_until(ended, interval=0.7)
            found = [json.loads(line)["message_id"] for line in process.stdout.read().splitlines()]

        assert 3 == len(found) == len(set(found))

    def test_follow_lost(
        self,
        postgresql: PostgreSQL,
        configure: Callable[..., None],
        folder: pathlib.Path,
        message: Make,
    ) -> None:
        """
        Once it has answered, a database that fails is asked again, although nothing was printed.
        """
        postgresql.start()
        uri = postgresql.create_database()
        configure(EVENTLOG_STORE={"uri": uri})
        writer = EventLogWriter(uri, ["json"])
        writer.prepare()
        writer.close()
        # a second after it has connected: by then there were answers
        answered = """
            SELECT pid FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND state = 'idle'
            AND query_start > backend_start + interval '1 second'
        """
        with (
            command(
                "tail", "--follow", "--json", "-n", "1", folder=folder, stderr=subprocess.PIPE
            ) as process,
            contextlib.closing(psycopg2.connect(uri)) as connection,
        ):
            connection.autocommit = True
            cursor = connection.cursor()

            def has_answered() -> bool:
                cursor.execute(answered)
                return bool(cursor.fetchall())

            wait_until(has_answered, interval=0.1)
            cursor.execute("ALTER TABLE event_logs RENAME TO elsewhere")
            said = process.stderr.readline().decode()
            cursor.execute("ALTER TABLE elsewhere RENAME TO event_logs")
            writer.write([message(body())])
            out = process.stdout.read()
        writer.close()

        assert said.endswith("; trying again\n")
        assert (0, 1) == (process.returncode, len(out.splitlines()))

    @pytest.mark.parametrize(
        ("changes", "args", "code", "said"),
        [
            ({}, (), 2, "set AMQP_URI"),
            ({"AMQP_URI": "nowhere"}, (), 3, "cannot be used"),
            (
                {"AMQP_URI": "nowhere", "EVENTLOG_DISPATCHER": {"fan_in_exchange": None}},
                (),
                2,
                "no fan-in exchange is configured: name services with --service",
            ),
            ({}, ("--follow",), 3, "does not exist: the store creates it"),
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


def message(content: bytes, **properties: Any) -> amqp.Message:
    """
    Make a message as somebody may send it.
    """
    return amqp.Message(
        content,
        **{"content_type": "application/json", "content_encoding": "utf-8", **properties},
    )


class TestListening:
    def test_printed(
        self,
        rabbit_config: dict[str, Any],
        configure: Callable[..., None],
        begin: Callable[..., Running],
    ) -> None:
        """
        What is wanted is printed as it comes, compressed or not, one line each, until Ctrl-C;
        what is no event log is told of.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])
        tail = begin("tail", "-s", "shop", "-t", "order_*")

        def has_begun() -> bool:
            publish(rabbit_config["AMQP_URI"], body(data={"n": 0}))
            return bool(tail.lines)

        wait_until(has_begun, interval=0.05)
        send(
            rabbit_config,
            Unreadable("{}"),
            message(b"{rubbish"),
            message('"text\x9b31m"'.encode()),
            message(json.dumps(body(event_type="login")).encode()),
            message(
                zlib.compress(json.dumps(body(data={"evil": "\x1b[31m"})).encode()),
                application_headers={"compression": "application/x-gzip"},
            ),
        )
        wait_until(lambda: "evil" in tail.lines[-1])
        publish(
            rabbit_config["AMQP_URI"],
            body(timestamp="2026-03-01T12:00:00+00:00", event_type="order_late"),
        )
        wait_until(lambda: "order_late" in tail.lines[-1])
        evil, late = tail.lines[-2:]

        assert 0 == tail.interrupt()
        assert late.startswith(local_time("2026-03-01T12:00:00+00:00"))  # not when it came
        assert evil.endswith('  order_paid  {"evil": "\\u001b[31m"}')
        assert "login" not in "\n".join(tail.lines)
        said = [line.removeprefix(SKIPPED) for line in tail.errors]
        assert "its properties cannot be read" == said[0]
        assert "the body must be a mapping, not 'text\\x9b31m'" == said[2]
        assert 3 == len(said)
        assert said[1].startswith("the body cannot be decoded: ")

    def test_json(
        self,
        any_config: dict[str, Any],
        configure: Callable[..., None],
        begin: Callable[..., Running],
    ) -> None:
        """
        As JSON each has its message id and its exchange; it ends after so many.
        """
        configure(**any_config)
        tail = begin("tail", "-s", "shop", "--json", "-n", "2")

        def has_ended() -> bool:
            publish(any_config["AMQP_URI"], body(data={"n": 1}))
            return tail.has_ended

        wait_until(has_ended, interval=0.05)

        assert 0 == tail.wait()
        assert [("4711", "shop.events", {"n": 1})] * 2 == [
            (found["message_id"], found["exchange"], found["body"]["data"])
            for found in map(json.loads, tail.lines)
        ]

    def test_all_services(
        self,
        rabbit_config: dict[str, Any],
        configure: Callable[..., None],
        begin: Callable[..., Running],
    ) -> None:
        """
        With no service named it is bound to the fan-in exchange.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])
        tail = begin("tail", "--json", "-n", "1")
        fan_in = kombu.Exchange("eventlog", "topic", durable=True)
        sent = body()
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            producer = kombu.Producer(connection.channel(), fan_in, routing_key="log_event")

            def has_ended() -> bool:
                producer.publish(sent)
                return tail.has_ended

            wait_until(has_ended, interval=0.05)

        (found,) = map(json.loads, tail.lines)
        assert (None, "eventlog") == (found["message_id"], found["exchange"])
        assert sent == found["body"]


class TestFollowing:
    @pytest.fixture(autouse=True)
    def often(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Look into the store often.
        """
        monkeypatch.setattr(tailing, "EVERY", 0.02)
        monkeypatch.setattr(tailing, "AGAIN", 0.1)

    @pytest.mark.parametrize("options", [("--json",), ()])
    def test_once(
        self,
        stored: Callable[..., None],
        begin: Callable[..., Running],
        options: tuple[str, ...],
    ) -> None:
        """
        What is stored after the beginning is printed once each, in order, although the last
        seconds are read again and little is remembered.
        """
        stored({"data": {"n": "before"}})
        tail = begin("tail", "--follow", *options, "-n", "4")
        numbers = iter(range(1_000))

        def has_ended() -> bool:
            stored({"data": {"n": next(numbers)}}, {"data": {"n": next(numbers)}})
            return tail.has_ended

        wait_until(has_ended, interval=0.05)

        assert 0 == tail.wait()
        assert 4 == len(tail.lines)
        found = [line.rpartition('"n": ')[2].partition("}")[0] for line in tail.lines]
        assert found == sorted({*found}, key=int)

    def test_bounded(
        self,
        stored: Callable[..., None],
        begin: Callable[..., Running],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        Of the message ids that were printed no more are remembered than the limit.
        """
        monkeypatch.setattr(tailing, "_REMEMBERED", 1)
        monkeypatch.setattr(tailing, "OVERLAP", timedelta(0))
        stored({})
        tail = begin("tail", "--follow", "--json", "-n", "3")

        def has_ended() -> bool:
            stored({})
            return tail.has_ended

        wait_until(has_ended, interval=0.1)

        assert 0 == tail.wait()
        assert 3 == len(tail.lines)

    def test_lost(
        self,
        folder: pathlib.Path,
        stored: Callable[..., None],
        begin: Callable[..., Running],
    ) -> None:
        """
        A database that fails later is asked again, which is said, and Ctrl-C ends it in order.
        """
        stored({})
        tail = begin("tail", "--follow", "--json")

        def has_begun() -> bool:
            stored({})
            return bool(tail.lines)

        wait_until(has_begun, interval=0.05)
        with contextlib.closing(sqlite3.connect(folder / "eventlog.db")) as connection:
            connection.execute("ALTER TABLE event_logs RENAME TO elsewhere")
            wait_until(lambda: tail.errors)
            connection.execute("ALTER TABLE elsewhere RENAME TO event_logs")
        before = len(tail.lines)

        def goes_on() -> bool:
            stored({})
            return len(tail.lines) > before

        wait_until(goes_on, interval=0.05)

        assert 0 == tail.interrupt()
        assert {True} == {line.endswith("; trying again") for line in tail.errors}
