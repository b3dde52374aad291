"""
The store is killed, its broker and its database with it, while event logs flow in.
"""

from __future__ import annotations

import os
import pathlib
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import kombu
import pytest
import yaml
from eventlet import tpool
from kombu import Connection
from sqlalchemy.exc import SQLAlchemyError

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store import DatabaseError
from tests.faults.conftest import Running, settled
from tests.rabbitmq import Broker
from tests.store.recomputed import check_summaries
from tests.store.tables import Tables, server_of
from tests.waiting import wait_until


KILLS = int(os.environ.get("KILLS", "8"))
EVENT_LOGS = int(os.environ.get("EVENT_LOGS", "1000"))
"""That are stored during the kills, at least."""


class Store:
    """
    A ``nameko run nameko_eventlog.store``.
    """

    def __init__(self, folder: pathlib.Path, uri: str, database: str) -> None:
        self._folder = folder
        config = {
            "AMQP_URI": uri,
            "EVENTLOG_STORE": {"uri": database, "services": ["foo"], "batch_seconds": 0.2},
        }
        (folder / "store.yaml").write_text(yaml.safe_dump(config))
        self.start()

    def start(self) -> None:
        """
        Start it.
        """
        nameko = pathlib.Path(sys.executable).with_name("nameko")
        with (self._folder / "store.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(nameko), "run", "--config", "store.yaml", "nameko_eventlog.store"],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def kill(self) -> None:
        """
        End it by SIGKILL.
        """
        self.process.kill()
        self.process.wait()


def numbers(database: str) -> tuple[list[str], int]:
    """
    Return the number of each stored event log, and how many rejects there are.
    """
    with Tables(database) as tables:
        bodies = [decode_json(one) if isinstance(one, str) else one for one in tables.bodies()]
        return [body["data"]["number"] for body in bodies], tables.count("rejects")


def count(database: str) -> int:
    """
    Count the rows; 0 if the database does not answer.
    """
    with Tables(database) as tables:
        try:
            return tables.count("event_logs")
        except (SQLAlchemyError, DatabaseError):
            return 0


def is_there(config: dict[str, Any], queue: str) -> bool:
    """
    Whether the broker has that queue: before, event logs go nowhere.
    """
    with Connection(config["AMQP_URI"]) as connection:
        try:
            kombu.Queue(queue, channel=connection.default_channel).queue_declare(passive=True)
        except connection.channel_errors:
            return False
        return True


@pytest.fixture
def store(rabbit_config: dict[str, Any], database: str, tmp_path: pathlib.Path) -> Iterator[Store]:
    """
    The store, in a process of its own.
    """
    store = Store(tmp_path, rabbit_config["AMQP_URI"], database)
    yield store
    store.kill()


@pytest.mark.timeout(900)
class TestStore:
    def test_killed(
        self,
        request: pytest.FixtureRequest,
        rabbit_config: dict[str, Any],
        broker: Broker,
        database: str,
        store: Store,
        run: Callable[..., Running],
        tmp_path: pathlib.Path,
        seed: random.Random,
    ) -> None:
        """
        SIGKILL again and again, broker and database restarted: each event log is there once, and
        so it is in the summaries.
        """
        server = server_of(database, request)
        wait_until(lambda: is_there(rabbit_config, "eventlog-store"))
        publishers = []
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            spool = folder / "spool"
            publishers.append(
                run(
                    rabbit_config["AMQP_URI"],
                    {"spool": str(spool)},
                    folder=folder,
                    PAUSE=0.1,
                    BATCH=max(10, EVENT_LOGS // 1_000),
                )
            )
        for kill in range(KILLS):
            enough = tpool.execute(count, database) + EVENT_LOGS / KILLS
            wait_until(
                lambda enough=enough: tpool.execute(count, database) >= enough, interval=0.1
            )
            eventlet.sleep(seed.random())
            store.kill()
            if kill % 3 == 2:
                broker.kill()
                broker.start()
            if kill and kill % 3 == 0 and server is not None:
                server.kill()
                eventlet.sleep(seed.random())
                server.start()
            store.start()
        for publisher in publishers:
            publisher.stop_logging()
            wait_until(lambda publisher=publisher: publisher.is_done, timeout=120)
        for publisher, name in zip(publishers, ("one", "two"), strict=True):
            wait_until(settled(publisher, tmp_path / name / "spool"), timeout=120)
            publisher.stop()
        logged = [number for publisher in publishers for number in publisher.logged]
        wait_until(
            lambda: tpool.execute(count, database) >= len(logged), timeout=240, interval=0.5
        )

        stored, rejected = tpool.execute(numbers, database)
        print(f"{len(logged)} accepted, {len(stored)} rows, {len(set(stored))} of them distinct")
        assert len(logged) > EVENT_LOGS
        assert sorted(logged) == sorted(stored)
        assert 0 == rejected
        tpool.execute(check_summaries, database)

    @pytest.mark.parametrize("database", ["postgresql", "clickhouse"], indirect=True)
    def test_server(
        self,
        request: pytest.FixtureRequest,
        rabbit_config: dict[str, Any],
        database: str,
        store: Store,
        run: Callable[..., Running],
        tmp_path: pathlib.Path,
        seed: random.Random,
    ) -> None:
        """
        The database's server freezes, is killed and is stopped while the store runs: it goes on by
        itself, says why it does not meanwhile, and each event log is there once.
        """
        server = server_of(database, request)
        assert server is not None
        wait_until(lambda: is_there(rabbit_config, "eventlog-store"))
        publisher = run(
            rabbit_config["AMQP_URI"],
            {"spool": str(tmp_path / "spool")},
            folder=tmp_path,
            PAUSE=0.1,
        )
        for trouble in ("freeze", "kill", "stop", "freeze", "kill"):
            before = tpool.execute(count, database)
            wait_until(lambda before=before: tpool.execute(count, database) > before, interval=0.1)
            eventlet.sleep(seed.random() / 2)
            getattr(server, trouble)()
            eventlet.sleep(1 + 2 * seed.random())
            if trouble == "freeze":
                server.thaw()
            else:
                server.start()
        publisher.stop_logging()
        wait_until(lambda: publisher.is_done, timeout=120)
        wait_until(settled(publisher, tmp_path / "spool"), timeout=120)
        publisher.stop()
        logged = publisher.logged
        wait_until(
            lambda: tpool.execute(count, database) >= len(logged), timeout=120, interval=0.5
        )

        stored, rejected = tpool.execute(numbers, database)
        assert sorted(logged) == sorted(stored)
        assert 0 == rejected
        tpool.execute(check_summaries, database)
        assert store.process.poll() is None
        said = (tmp_path / "store.log").read_text()
        assert "cannot be used" in said
        assert re.search(r"refused|REFUSED", said)
