"""
Handlers crash, hang and lose their connections, while the event logs that they hold are sound.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import eventlet
import kombu
import pytest
import yaml
from eventlet.event import Event
from kombu import Connection
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer, Unavailable
from tests.conftest import global_config
from tests.consuming.conftest import Handled, Start, lengths, send
from tests.consuming.conftest import handled as handled
from tests.consuming.conftest import quick as quick
from tests.consuming.conftest import start as start
from tests.nameko_version import event_exchange
from tests.proxy import Proxy
from tests.rabbitmq import Broker, with_port
from tests.waiting import wait_until


QUEUE = "eventlog-log.handle"
ALONE = f"{QUEUE}.alone"


def numbered(number: int) -> amqp.Message:
    """
    Make an event log.
    """
    return amqp.Message(
        json.dumps({"event_type": "paid", "data": {"number": number}}),
        content_type="application/json",
        content_encoding="utf-8",
        message_id=f"id-{number}",
        delivery_mode=2,
    )


def dead(config: dict[str, Any]) -> list[int]:
    """
    Take all dead letters; return their numbers.
    """
    found = []
    with Connection(config["AMQP_URI"]) as connection:
        queue = kombu.Queue(f"{QUEUE}.dead-letters")(connection.default_channel)
        while (letter := queue.get(no_ack=True)) is not None:
            found.append(letter.decode()["data"]["number"])
    return found


def waiting(config: dict[str, Any]) -> int:
    """
    How many messages are in the queue, and in that of those that are handled alone.
    """
    with Connection(config["AMQP_URI"]) as connection:
        queues = [kombu.Queue(name, channel=connection.default_channel) for name in (QUEUE, ALONE)]
        return sum(queue.queue_declare(passive=True)[1] for queue in queues)


class Process:
    """
    A ``nameko run`` of `tests.faults.handler`, again and again.
    """

    def __init__(self, folder: pathlib.Path, uri: str, **environment: Any) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            **{name: str(value) for name, value in environment.items()},
            "HANDLED": str(folder / "handled"),
            "PYTHONPATH": os.getcwd(),
            "PYTHONWARNINGS": "ignore",
        }
        (folder / "handled").touch()
        (folder / "config.yaml").write_text(yaml.safe_dump({"AMQP_URI": uri, "max_workers": 10}))
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def handled(self) -> Counter[int]:
        """
        How often each number was handled.
        """
        return Counter(map(int, (self._folder / "handled").read_text().split()))

    def run(self) -> None:
        """
        Start it, if it does not run.
        """
        if self._process is not None and self._process.poll() is None:
            return
        self.starts += 1
        nameko = pathlib.Path(sys.executable).with_name("nameko")
        with (self._folder / "out").open("ab") as out:
            self._process = subprocess.Popen(
                [str(nameko), "run", "--config", "config.yaml", "tests.faults.handler"],
                cwd=self._folder,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """
        End it by SIGKILL.
        """
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def process(
    rabbit_config: dict[str, Any], tmp_path: pathlib.Path
) -> Iterator[Callable[..., Process]]:
    """
    Make a process whose queue is there: ``process(BATCH=500, POISON=3, SECONDS=0)``.
    """
    made = []

    def make(**environment: Any) -> Process:
        bind(rabbit_config)
        made.append(Process(tmp_path, rabbit_config["AMQP_URI"], **environment))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def bind(config: dict[str, Any]) -> None:
    """
    Declare the handler's queue, a quorum queue, and bind it.
    """
    with Connection(config["AMQP_URI"]) as connection:
        channel = connection.default_channel
        for name, exchange in (
            (QUEUE, event_exchange("shop")),
            (f"{QUEUE}.dead-letters", None),
            (ALONE, None),
        ):
            kombu.Queue(
                name,
                exchange,
                routing_key="log_event",
                queue_arguments={"x-queue-type": "quorum"},
            )(channel).declare()


@pytest.fixture
def proxied(rabbit_config: dict[str, Any], proxy: Proxy) -> Iterator[dict[str, Any]]:
    """
    The configuration of a service that reaches its broker by way of the proxy.
    """
    uri = with_port(rabbit_config["AMQP_URI"], proxy.port)
    with global_config({"AMQP_URI": uri}) as config:
        yield config


def lose(proxy: Proxy) -> None:
    """
    Cut the consumer's connection, and wait for its next one.
    """
    before = proxy.connections
    proxy.cut()
    wait_until(lambda: proxy.connections > before)


@pytest.mark.timeout(300)
class TestCrash:
    def test_exit(self, rabbit_config: Any, process: Callable[..., Process]) -> None:
        """
        An event log that ends the process becomes a dead letter, and those beside it are handled.
        """
        log = process(BATCH=500, POISON=350, SECONDS=0)
        send(rabbit_config, *map(numbered, range(700)))

        def is_done() -> bool:
            log.run()
            return len(log.handled) + lengths(rabbit_config)[1] >= 700

        try:
            wait_until(is_done, timeout=200, interval=0.1)  # each start takes a moment
        finally:
            print(f"{log.starts} starts, {len(log.handled)} handled, {lengths(rabbit_config)}")
        assert [350] == dead(rabbit_config)
        assert set(range(700)) - {350} == set(log.handled)
        assert log.starts <= 5

    def test_killed(self, rabbit_config: Any, process: Callable[..., Process]) -> None:
        """
        SIGKILL, however often, makes no dead letters of what completes in the end.
        """
        log = process(BATCH=0, POISON=-1, SECONDS=0.2)
        send(rabbit_config, *map(numbered, range(200)))
        for _ in range(4):
            before = waiting(rabbit_config)
            log.run()
            wait_until(lambda before=before: waiting(rabbit_config) < before, interval=0.02)
            log.kill()
            wait_until(lambda: waiting(rabbit_config) + len(log.handled) >= 200, interval=0.02)
        log.run()
        wait_until(  # one after the other, if they are handled alone
            lambda: len(log.handled) + lengths(rabbit_config)[1] >= 200, timeout=200, interval=0.1
        )
        assert [] == dead(rabbit_config)
        assert 200 == len(log.handled)


class TestLostConnection:
    def test_quorum(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        Lost connections are no attempts: what completes is handled, and once while it runs here.
        """
        completed: list[int] = []

        def work(body: Any) -> None:
            eventlet.sleep(0.2)
            completed.append(body["data"]["number"])

        handled.failing = work
        log = start(proxied, "shop", quorum=True, max_attempts=2, prefetch=100)
        consumer = get_extension(log, EventLogConsumer)
        for first in range(0, 100, 20):
            send(rabbit_config, *map(numbered, range(first, first + 20)))
            wait_until(lambda: consumer.stats()["running"])
            eventlet.sleep(0.1)  # some have ended then, some have not
            lose(proxy)
        wait_until(lambda: len(set(completed)) + lengths(rabbit_config)[1] >= 100, interval=0.1)
        log.stop()

        stats = consumer.stats()
        assert (0, 0) == (stats["dead_letters"], stats["isolated"])
        assert stats["received"] == stats["handled"] + stats["returned"]
        assert sorted(completed) == list(range(100))
        assert [] == dead(rabbit_config)

    def test_hung(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        A call that hangs takes one worker, however often its event log is delivered again.
        """
        handled.failing = lambda body: Event().wait() if body["data"]["number"] == 0 else None
        log = start(proxied, "shop")
        consumer = get_extension(log, EventLogConsumer)
        send(rabbit_config, numbered(0))
        wait_until(lambda: handled.numbers == [0])
        for number in range(1, 4):
            lose(proxy)
            send(rabbit_config, numbered(number))
            wait_until(lambda number=number: number in handled.numbers)
        wait_until(lambda: consumer.stats()["running"] == 1)
        log.kill()  # whatever follows: a stop would wait for the call that hangs

        # one that has ended is handled again if the connection takes its acknowledgement with it
        assert {0, 1, 2, 3} == set(handled.numbers)
        assert 1 == handled.numbers.count(0)

    def test_ends(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        When such a call returns, the copy is acknowledged; when it raises, that is one attempt.
        """
        ends = [Event(), Event()]
        handled.failing = lambda body: ends[body["data"]["number"]].wait()
        log = start(proxied, "shop", max_attempts=1)
        consumer = get_extension(log, EventLogConsumer)
        send(rabbit_config, numbered(0), numbered(1))
        wait_until(lambda: sorted(handled.numbers) == [0, 1])
        proxy.cut()
        wait_until(lambda: consumer.stats()["received"] == 4)
        ends[0].send()
        ends[1].send_exception(ValueError("no"))
        wait_until(lambda: lengths(rabbit_config) == (0, 1))
        log.stop()

        assert [0, 1] == sorted(handled.numbers)
        assert [1] == dead(rabbit_config)

    def test_waiting(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        What waits for a worker when the connection goes is not handled twice.
        """
        may_end = Event()
        handled.failing = lambda body: may_end.wait()
        log = start(proxied, "shop", prefetch=50)
        consumer = get_extension(log, EventLogConsumer)
        send(rabbit_config, *map(numbered, range(50)))
        wait_until(lambda: handled.calls and consumer.stats()["received"] == 50)
        proxy.cut()
        wait_until(lambda: consumer.stats()["received"] == 100)
        may_end.send()
        wait_until(lambda: consumer.stats()["waiting"] == 0)
        log.stop()

        assert list(range(50)) == sorted(handled.numbers)
        assert (0, 0) == lengths(rabbit_config)


class TestHungCall:
    def test_outage_ends(self, rabbit_config: Any, start: Start, handled: Handled) -> None:
        """
        The end of an outage does not wait for a call that hangs.
        """
        is_up = False

        def work(body: Any) -> None:
            if body["data"]["number"] == 0:
                Event().wait()
            if not is_up:
                raise Unavailable("no database")

        handled.failing = work
        log = start(rabbit_config, "shop")
        consumer = get_extension(log, EventLogConsumer)
        consumer.hold_seconds = 0.2
        send(rabbit_config, numbered(0), numbered(1))
        wait_until(lambda: {0, 1} == set(handled.numbers))
        eventlet.sleep(1)  # for longer than the hold, and than what is waited for beyond it
        is_up = True
        send(rabbit_config, numbered(2))
        wait_until(lambda: consumer.stats()["handled"] == 2)
        assert 1 == handled.numbers.count(0)
        log.kill()

    def test_outage_and_lost_connection(
        self, rabbit_config: Any, proxy: Proxy, proxied: Any, start: Start, handled: Handled
    ) -> None:
        """
        Nor if the connection was lost in the outage.
        """
        is_up = False

        def work(body: Any) -> None:
            if body["data"]["number"] == 0:
                Event().wait()
            if not is_up:
                raise Unavailable("no database")

        handled.failing = work
        log = start(proxied, "shop")
        consumer = get_extension(log, EventLogConsumer)
        consumer.probe = lambda: is_up
        send(rabbit_config, numbered(0), numbered(1))
        wait_until(
            lambda: {0, 1} == set(handled.numbers) and consumer.stats()["held_seconds"] >= 0
        )
        lose(proxy)
        is_up = True
        wait_until(lambda: consumer.stats()["handled"] == 1)
        assert 1 == handled.numbers.count(0)
        log.kill()

    def test_timeout(
        self, rabbit_config: Any, start: Start, handled: Handled, caplog: Any
    ) -> None:
        """
        ``handler_timeout`` ends a call, which is a failed attempt; in the end a dead letter.
        """
        handled.failing = lambda body: Event().wait() if body["data"]["number"] == 0 else None
        log = start(rabbit_config, "shop", handler_timeout=0.2, max_attempts=2)
        send(rabbit_config, numbered(0), numbered(1))
        wait_until(lambda: (0, 1) == lengths(rabbit_config))
        consumer = get_extension(log, EventLogConsumer)
        stats = consumer.stats()
        with eventlet.Timeout(60):
            log.stop()

        assert [0, 0, 1] == sorted(handled.numbers)
        assert [0] == dead(rabbit_config)
        assert (0, 1, 1) == (stats["running"], stats["handled"], stats["retries"])
        assert 2 == caplog.text.count("handler_timeout=0.2 s; killing it")

    def test_broker_timeout(
        self, rabbit_config: Any, broker: Broker, start: Start, handled: Handled, caplog: Any
    ) -> None:
        """
        The broker's ``consumer_timeout`` starts no second call, and advises to delete no queue.
        """
        handled.failing = lambda body: Event().wait() if body["data"]["number"] == 0 else None
        setting = (
            "application:set_env(rabbit, consumer_timeout, {}),"
            " application:set_env(rabbit, channel_tick_interval, {})."
        )
        broker.ctl("eval", setting.format(1_500, 500))
        try:
            log = start(rabbit_config, "shop")
            send(rabbit_config, numbered(0), numbered(1))
            wait_until(lambda: "cannot consume queue" in caplog.text)
            wait_until(lambda: re.search("consuming queue .* again", caplog.text))
        finally:
            broker.ctl("eval", setting.format(1_800_000, 60_000))
        consumer = get_extension(log, EventLogConsumer)
        wait_until(lambda: consumer.stats()["returned"])
        send(rabbit_config, numbered(2))
        wait_until(lambda: 2 in handled.numbers)

        assert [0, 1, 2] == sorted(handled.numbers)
        assert "delete it" not in caplog.text
        log.kill()
