"""
The store as a service, on real brokers and databases.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any

import eventlet
import kombu
import pytest
from kombu import Connection, Exchange
from nameko.exceptions import ConfigurationError
from nameko.standalone.rpc import ClusterRpcProxy
from nameko.testing.services import dummy, entrypoint_hook
from sqlalchemy import text

from nameko_eventlog import EventLogDispatcher, consumer_stats
from nameko_eventlog.explorer.service import Pages
from nameko_eventlog.store import DatabaseError, EventLogQuery, EventLogStore
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.service import Database
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.migrating import Migration
from nameko_eventlog.store.sql.partitions import days_of
from tests.clickhouse import ClickHouse
from tests.conftest import global_config
from tests.examples import examples
from tests.nameko_version import NAMEKO, event_exchange
from tests.postgresql import PostgreSQL
from tests.rabbitmq import Broker
from tests.security.messages import hostile_messages, readable_id
from tests.security.sender import Sender
from tests.store.conftest import body
from tests.store.tables import Tables
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parents[2]
Run = Callable[..., Any]
Server = PostgreSQL | ClickHouse


class Shop:
    """
    Dispatches.
    """

    name = "shop"
    eventlog = EventLogDispatcher()

    @dummy
    def pay(self, first: int, count: int) -> None:
        """
        Dispatch so many event logs.
        """
        for number in range(first, first + count):
            self.eventlog("order_paid", {"number": number})


class Billing(Shop):
    """
    Another one.
    """

    name = "billing"


class Web(Shop):
    """
    A third one.
    """

    name = "web"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Try again without much ado.
    """
    monkeypatch.setattr("nameko_eventlog.consuming.batches.FIRST_RETRY", 0.05)
    monkeypatch.setattr("nameko_eventlog.consuming.batches.LAST_RETRY", 0.2)


@pytest.fixture(params=["postgresql", "clickhouse"])
def server(request: pytest.FixtureRequest) -> Server:
    """
    The test runs twice: with PostgreSQL's running server, and with ClickHouse's.
    """
    server: Server = request.getfixturevalue(request.param)
    server.start()
    return server


@pytest.fixture
def start(run_service: Run) -> Run:
    """
    Start a service with a store's configuration: ``start(EventLogStore, config, uri=...)``.
    """

    def start(service: type, config: dict[str, Any], **section: Any) -> Any:
        section.setdefault("batch_seconds", 0.05)
        return run_service(service, {**config, "EVENTLOG_STORE": section})

    return start


def pay(shop: Any, first: int, count: int = 1) -> None:
    """
    Let a shop dispatch.
    """
    with entrypoint_hook(shop, "pay") as hook:
        hook(first, count)


def stored(uri: str, count: int, **filters: Any) -> list[dict[str, Any]]:
    """
    Wait until so many event logs are stored, and return their bodies, oldest first.
    """
    with EventLogQuery(uri) as query:

        def page() -> Any:
            try:
                return query.query(order="oldest", limit=1000, **filters)["event_logs"]
            except DatabaseError:  # the store was not quick enough to make the tables
                return []

        wait_until(lambda: len(page()) >= count)
        return [found["body"] for found in page()]


def publish(config: dict[str, Any], content: bytes, **properties: Any) -> None:
    """
    Send the shop's exchange a message as it is.
    """
    with Connection(config["AMQP_URI"]) as connection:
        kombu.Producer(connection.channel()).publish(
            content, exchange=event_exchange("shop"), routing_key="log_event", **properties
        )


def waiting(config: dict[str, Any], queue: str = "eventlog-store") -> int:
    """
    How many messages the store's queue has to give.
    """
    with Connection(config["AMQP_URI"]) as connection:
        found = kombu.Queue(queue, channel=connection.default_channel).queue_declare(passive=True)
        return int(found[1])


def dead_letters(config: dict[str, Any]) -> int:
    """
    How many dead letters the store has.
    """
    return waiting(config, "eventlog-store.dead-letters")


class TestPermissions:
    def test_least(
        self,
        broker: Broker,
        rabbit_config: Any,
        start: Run,
        run_service: Run,
        tmp_path: pathlib.Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        The permissions that the operating guide names for the store are enough: for storing, and
        for answering by RPC.
        """
        page = (ROOT / "docs/operating.md").read_text("utf-8")
        found = re.search(
            r"set_permissions -p / store \\\n *'(.*)' \\\n *'(.*)' \\\n *'(.*)'\n", page
        )
        assert found
        uri = rabbit_config["AMQP_URI"]
        database = f"sqlite:///{tmp_path}/eventlog.db"
        with broker.user("store", uri.rpartition("/")[2], *found.groups()):
            shop = run_service(Shop, rabbit_config)
            config = {**rabbit_config, "AMQP_URI": uri.replace("guest:guest", "store:secret")}
            with global_config(config):
                store = start(EventLogStore, config, uri=database)
                pay(shop, 0)
                stored(database, 1)
                with (
                    global_config(rabbit_config),
                    ClusterRpcProxy(rabbit_config, timeout=60) as proxy,
                ):
                    (service,) = proxy.eventlog_store.services()
                store.stop()

        assert "shop" == service["service_name"]
        assert "ACCESS_REFUSED" not in caplog.text


class TestEventLogStore:
    def test_stores(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        Event logs of all services are stored, by the fan-in exchange.
        """
        start(EventLogStore, rabbit_config, uri=database)
        pay(start(Shop, rabbit_config), 0, 3)
        pay(start(Billing, rabbit_config), 3, 2)

        bodies = stored(database, 5)

        assert [("billing", 3), ("billing", 4), ("shop", 0), ("shop", 1), ("shop", 2)] == sorted(
            (one["service_name"], one["data"]["number"]) for one in bodies
        )

    def test_instances(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        Two instances and three services: every event log is there once.
        """
        for _ in range(2):
            start(EventLogStore, rabbit_config, uri=database, batch_size=20)
        shops = [start(service, rabbit_config) for service in (Shop, Billing, Web)]
        for first in range(0, 300, 50):
            for shop in shops:
                pay(shop, first, 50)

        bodies = stored(database, 900)

        assert [number for number in range(300) for _ in shops] == sorted(
            one["data"]["number"] for one in bodies
        )

    def test_redelivered(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        The same message id is one row; without one nothing is taken for a duplicate.
        """
        start(EventLogStore, rabbit_config, uri=database, services=["shop"])
        content = json.dumps(body()).encode()
        for message_id in ("one", "one", None, None):
            publish(
                rabbit_config,
                content,
                content_type="application/json",
                content_encoding="utf-8",
                message_id=message_id,
            )
        pay(start(Shop, rabbit_config), 0)

        assert 4 == len(stored(database, 4))

    def test_rejects(self, rabbit_config: Any, database: str, start: Run, caplog: Any) -> None:
        """
        What is no event log is kept with its bytes and the reason, and the service goes on.
        """
        start(EventLogStore, rabbit_config, uri=database, services=["shop"])
        publish(rabbit_config, b"{nonsense", content_type="application/json", headers={"x": 1})
        pay(start(Shop, rabbit_config), 0)

        assert 1 == len(stored(database, 1))
        wait_until(lambda: "as rejects that could not be stored" in caplog.text)
        kept = Rejects(database)
        (reject,) = kept.list()
        kept.close()
        assert b"{nonsense" == reject.body
        assert {"x": 1} == reject.properties["headers"]
        assert reject.reason.startswith("the body cannot be decoded")

    @pytest.mark.timeout(600)
    def test_hostile(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        Hostile messages through each store: every one is a row or a reject, the
        service stays up, and stores what comes behind them.

        What is sent a second time counts once more only if it has no message id to know it by.
        """
        store = start(EventLogStore, rabbit_config, uri=database, services=["shop"])
        shop = start(Shop, rabbit_config)
        messages = [
            one for one in islice(hostile_messages(2), examples(1500)) if not one.is_refused
        ]
        again = messages[::8]
        wanted = len(messages) + sum(readable_id(one.properties) is None for one in again)
        tables = Tables(database)

        def kept() -> list[int]:
            return [tables.count("event_logs"), tables.count("rejects")]

        with Sender(rabbit_config["AMQP_URI"]) as sender:
            sender.send_all(event_exchange("shop").name, "log_event", messages + again)
        assert 0 == sender.refused
        wait_until(lambda: sum(kept()) >= wanted, 120)
        pay(shop, 0)

        assert 1 == len(stored(database, 1, service="shop", data={"number": 0}))
        assert wanted + 1 == sum(kept())
        assert min(kept()) > examples(150)  # the messages are of both kinds
        tables.close()
        assert 0 == dead_letters(rabbit_config)
        with entrypoint_hook(store, "services") as hook:
            assert "shop" in {one["service_name"] for one in hook()}

    def test_database_down(
        self,
        rabbit_config: Any,
        server: Server,
        start: Run,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        With the database down nothing is lost: it is held, given back, and stored when it is up.
        """
        monkeypatch.setattr(
            "nameko_eventlog.consuming.entrypoint.EventLogConsumer.hold_seconds", 0.5
        )
        uri = server.create_database()
        start(EventLogStore, rabbit_config, uri=uri)
        shop = start(Shop, rabbit_config)
        pay(shop, 0, 10)
        assert 10 == len(stored(uri, 10))
        server.kill()
        try:
            pay(shop, 10, 10)
            wait_until(lambda: waiting(rabbit_config) == 10)  # given back to the broker
        finally:
            server.start()

        assert list(range(20)) == [one["data"]["number"] for one in stored(uri, 20)]

    def test_tables(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        The tables are there as soon as the service is.
        """
        start(EventLogStore, rabbit_config, uri=database)

        with EventLogQuery(database) as query:
            assert [] == query.services()

    def test_starts_without_database(self, rabbit_config: Any, server: Server, start: Run) -> None:
        """
        It starts before its database does.
        """
        uri = server.create_database()
        server.stop()
        try:
            start(EventLogStore, rabbit_config, uri=uri)
            pay(start(Shop, rabbit_config), 0, 10)
            eventlet.sleep(0.5)
        finally:
            server.start()

        assert 10 == len(stored(uri, 10))

    def test_hub_is_free(self, rabbit_config: Any, server: Server, start: Run) -> None:
        """
        While the database does not answer, green threads go on.
        """
        uri = server.create_database()
        start(EventLogStore, rabbit_config, uri=uri)
        shop = start(Shop, rabbit_config)
        pay(shop, 0, 10)
        assert 10 == len(stored(uri, 10))
        server.freeze()
        try:
            pay(shop, 10, 10)
            ticks = 0
            with eventlet.Timeout(2, False):
                while True:
                    eventlet.sleep(0.01)
                    ticks += 1
        finally:
            server.thaw()

        assert ticks > 50
        assert 20 == len(stored(uri, 20))

    def test_rpc(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        What `EventLogQuery` answers, the RPC methods answer, and errors bear their names.
        """
        start(EventLogStore, rabbit_config, uri=database)
        pay(start(Shop, rabbit_config), 0, 3)
        stored(database, 3)
        with EventLogQuery(database) as query, global_config(rabbit_config):
            with ClusterRpcProxy(rabbit_config) as cluster:
                store = cluster.eventlog_store
                asked = {"service": "shop", "limit": 2, "until": "2100-01-01T00:00:00Z"}
                page = store.query(**asked)
                first = page["event_logs"][0]

                assert query.query(**asked) == page
                assert query.get(first["message_id"]) == store.get(first["message_id"]) == first
                assert [{"group": "shop", "count": 3}] == store.count()
                assert query.services() == store.services()
                assert query.trace(first["body"]["call_id"]) == store.trace(
                    first["body"]["call_id"]
                )
                with pytest.raises(Exception, match="InvalidQuery limit=0: pass an integer"):
                    store.query(limit=0)
                for method in (store.query, store.count, store.service_map):
                    for name in ("method", "cls", "args"):
                        with pytest.raises(Exception, match=f"InvalidQuery {name}='x': unknown"):
                            method(**{name: "x"})

    def test_server_restarted(self, rabbit_config: Any, server: Server, start: Run) -> None:
        """
        The first question after a restart of the server is answered as the next ones are.
        """
        uri = server.create_database()
        start(EventLogStore, rabbit_config, uri=uri)
        pay(start(Shop, rabbit_config), 0, 3)
        stored(uri, 3)
        with (
            EventLogQuery(uri) as query,
            global_config(rabbit_config),
            ClusterRpcProxy(rabbit_config) as cluster,
        ):
            for _ in range(2):
                assert 3 == len(query.query()["event_logs"])
                assert 3 == len(cluster.eventlog_store.query()["event_logs"])
                server.stop()
                server.start()

    def test_retention(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        What is older than ``retention_days`` goes.
        """
        store = start(
            EventLogStore, rabbit_config, uri=database, services=["shop"], retention_days=7
        )
        for days in (1, 6, 8, 100):
            time = datetime.now(timezone.utc) - timedelta(days=days)
            publish(
                rabbit_config,
                json.dumps(body(timestamp=time.isoformat(), data={"days": days})).encode(),
                content_type="application/json",
                content_encoding="utf-8",
            )
        assert 4 == len(stored(database, 4))

        with entrypoint_hook(store, "apply_retention") as apply_retention:
            apply_retention()

        counts = consumer_stats()["eventlog_store.store"]
        assert (4, 0, 0, 2) == tuple(
            counts[name] for name in ("rows", "duplicates", "rejects", "purged")
        )
        assert 0 < counts["write_seconds"] < 60
        assert [6, 1] == [one["data"]["days"] for one in stored(database, 2)]

    def test_rules(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        The rules of ``retention`` apply.
        """
        rules = [{"level": "debug", "days": 2}, {"level": "ERROR", "days": None}, {"days": 7}]
        store = start(
            EventLogStore, rabbit_config, uri=database, services=["shop"], retention=rules
        )
        for level, days in (("debug", 1), ("debug", 3), ("info", 3), ("info", 8), ("error", 9)):
            time = datetime.now(timezone.utc) - timedelta(days=days)
            publish(
                rabbit_config,
                json.dumps(body(timestamp=time.isoformat(), level=level)).encode(),
                content_type="application/json",
                content_encoding="utf-8",
            )
        assert 5 == len(stored(database, 5))

        with entrypoint_hook(store, "apply_retention") as apply_retention:
            apply_retention()

        assert ["error", "info", "debug"] == [one["level"] for one in stored(database, 3)]

    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    def test_partitions(
        self, rabbit_config: Any, database: str, start: Run, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        The partitions of the next days are there from the start; a problem is logged.
        """
        engine = open_engine(database, writes=True)
        Migration(engine).run()
        taken = datetime.now(timezone.utc) + timedelta(days=2)
        with engine.begin() as connection:
            connection.execute(text(f"CREATE TABLE event_logs_{taken:%Y%m%d} (one int)"))
        store = start(EventLogStore, rabbit_config, uri=database, services=["shop"])
        with engine.begin() as connection:
            assert 3 == len(days_of(connection))
        engine.dispose()

        with entrypoint_hook(store, "apply_retention") as apply_retention:
            apply_retention()

        (line,) = [one for one in caplog.messages if "daily partition" in one]
        assert "could not add a daily partition, so event logs go to the default" in line
        assert "already exists" in line

    @pytest.mark.parametrize("provider", [Database, Pages])
    def test_wrong_configuration(
        self, rabbit_config: Any, run_service: Run, provider: type
    ) -> None:
        """
        What a wrong configuration has kept from its start can be stopped all the same.
        """
        service = type("Service", (), {"name": "service", "database": provider()})
        section = {"uri": "mysql://localhost/eventlog"}
        config = {**rabbit_config, "EVENTLOG_STORE": section}
        container = run_service(service, config, start=False)
        with pytest.raises(ConfigurationError):
            container.start()

        container.stop()

    @pytest.mark.skipif(NAMEKO == 3, reason="nameko-eventlog-dispatcher needs Nameko 2")
    def test_old_library(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        What nameko-eventlog-dispatcher sends is stored and found, each delivery as a row.
        """
        from nameko_eventlog_dispatcher import EventLogDispatcher as OldEventLogDispatcher

        class Old:
            name = "old"
            eventlog = OldEventLogDispatcher()

            @dummy
            def pay(self) -> None:
                self.eventlog("order_paid", {"order": 4711}, {"tenant": "acme"})

        start(EventLogStore, rabbit_config, uri=database, services=["old"])
        with entrypoint_hook(start(Old, rabbit_config), "pay") as pay:
            pay()

        (found,) = stored(
            database, 1, service="old", data={"order": 4711}, metadata={"tenant": "acme"}
        )
        assert ("pay", "order_paid") == (found["entrypoint_name"], found["event_type"])

    def test_services(self, rabbit_config: Any, database: str, start: Run) -> None:
        """
        An exchange that is not there yet is declared as its sender would: either may come first.
        """
        start(EventLogStore, rabbit_config, uri=database, services=["shop", "billing"])
        pay(start(Billing, rabbit_config), 0, 2)

        assert 2 == len(stored(database, 2, service="billing"))
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            Exchange("shop.events", type="topic", passive=True)(connection).declare(passive=True)
