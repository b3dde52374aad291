"""
spool: what a killed process has left.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from zlib import crc32

import kombu
import pytest
from kombu import Connection

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool.directory import Directory
from nameko_eventlog.delivery.spool.lines import encode
from tests.cli.conftest import Cli
from tests.delivery.spool.spooling import written
from tests.nameko_version import event_exchange
from tests.store.conftest import body


@pytest.fixture
def spool(folder: pathlib.Path, configure: Callable[..., None]) -> Callable[[], Directory]:
    """
    A directory of the shop's spool with three event logs and a corrupt line, not closed.
    """
    configure(EVENTLOG_DISPATCHER={"spool": str(folder / "spool")})

    def make() -> Directory:
        lines = []
        for number in range(3):
            content = json.dumps(body(data={"n": number})).encode()
            message = OutboxEntry(content, "application/json", "utf-8", {}, "order_paid", 1.8e9)
            message.message_id = f"id-{number}"
            lines.append(encode(message))
        return written(folder / "spool" / "shop" / "one", *lines, b"rubbish\n")

    return make


def received(uri: str, queue: kombu.Queue) -> list[tuple[Any, Any]]:
    """
    Take what is in the queue: message ids and numbers.
    """
    found = []
    with Connection(uri) as connection:
        bound = queue(connection.default_channel)
        while message := bound.get(no_ack=True):
            found.append((message.properties["message_id"], json.loads(message.body)["data"]["n"]))
    return found


@pytest.fixture
def queue(rabbit_config: dict[str, Any], configure: Callable[..., None]) -> kombu.Queue:
    """
    A queue for the shop's event logs.
    """
    configure(AMQP_URI=rabbit_config["AMQP_URI"])
    queue = kombu.Queue("q", event_exchange("shop"), routing_key="log_event", durable=True)
    with Connection(rabbit_config["AMQP_URI"]) as connection:
        queue(connection.default_channel).declare()
    return queue


class TestSpool:
    def test_list(self, run: Cli, spool: Callable[[], Directory]) -> None:
        """
        What waits, whose it is, and whether a process has it.
        """
        directory = spool()
        in_use = run("spool", "list").stdout
        directory.close()

        assert in_use.startswith("shop/one  3 waiting  in use  oldest 2027-01-15")
        assert "1 corrupt" in in_use
        assert "left behind" in run("spool", "list").stdout

    def test_format(self, run: Cli, spool: Callable[[], Directory], folder: pathlib.Path) -> None:
        """
        It is read as the library reads it: the position only if it is what was written, a first
        line that is no header as a message, and a file of a later version not at all.
        """
        spool().close()
        (path,) = (folder / "spool" / "shop" / "one").glob("*.jsonl")
        head, first, *others = path.read_bytes().splitlines(keepends=True)
        position = path.with_name("position")

        def waiting() -> str:
            return " ".join(run("spool", "list").stdout.split()[1:3])

        said = f"{path.name} {len(head) + len(first):020d}"
        position.write_text(f"{said} {crc32(said.encode()):08x}\n")
        assert "2 waiting" == waiting()
        position.write_text(f"{said} 00000000\n")
        assert "3 waiting" == waiting()
        path.write_bytes(b"".join([first, *others]))
        assert "3 waiting" == waiting()
        path.write_bytes(b"".join([head, bytes(7) + first, *others, first[:-1]]))
        assert "4 waiting" == waiting()
        assert "2 corrupt" in run("spool", "list").stdout
        path.write_bytes(b"".join([head, first, first[:-9]]))
        assert "1 waiting" == waiting()
        assert "corrupt" not in run("spool", "list").stdout
        later = b'{"nameko_eventlog_spool":2,"service":"shop"'
        later += b',"crc32":"%08x"}\n' % crc32(later)
        path.write_bytes(b"".join([later, first]))
        assert "0 waiting" == waiting()
        assert "is of a later version" in run("spool", "list").stderr

    def test_show(self, run: Cli, spool: Callable[[], Directory]) -> None:
        """
        The event logs, like stored ones.
        """
        spool().close()

        lines = run("spool", "show", "-n", "2").stdout.splitlines()

        assert ['{"n": 0}', '{"n": 1}'] == [line.split("  ")[-1] for line in lines]

    def test_replay(
        self,
        run: Cli,
        spool: Callable[[], Directory],
        queue: kombu.Queue,
        rabbit_config: dict[str, Any],
    ) -> None:
        """
        What was left behind is published under its message ids, and what is in use is not.
        """
        directory = spool()
        refused = run("spool", "replay")
        assert "shop/one is in use: its process publishes it" in refused.stderr
        directory.close()

        result = run("spool", "replay")

        assert "shop: 3 published, 0 still wait" in result.stdout
        assert [(f"id-{n}", n) for n in range(3)] == received(rabbit_config["AMQP_URI"], queue)
        for command in ("list", "replay"):
            assert "nothing waits" in run("spool", command).stdout
        assert 1 == run("spool", "show").exit_code

    def test_export(
        self,
        run: Cli,
        spool: Callable[[], Directory],
        queue: kombu.Queue,
        rabbit_config: dict[str, Any],
        folder: pathlib.Path,
    ) -> None:
        """
        Exported lines, and those of a log with a prefix of its own, are published by replay.
        """
        spool().close()
        lines = run("spool", "export").stdout.splitlines()
        (folder / "log").write_text(
            "\n".join([f"2026-11-24 ERROR [x] {line}" for line in lines] + ["another line", ""])
        )

        result = run("spool", "replay", "log")

        assert "3 published, 1 other lines skipped" in result.stdout
        assert [(f"id-{n}", n) for n in range(3)] == received(rabbit_config["AMQP_URI"], queue)

    def test_no_queue(
        self,
        run: Cli,
        spool: Callable[[], Directory],
        queue: kombu.Queue,
        rabbit_config: dict[str, Any],
        folder: pathlib.Path,
    ) -> None:
        """
        What no queue has taken was not published, and that is said.
        """
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            event_exchange("barn")(connection.default_channel).declare()
        spool().close()
        (folder / "log").write_text(run("spool", "export").stdout)
        shutil.move(folder / "spool" / "shop", folder / "spool" / "barn")
        with (folder / "log").open("a") as file:
            file.write(run("spool", "export").stdout)

        result = run("spool", "replay", "log")

        assert 3 == result.exit_code
        assert "3 published, 0 other lines skipped" in result.stdout
        assert "no queue accepted 3 more; the first was sent to the exchange 'barn.events'" in (
            result.stderr
        )
        assert [(f"id-{n}", n) for n in range(3)] == received(rabbit_config["AMQP_URI"], queue)

    def test_full_queue(
        self,
        run: Cli,
        spool: Callable[[], Directory],
        configure: Callable[..., None],
        rabbit_config: dict[str, Any],
        folder: pathlib.Path,
    ) -> None:
        """
        Nor was what a full queue has refused.
        """
        configure(AMQP_URI=rabbit_config["AMQP_URI"])
        full = kombu.Queue(
            "full",
            event_exchange("shop"),
            routing_key="log_event",
            queue_arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
        )
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            full(connection.default_channel).declare()
        spool().close()
        (folder / "log").write_text(run("spool", "export").stdout)

        result = run("spool", "replay", "log")

        assert 3 == result.exit_code
        assert "1 published" in result.stdout
        assert "no queue accepted 2 more" in result.stderr

    def test_unreachable(
        self,
        run: Cli,
        spool: Callable[[], Directory],
        configure: Callable[..., None],
        nowhere: str,
        folder: pathlib.Path,
    ) -> None:
        """
        Without a broker everything stays where it is.
        """
        configure(
            AMQP_URI=nowhere,
            EVENTLOG_DISPATCHER={"spool": str(folder / "spool"), "flush_timeout": 0},
        )
        spool().close()
        lines = run("spool", "export").stdout
        (folder / "log").write_text(lines)

        assert 3 == run("spool", "replay", "log").exit_code
        assert 3 == run("spool", "replay", "--seconds", "0.5").exit_code
        assert lines == run("spool", "export").stdout

    def test_mistakes(self, run: Cli, configure: Callable[..., None]) -> None:
        """
        No spool, or none there, is said.
        """
        assert "configures no spool" in run("spool", "list").stderr
        configure(EVENTLOG_DISPATCHER={"spool": "nowhere"})
        assert "there is no directory 'nowhere'" in run("spool", "list").stderr


def test_extra_missing() -> None:
    """
    What is not installed is named with the extra that brings it.
    """
    script = "import sys; sys.modules['rich'] = None; from _nameko_eventlog import run; run()"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120
    )

    assert "rich is not installed: pip install 'nameko-eventlog[cli]'\n" == done.stderr
    assert 1 == done.returncode


def test_wanted_warnings(tmp_path: pathlib.Path) -> None:
    """
    Who asks for warnings, by ``-W`` or ``PYTHONWARNINGS``, has them, while commands are imported.
    """
    script = """
import sys, warnings
class Finder:
    def find_spec(self, name, *rest):
        if name == "nameko_eventlog.cli.commands":
            warnings.warn("as asked for")
sys.meta_path.insert(0, Finder())
from _nameko_eventlog import main
main()
"""
    for options, expected in ((["-W", "default"], True), ([], False)):
        done = subprocess.run(
            [sys.executable, *options, "-c", script, "--help"],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"},
            capture_output=True,
            text=True,
            timeout=120,
        )

        assert 0 == done.returncode
        assert expected == ("as asked for" in done.stderr)


def test_no_warnings(tmp_path: pathlib.Path) -> None:
    """
    What the libraries below warn of is nothing to the user of a command.
    """
    script = pathlib.Path(sys.executable).with_name("nameko-eventlog")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    done = subprocess.run(
        [str(script), "query"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert 2 == done.returncode
    assert ["Error: 'config.yaml' does not exist"] == [
        line.partition(":")[0] + ":" + line.split(":")[1] for line in done.stderr.splitlines()
    ]
