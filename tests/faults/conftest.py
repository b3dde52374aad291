"""
Fixtures: a service in a process of its own, and what a consumer gets of it.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from typing import Any

import kombu
import pytest
import yaml
from kombu import Connection

from tests.databases import EVERY, empty_database
from tests.delivery.conftest import (
    make_delivery as make_delivery,
)
from tests.delivery.conftest import (
    said as said,
)
from tests.delivery.conftest import (
    undelivered as undelivered,
)
from tests.delivery.conftest import (
    uri as uri,
)
from tests.nameko_version import event_exchange
from tests.proxy import Proxy
from tests.rabbitmq import free_ports, with_port
from tests.waiting import wait_until


class Running:
    """
    A ``nameko run`` of `tests.faults.service`.

    Args:
        folder: For its files.
        uri: The broker.
        section: What ``EVENTLOG_DISPATCHER`` says.
        inside: A command that runs the command after it, in a surrounding of its making.
        environment: ``COUNT``, ``PAUSE``, ``BATCH``, ``DISK_PATIENCE``.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        uri: str,
        section: dict[str, Any],
        inside: tuple[str, ...] = (),
        **environment: Any,
    ) -> None:
        self._known: int | None = None
        self.logged_file = folder / "logged"
        self.undelivered_file = folder / "undelivered"
        (self.port,) = free_ports(1)
        config = {
            "AMQP_URI": uri,
            "WEB_SERVER_ADDRESS": f"127.0.0.1:{self.port}",
            "EVENTLOG_DISPATCHER": section,
            "LOGGING": {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {
                    "eventlog": {"class": "logging_ext.EventLogHandler"},
                    "undelivered": {
                        "class": "logging.FileHandler",
                        "filename": str(self.undelivered_file),
                    },
                },
                "loggers": {
                    "foo": {"level": "INFO", "handlers": ["eventlog"], "propagate": False},
                    "nameko_eventlog.undelivered": {"handlers": ["undelivered"]},
                },
            },
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        # what waits for a stalled disk is in memory alone, and a busy machine's disk stalls
        given = {"COUNT": -1, "PAUSE": 0.005, "BATCH": 10, "DISK_PATIENCE": 60, **environment}
        nameko = pathlib.Path(sys.executable).with_name("nameko")
        with (folder / "out").open("ab") as out:  # of a failed test, pytest keeps it
            self.process = subprocess.Popen(
                [*inside, str(nameko), "run", "--config", "config.yaml", "tests.faults.service"],
                cwd=folder,
                env={
                    **os.environ,
                    **{name: str(value) for name, value in given.items()},
                    "LOGGED": str(self.logged_file),
                    "PYTHONPATH": os.getcwd(),
                    "PYTHONWARNINGS": "ignore",
                },
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    @property
    def logged(self) -> list[str]:
        """
        The numbers whose log calls have returned, in this process or an earlier one.
        """
        return self.logged_file.read_text().split() if self.logged_file.exists() else []

    @property
    def is_done(self) -> bool:
        """
        Whether all were logged.
        """
        return self.logged_file.with_name("logged.done").exists()

    def logs_more(self) -> bool:
        """
        Whether it has logged something since this was asked last.
        """
        before, self._known = self._known, len(self.logged)
        return before is not None and self._known > before

    @property
    def undelivered(self) -> set[str]:
        """
        The numbers that were written to ``nameko_eventlog.undelivered``.
        """
        lines = self.undelivered_file.read_text().splitlines()
        return {json.loads(json.loads(line)["body"])["data"]["number"] for line in lines}

    @property
    def resident(self) -> int:
        """
        The bytes that it takes in memory.
        """
        status = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def is_alive(self) -> bool:
        """
        Whether it answers HTTP within ten seconds.
        """
        return self._get("alive") == b"yes"

    def is_settled(self) -> bool:
        """
        Whether the broker has confirmed all.
        """
        return self._get("waiting") == b"0"

    def _get(self, page: str) -> bytes:
        try:
            url = f"http://127.0.0.1:{self.port}/{page}"
            with urllib.request.urlopen(url, timeout=10) as response:
                return bytes(response.read())
        except OSError:
            return b""

    def kill(self) -> None:
        """
        End it by SIGKILL.
        """
        self.process.kill()
        self.process.wait()

    def stop_logging(self) -> None:
        """
        Let it log no more.
        """
        self.logged_file.with_name("logged.enough").touch()

    def stop(self) -> None:
        """
        Let it log no more, and end it by SIGTERM.
        """
        self.stop_logging()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            wait_until(lambda: self.process.poll() is not None, timeout=60)


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Iterator[Callable[..., Running]]:
    """
    Start the service: ``run(uri, {"spool": ...}, COUNT=5)``.
    """
    started = []

    def start(
        uri: str,
        section: dict[str, Any] | None = None,
        folder: pathlib.Path = tmp_path,
        **environment: Any,
    ) -> Running:
        running = Running(folder, uri, section or {}, **environment)
        started.append(running)
        return running

    yield start
    for running in started:
        if running.process.poll() is None:
            running.kill()


PATIENCE = 60.0
"""Seconds for which messages that the broker has counted are waited for."""


class Queue:
    """
    A durable queue, bound to the service's event logs.

    Args:
        uri: The broker.
        **arguments: Of the queue: ``{"x-queue-type": "quorum"}``.
    """

    def __init__(self, uri: str, **arguments: Any) -> None:
        self._uri = uri
        exchange = event_exchange("foo")
        self._queue = kombu.Queue(
            "q", exchange, routing_key="log_event", durable=True, queue_arguments=arguments
        )
        self.bind()

    def bind(self) -> None:
        """
        Declare it and bind it, again if it is there.
        """
        with Connection(self._uri) as connection:
            self._queue(connection.default_channel).declare()

    def __len__(self) -> int:
        with Connection(self._uri) as connection:
            return int(self._queue(connection.default_channel).queue_declare(passive=True)[1])

    def wait_for(self, numbers: Collection[str], timeout: float = 60.0) -> None:
        """
        Wait until it holds as many messages as *numbers* has, or more.

        Raises:
            AssertionError: It did not; names those that are missing.
        """
        try:
            wait_until(lambda: len(self) >= len(numbers), timeout)
        except AssertionError:
            held = {number for _, number in self.take_all()}
            missing = [number for number in numbers if number not in held]
            raise AssertionError(
                f"after {timeout} s {len(missing)} of {len(numbers)} are missing: {missing[:100]}"
            ) from None

    def take_all(self) -> list[tuple[str, str]]:
        """
        Return the message id and the number of each message, in order.

        A broker on a loaded machine may pause for long in the middle of them: so it ends when
        there are as many as it has counted, and nothing follows.
        """
        found: list[tuple[str, str]] = []
        held, deadline = len(self), time.monotonic() + PATIENCE

        def take(message: Any) -> None:
            body = json.loads(message.body)
            found.append((message.properties["message_id"], body["data"]["number"]))

        with Connection(self._uri) as connection:
            channel = connection.channel()
            channel.basic_qos(0, 1000, False)
            with kombu.Consumer(channel, [self._queue], on_message=take, no_ack=True, accept=None):
                while True:
                    try:
                        connection.drain_events(timeout=1)
                    except TimeoutError:
                        if len(found) >= held or time.monotonic() > deadline:
                            return found


@pytest.fixture
def proxied(rabbit_config: dict[str, Any], proxy: Proxy) -> str:
    """
    The broker's URI, by way of the network.
    """
    return with_port(rabbit_config["AMQP_URI"], proxy.port)


@pytest.fixture
def queue(rabbit_config: dict[str, Any]) -> Queue:
    """
    The queue, on an empty vhost.
    """
    return Queue(rabbit_config["AMQP_URI"])


def settled(running: Running, spool: pathlib.Path) -> Callable[[], bool]:
    """
    Return a condition: the service has nothing in its spool any more.
    """

    def is_empty() -> bool:
        lines = 0
        try:
            for path in spool.glob("foo/*/*.jsonl"):
                position = (path.parent / "position").read_text().split()
                done = int(position[1]) if position[0] == path.name else 0
                lines += path.read_bytes()[done:].count(b"\n") - (done == 0)
        except (OSError, IndexError):  # what is settled is removed meanwhile
            return False
        return lines == 0

    return is_empty


@pytest.fixture
def seed() -> random.Random:
    """
    Random moments, from ``SEED``, which is printed.
    """
    number = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    print(f"SEED={number}")
    return random.Random(number)


@pytest.fixture
def rounds() -> int:
    """
    How often things are killed: ``ROUNDS``, or a few times.
    """
    return int(os.environ.get("ROUNDS") or 5)


@pytest.fixture(params=EVERY)
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """
    The test runs with the address of an empty database of each kind.
    """
    return empty_database(request, tmp_path)
