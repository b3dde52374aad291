"""
The store as a service, with a database or a broker in trouble: every sum must be right.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import amqp
import eventlet
import pytest
from kombu import Connection
from sqlalchemy import text

from nameko_eventlog.store import DatabaseError, EventLogStore
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.service import StoreConsumer
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.writing import EventLogWriter
from tests.conftest import global_config
from tests.nameko_version import event_exchange
from tests.postgresql import PostgreSQL
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.store.conftest import Make, body
from tests.store.numbered import left, numbers, send
from tests.store.tables import with_tables
from tests.waiting import wait_until


Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Try again without much ado.
    """
    monkeypatch.setattr("nameko_eventlog.consuming.batches.FIRST_RETRY", 0.05)
    monkeypatch.setattr("nameko_eventlog.consuming.batches.LAST_RETRY", 0.2)
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
        options = {"confirm_publish": True}  # else a channel that is closed may lose them
        with Connection(rabbit_config["AMQP_URI"], transport_options=options) as connection:
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


@pytest.fixture
def handed_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """
    What is refused is given back to the broker soon: a list of what each probe then told.
    """
    monkeypatch.setattr("nameko_eventlog.consuming.entrypoint.EventLogConsumer.hold_seconds", 0.3)
    told: list[bool] = []
    ask = StoreConsumer.probe

    def probe(consumer: StoreConsumer) -> bool:
        told.append(False)
        told[-1] = ask(consumer)
        return told[-1]

    monkeypatch.setattr(StoreConsumer, "probe", probe)
    return told


class TestTakesNoWrites:
    @pytest.mark.parametrize("has_id", [True, False])
    def test_read_only(
        self,
        rabbit_config: Any,
        postgresql: PostgreSQL,
        start: Start,
        handed_back: list[bool],
        has_id: bool,
    ) -> None:
        """
        A server that answers and takes no writes, for long: what waits for it on a quorum queue
        is delivered once more, and not so often that it becomes a dead letter.
        """
        postgresql.start()
        uri = postgresql.create_database()
        start(rabbit_config, uri=uri, quorum=True)
        send(rabbit_config, 0, 5, has_id)
        wait_until(lambda: len(numbers(uri)) == 5)
        set_read_only(uri, "on")
        send(rabbit_config, 5, 5, has_id)
        wait_until(lambda: len(handed_back) > 5)
        assert not any(handed_back)
        wait_until(lambda: left(rabbit_config) == (5, 0))
        set_read_only(uri, "off")

        wait_until(lambda: len(numbers(uri)) >= 10)
        wait_until(lambda: left(rabbit_config) == (0, 0))
        assert list(range(10)) == numbers(uri)
        assert handed_back[-1]

    def test_full(
        self, rabbit_config: Any, tmp_path: Path, start: Start, handed_back: list[bool]
    ) -> None:
        """
        The same, with a database that takes other rows than those that it has refused.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        start(rabbit_config, uri=uri, quorum=True)
        engine = open_engine(uri, writes=True)
        refuse = "CREATE TRIGGER refuse BEFORE INSERT ON event_logs WHEN NEW.message_id > 'm5'"
        with engine.begin() as connection:
            # an error that is not of one row's making
            connection.execute(text(f"{refuse} BEGIN INSERT INTO nowhere VALUES (1); END"))
        send(rabbit_config, 3, 5)
        wait_until(lambda: len(handed_back) > 5)
        assert not any(handed_back)
        wait_until(lambda: left(rabbit_config) == (5, 0))
        with engine.begin() as connection:
            connection.execute(text("DROP TRIGGER refuse"))
        engine.dispose()

        wait_until(lambda: len(numbers(uri)) >= 5)
        wait_until(lambda: left(rabbit_config) == (0, 0))
        assert list(range(3, 8)) == numbers(uri)

    def test_later_schema(
        self, rabbit_config: Any, database: str, start: Start, handed_back: list[bool]
    ) -> None:
        """
        The same, with tables of a later version, until they are this one's.
        """
        with with_tables(database) as tables:
            version = tables.version()
            tables.set_version("9999")
            start(rabbit_config, uri=database, quorum=True)
            send(rabbit_config, 0, 5)
            wait_until(lambda: len(handed_back) > 5)
            assert not any(handed_back)
            tables.set_version(version)

        wait_until(lambda: len(numbers(database)) >= 5)
        wait_until(lambda: left(rabbit_config) == (0, 0))
        assert list(range(5)) == numbers(database)


def set_read_only(uri: str, value: str) -> None:
    """
    Let a database take writes, or none, from all sessions.

    Those that began before are ended, but none that has not yet told what became of a write.
    """
    name = uri.rsplit("/", 1)[1]
    older = (
        "FROM pg_stat_activity WHERE datname = current_database()"
        " AND pid <> pg_backend_pid() AND backend_start < :altered"
    )
    engine = open_engine(uri)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET default_transaction_read_only = off"))
        connection.execute(
            text(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
        )
        altered = {"altered": connection.scalar(text("SELECT clock_timestamp()"))}

        def ended() -> bool:
            idle = f"SELECT pg_terminate_backend(pid) {older} AND state LIKE 'idle%'"
            connection.execute(text(idle), altered)
            return connection.scalar(text(f"SELECT count(*) {older}"), altered) == 0

        wait_until(ended)
    engine.dispose()


OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
"""Ends all other sessions of a database."""

ACTIVE = "FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
"""What is in the middle of a transaction."""


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
        for first in range(0, 60, 20):
            with engine.begin() as connection:
                connection.execute(text("LOCK TABLE event_logs IN ACCESS EXCLUSIVE MODE"))
                send(rabbit_config, first, 20)
                eventlet.sleep(0.3)
                assert connection.execute(text(OTHERS)).all()
        engine.dispose()

        wait_until(lambda: len(numbers(uri)) >= 60)
        assert list(range(60)) == numbers(uri)
        assert (0, 0) == left(rabbit_config)


class TestIdle:
    @pytest.mark.parametrize("has_id", [True, False])
    def test_ended(
        self,
        rabbit_config: Any,
        postgresql: PostgreSQL,
        start: Start,
        caplog: pytest.LogCaptureFixture,
        has_id: bool,
    ) -> None:
        """
        A server that ends idle connections costs nothing, not a line.
        """
        postgresql.start()
        uri = postgresql.create_database()
        engine = open_engine(uri, writes=True)
        start(rabbit_config, uri=uri)
        for first in range(0, 15, 5):
            send(rabbit_config, first, 5, has_id)
            wait_until(lambda first=first: len(numbers(uri)) == first + 5)
            with engine.begin() as connection:
                wait_until(lambda: not connection.scalar(text(f"SELECT count(*) {ACTIVE}")))
                assert connection.execute(text(OTHERS)).all()
        engine.dispose()

        assert list(range(15)) == numbers(uri)
        assert [] == [one.message for one in caplog.records if one.levelname != "INFO"]

    def test_timeout(
        self,
        rabbit_config: Any,
        postgresql: PostgreSQL,
        start: Start,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        The same, where the server ends what has been idle for long.
        """
        postgresql.start()
        uri = postgresql.create_database()
        name = uri.rsplit("/", 1)[1]
        engine = open_engine(uri)
        with engine.begin() as connection:
            connection.execute(text(f"ALTER DATABASE {name} SET idle_session_timeout = '500ms'"))
        engine.dispose()
        start(rabbit_config, uri=uri)
        other = open_engine(uri.replace(name, "postgres"))
        sessions = text(f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'")
        with other.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for first in (0, 5):
                wait_until(lambda: not connection.scalar(sessions))
                send(rabbit_config, first, 5)
                wait_until(lambda first=first: len(numbers(uri)) == first + 5)
        other.dispose()

        assert list(range(10)) == numbers(uri)
        assert [] == [one.message for one in caplog.records if one.levelname != "INFO"]

    def test_standby(self, postgresql: PostgreSQL, message: Make) -> None:
        """
        A connection that takes no writes any more, as after a failover, is left for another.
        """
        postgresql.start()
        uri = postgresql.create_database()
        writer = EventLogWriter(uri, ["json"])
        writer.write([message(body(data={"number": 1}))])
        with writer._writer.engine.connect() as connection:
            connection.exec_driver_sql("SET default_transaction_read_only = on")
            connection.commit()
        writer.write([message(body(data={"number": 2}))])
        writer.close()

        assert [1, 2] == numbers(uri)

    def test_away(self, postgresql: PostgreSQL, message: Make) -> None:
        """
        A server that is not there any more is tried once more, and then away.
        """
        postgresql.start()
        writer = EventLogWriter(postgresql.create_database(), ["json"])
        writer.write([message(body())])
        postgresql.stop()
        with pytest.raises(DatabaseError, match="cannot be used"):
            writer.write([message(body())])
        writer.close()
        postgresql.start()


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
                wait_until(lambda lost=lost: proxy.connections > lost)
            other.execute("ROLLBACK")
            other.close()

            wait_until(lambda: len(numbers(uri)) >= 20)
            wait_until(lambda: left(rabbit_config) == (0, 0))
            assert list(range(20)) == numbers(uri)
