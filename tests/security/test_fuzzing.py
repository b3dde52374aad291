"""
Thousands of hostile messages to everything that receives event logs; ``make fuzz`` sends 20,000.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import kombu
import pytest
import yaml
from kombu import Connection
from sqlalchemy import func, select

from nameko_eventlog import event_log_handler
from nameko_eventlog.store import EventLogStore
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.schema import event_logs, rejects, series
from tests.nameko_version import event_exchange
from tests.rabbitmq import Broker
from tests.security.messages import WireMessage, hostile_messages, properties
from tests.security.sender import Sender
from tests.store.conftest import body
from tests.waiting import wait_until


MESSAGES = int(os.environ.get("MESSAGES", "800"))
SEED = int(os.environ.get("SEED", "1"))
PATIENCE = 60 + MESSAGES / 20
"""Seconds for all of them, on a busy machine."""

END = "the end of the fuzz"


class Downstream:
    """
    Handlers that count.
    """

    name = "downstream"
    one: list[Any] = []
    many: list[Any] = []

    @event_log_handler("shop", queue="one", max_attempts=2)
    def handle(self, body: Any) -> None:
        """
        Count one.
        """
        self.one.append(body.get("event_type"))

    @event_log_handler("shop", queue="many", batch_size=20, batch_seconds=0.05, max_attempts=2)
    def handle_many(self, bodies: list[Any]) -> None:
        """
        Count many.
        """
        self.many += [body.get("event_type") for body in bodies]


class Queues:
    """
    How many messages there are in queues.
    """

    def __init__(self, uri: str) -> None:
        self._connection = Connection(uri)
        taken = kombu.Queue("taken", event_exchange("shop"), routing_key="log_event")
        channel = self._connection.default_channel
        taken(channel).declare()
        # as a dispatcher does: tail has the event logs of all services, and shows them all
        fan_in = kombu.Exchange("eventlog", type="topic", durable=True)(channel)
        fan_in.declare()
        fan_in.bind_to(event_exchange("shop"), routing_key="log_event")

    def __getitem__(self, name: str) -> int:
        channel = self._connection.default_channel
        return int(channel.queue_declare(name, passive=True).message_count)

    def close(self) -> None:
        """
        Close the connection.
        """
        self._connection.release()


@pytest.fixture
def queues(rabbit_config: dict[str, Any]) -> Iterator[Queues]:
    """
    The queues, and one of its own, ``taken``, for all that the broker has taken.
    """
    queues = Queues(rabbit_config["AMQP_URI"])
    yield queues
    queues.close()


class Tail:
    """
    ``nameko-eventlog tail`` in a process of its own.
    """

    def __init__(self, folder: pathlib.Path, config: dict[str, Any]) -> None:
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        self._out, self._err = folder / "tail.out", folder / "tail.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [
                    str(pathlib.Path(sys.executable).with_name("nameko-eventlog")),
                    *("tail", "--json", "--config", str(path)),
                ],
                stdout=out,
                stderr=err,
            )

    def shown(self) -> list[Any]:
        """
        Return the event types that it has shown.
        """
        return [json.loads(line)["body"].get("event_type") for line in self._lines(self._out)]

    def refused(self) -> int:
        """
        Return how many it has said are no event logs.
        """
        return sum(
            line.startswith(b"skipped a message that is not an event log")
            for line in self._lines(self._err)
        )

    def said(self) -> str:
        """
        Return the end of what else it has said.
        """
        return self._err.read_text("utf-8", "replace")[-3000:]

    @staticmethod
    def _lines(path: pathlib.Path) -> list[bytes]:
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        return whole.split(b"\n") if whole else []


@pytest.fixture
def tail(
    rabbit_config: dict[str, Any], broker: Broker, tmp_path: pathlib.Path
) -> Iterator[Callable[[], Tail]]:
    """
    Start `Tail`: it has its queue when this returns.
    """
    made: list[Tail] = []

    def start() -> Tail:
        made.append(Tail(tmp_path, {"AMQP_URI": rabbit_config["AMQP_URI"]}))
        vhost = rabbit_config["AMQP_URI"].rpartition("/")[2]
        bindings = f"exchanges/{vhost}/eventlog/bindings/source"
        wait_until(lambda: "eventlog-tail" in str(broker.api("GET", bindings)), interval=0.1)
        return made[0]

    yield start
    for one in made:
        one.process.terminate()
        one.process.wait()


class TestFuzzing:
    @pytest.mark.timeout(PATIENCE * 2)
    def test_sum(
        self,
        run_service: Any,
        rabbit_config: dict[str, Any],
        queues: Queues,
        tail: Callable[[], Tail],
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """
        Every message that the broker takes is handled or a dead letter, of handlers of one and of
        many; a row, a reject or a dead letter of the store's; and shown or refused by ``tail``. A
        good message behind them passes through all of these.
        """
        logging.disable(logging.ERROR)
        monkeypatch.setattr(Downstream, "one", [])
        monkeypatch.setattr(Downstream, "many", [])
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        section = {"uri": uri, "services": ["shop"], "batch_seconds": 0.05}
        containers = [
            run_service(EventLogStore, {**rabbit_config, "EVENTLOG_STORE": section}),
            run_service(Downstream, rabbit_config),
        ]
        shown = tail()
        engine = open_engine(uri)

        def rows(table: Any) -> int:
            with engine.begin() as connection:
                return int(connection.scalar(select(func.count()).select_from(table)) or 0)

        def became() -> dict[str, tuple[int, ...]]:
            return {
                "one": (len(Downstream.one), queues["one.dead-letters"]),
                "many": (len(Downstream.many), queues["many.dead-letters"]),
                "store": (rows(event_logs), rows(rejects), queues["eventlog-store.dead-letters"]),
                "tail": (len(shown.shown()), shown.refused()),
            }

        with Sender(rabbit_config["AMQP_URI"]) as sender:
            exchange = event_exchange("shop").name
            sender.send_all(exchange, "log_event", islice(hostile_messages(SEED), MESSAGES))
            good = json.dumps(body(event_type=END)).encode()
            assert sender.send(exchange, "log_event", WireMessage(good, properties()))
        taken = queues["taken"]

        def settled() -> bool:
            is_up = shown.process.poll() is None and not any(
                one._died.ready() for one in containers
            )
            return not is_up or min(sum(found) for found in became().values()) >= taken

        with suppress(AssertionError):  # the sums say more
            wait_until(settled, PATIENCE, 0.2 + MESSAGES / 10_000)  # each look reads all again
        if MESSAGES > 5000:
            with capsys.disabled():
                sys.stdout.write(f"\nsent {sender.sent}, taken {taken}: {became()}\n")

        assert shown.process.poll() is None, shown.said()
        assert [False, False] == [one._died.ready() for one in containers]
        assert dict.fromkeys(became(), taken) == {
            name: sum(found) for name, found in became().items()
        }
        assert taken > MESSAGES * 0.9
        assert min(count for found in became().values() for count in found[:2]) > MESSAGES / 10
        for all_of in (Downstream.one, Downstream.many, shown.shown()):
            assert END in all_of
        with engine.begin() as connection:
            is_its = series.c.id == event_logs.c.series_id
            statement = select(func.count()).where(is_its, series.c.event_type == END)
            assert 1 == connection.scalar(statement)
        engine.dispose()
