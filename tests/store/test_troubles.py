"""
The store as a service, with a database or a broker in trouble: every sum must be right.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import eventlet
import pytest
from kombu import Connection
from sqlalchemy import text

from nameko_eventlog.store import DatabaseError, EventLogQuery, EventLogStore
from nameko_eventlog.store.databases import open_engine
from nameko_eventlog.store.rejecting import Rejects
from tests.conftest import global_config
from tests.nameko_version import event_exchange
from tests.postgresql import PostgreSQL
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.store.conftest import body
from tests.waiting import wait_until


Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Try again without much ado.
    """
    monkeypatch.setattr("nameko_eventlog.consumers.FIRST_RETRY", 0.05)
    monkeypatch.setattr("nameko_eventlog.consumers.LAST_RETRY", 0.2)
    monkeypatch.setattr("nameko_eventlog.consuming.subscription.LAST_BACKOFF", 0.2)


@pytest.fixture
def start(run_service: Any) -> Start:
    """
    Start the store: ``start(config, uri=...)``.
    """

    def start(config: dict[str, Any], **section: Any) -> Any:
        section = {"batch_seconds": 0.05, "services": ["shop"], **section}
        return run_service(EventLogStore, {**config, "EVENTLOG_STORE": section})

    return start


def send(config: dict[str, Any], first: int, count: int, has_id: bool = True) -> None:
    """
    Send numbered event logs.
    """
    with Connection(config["AMQP_URI"]) as connection:
        channel = connection.connection.channel()
        for number in range(first, first + count):
            properties = {"message_id": f"m{number}"} if has_id else {}
            channel.basic_publish(
                amqp.Message(
                    json.dumps(body(data={"number": number})),
                    content_type="application/json",
                    content_encoding="utf-8",
                    **properties,
                ),
                exchange=event_exchange("shop").name,
                routing_key="log_event",
            )


def numbers(uri: str) -> list[int]:
    """
    Return the numbers of all rows.
    """
    with EventLogQuery(uri) as query:
        try:
            found = query.query(limit=1000)["event_logs"]
        except DatabaseError:  # the store was not quick enough to make the tables
            return []
    return sorted(one["body"]["data"]["number"] for one in found)


def left(config: dict[str, Any]) -> tuple[int, int]:
    """
    How many messages the queue has to give, and how many dead letters there are.
    """
    with Connection(config["AMQP_URI"]) as connection:
        return tuple(
            connection.default_channel.queue_declare(name, passive=True)[1]
            for name in ("eventlog-store", "eventlog-store.dead-letters")
        )


class TestSlow:
    @pytest.mark.parametrize("has_id", [True, False])
    def test_locked(
        self,
        rabbit_config: Any,
        tmp_path: Path,
        start: Start,
        monkeypatch: pytest.MonkeyPatch,
        has_id: bool,
    ) -> None:
        """
        A write that takes too long is tried again, while it goes on: each is one row, and each
        reject one, with message ids or without.
        """
        monkeypatch.setattr("nameko_eventlog.store.service.WRITE_SECONDS", 0.3)
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        start(rabbit_config, uri=uri)
        other = sqlite3.connect(tmp_path / "eventlog.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        send(rabbit_config, 0, 50, has_id)
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            for _ in range(3):
                connection.connection.channel().basic_publish(
                    amqp.Message("rubbish"), event_exchange("shop").name, "log_event"
                )
        eventlet.sleep(1.5)
        other.execute("ROLLBACK")
        other.close()

        wait_until(lambda: len(numbers(uri)) >= 50)
        send(rabbit_config, 50, 1)
        wait_until(lambda: 50 in numbers(uri))
        assert list(range(51)) == numbers(uri)
        kept = Rejects(uri)
        assert 3 == len(kept.list())
        kept.close()


class TestTerminated:
    def test_in_the_middle(self, rabbit_config: Any, postgresql: PostgreSQL, start: Start) -> None:
        """
        An administrator who ends the store's connections in the middle of a transaction costs
        nothing.
        """
        postgresql.start()
        uri = postgresql.create_database()
        start(rabbit_config, uri=uri)
        engine = open_engine(uri)
        others = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for first in range(0, 60, 20):
            with engine.begin() as connection:
                connection.execute(text("LOCK TABLE event_logs IN ACCESS EXCLUSIVE MODE"))
                send(rabbit_config, first, 20)
                eventlet.sleep(0.3)
                assert connection.execute(text(others)).all()
        engine.dispose()

        wait_until(lambda: len(numbers(uri)) >= 60)
        assert list(range(60)) == numbers(uri)
        assert (0, 0) == left(rabbit_config)


class TestRedelivered:
    def test_often(
        self,
        rabbit_config: Any,
        broker: Broker,
        tmp_path: Path,
        start: Start,
    ) -> None:
        """
        What a quorum queue delivers again and again, because connections are lost while the
        database is locked, is no dead letter for it.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        proxy = Proxy(broker.port)
        address = rabbit_config["AMQP_URI"].replace(f":{broker.port}/", f":{proxy.port}/")
        with global_config({"AMQP_URI": address}) as config:
            start(config, uri=uri, quorum=True)
            other = sqlite3.connect(tmp_path / "eventlog.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            send(rabbit_config, 0, 20)
            for lost in range(1, 8):
                wait_until(lambda: left(rabbit_config) == (0, 0))
                proxy.cut()
                wait_until(lambda lost=lost: proxy.connections > lost, 20)
            other.execute("ROLLBACK")
            other.close()

            wait_until(lambda: len(numbers(uri)) >= 20, 20)
            wait_until(lambda: left(rabbit_config) == (0, 0))
            assert list(range(20)) == numbers(uri)
