"""
From a queue that is full into a database: the store, or what one writes without it.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
from time import perf_counter, time
from typing import Any

import eventlet
import psycopg2
from eventlet.pools import Pool
from kombu import Connection
from nameko.containers import ServiceContainer
from nameko.events import event_handler
from nameko.standalone.events import get_event_exchange

from benchmarks.container import EVENT_DATA, METADATA, OURS, SERVICE
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store import EventLogStore
from nameko_eventlog.store.clickhouse.connections import Connection as ClickHouse
from nameko_eventlog.store.databases import is_clickhouse
from nameko_eventlog.store.service import Database
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.writing import EventLogWriter


_TABLE = """
CREATE TABLE handled (
    message_id VARCHAR(36) PRIMARY KEY, time_ms BIGINT, service_name TEXT, event_type TEXT,
    entrypoint_name TEXT, level TEXT, call_id TEXT, origin_call_id TEXT, body TEXT
)
"""
"""What the peer writes to: the table that one makes without a store, with three indexes."""

_INDEXED = ("time_ms", "call_id")

_CLICKHOUSE_TABLE = """
CREATE TABLE handled (
    message_id String, time_ms Int64, service_name LowCardinality(String),
    event_type LowCardinality(String), entrypoint_name LowCardinality(String),
    level LowCardinality(String), call_id String, origin_call_id String, body String
) ENGINE = MergeTree ORDER BY (time_ms, message_id)
"""

_INSERT = (
    "INSERT INTO handled (message_id, time_ms, service_name, event_type, entrypoint_name,"
    " level, call_id, origin_call_id, body) VALUES ({0}, {0}, {0}, {0}, {0}, {0}, {0}, {0}, {0})"
)


_COLUMNS = (
    "message_id", "time_ms", "service_name", "event_type", "entrypoint_name", "level", "call_id",
    "origin_call_id", "body",
)  # fmt: skip

_BEGIN = time() - 3600


def body(number: int) -> dict[str, Any]:
    """
    Make the body of an event log.
    """
    call = f"foo.work.{number // 10}"
    return {
        "service_name": SERVICE,
        "entrypoint_protocol": "Rpc",
        "entrypoint_name": "work",
        "call_id": call,
        "call_stack": ["standalone_rpc_proxy.call.3f34a8c1-6d3c-4d6e-8a58-0c7c1f2b7d10", call],
        **METADATA,
        "timestamp": format_time(int(_BEGIN + number / 1000) * 1000),
        "event_type": "session_created",
        "data": {**EVENT_DATA, "number": number},
    }


def _publish(uri: str, ids: list[str]) -> None:
    # a broker that writes a million messages down does not read for a while
    options = {"confirm_publish": False, "socket_settings": {socket.TCP_USER_TIMEOUT: 0}}
    with Connection(uri, transport_options=options) as connection:
        channel = connection.default_channel
        for number, message_id in enumerate(ids):
            channel.basic_publish(
                channel.prepare_message(
                    json.dumps(body(number)),
                    content_type="application/json",
                    content_encoding="utf-8",
                    properties={"message_id": message_id, "delivery_mode": 2},
                ),
                f"{SERVICE}.events",
                "log_event",
            )


class _Rows:
    """
    A connection to ClickHouse that inserts each row at once, with the methods of the others.
    """

    def __init__(self, database: str) -> None:
        self._connection = ClickHouse(database)

    def cursor(self) -> _Rows:
        return self

    def execute(self, statement: str, values: tuple[Any, ...]) -> None:
        row = {name: [value] for name, value in zip(_COLUMNS, values, strict=True)}
        self._connection.insert("handled", row)

    def commit(self) -> None:
        """
        Do nothing: what is inserted stays.
        """


class _Progress:
    """
    How many were written, and how much memory the process had at a tenth, and has.
    """

    def __init__(self, count: int) -> None:
        self.written = 0
        self.tenth = 0
        self._count = count

    def add(self, number: int) -> None:
        self.written += number
        if not self.tenth and self.written >= self._count // 10:
            self.tenth = self.resident()

    @staticmethod
    def resident() -> int:
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _store(progress: _Progress) -> type:
    class Counting(Database):
        def write(self, messages: Any) -> None:
            super().write(messages)
            progress.add(len(messages))

    class Store(EventLogStore):
        database = Counting()

    return Store


def _handler(database: str, progress: _Progress) -> type:
    if is_clickhouse(database):
        connections = Pool(max_size=10, create=lambda: _Rows(database))
        statement = ""
    elif database.startswith("sqlite"):
        import sqlite3

        def connect() -> Any:
            connection = sqlite3.connect(database.removeprefix("sqlite:///"))
            connection.execute("PRAGMA synchronous = FULL")
            return connection

        connections, statement = Pool(max_size=1, create=connect), _INSERT.format("?")
    else:
        # green threads at once want a connection each
        connections = Pool(max_size=10, create=lambda: psycopg2.connect(database))
        statement = _INSERT.format("%s")
    ids = UUID7Generator()

    class Handler:
        name = "handler"

        @event_handler(SERVICE, "log_event")
        def store(self, body: dict[str, Any]) -> None:
            values = (
                ids.make(time()), int(time() * 1000), body["service_name"], body["event_type"],
                body["entrypoint_name"], body["level"], body["call_id"], body["call_stack"][0],
                json.dumps(body),
            )  # fmt: skip
            with connections.item() as connection:
                connection.cursor().execute(statement, values)
                connection.commit()
            progress.add(1)

    return Handler


def _create_tables(database: str) -> None:
    writer = EventLogWriter(database, ["json"])
    writer.prepare()
    writer.close()
    if is_clickhouse(database):
        clickhouse = ClickHouse(database)
        clickhouse.command(_CLICKHOUSE_TABLE)
        clickhouse.close()
        return
    engine = open_engine(database, writes=True)
    with engine.begin() as connection:
        connection.exec_driver_sql(_TABLE)
        for name in _INDEXED:
            connection.exec_driver_sql(f"CREATE INDEX handled_{name} ON handled ({name})")
    engine.dispose()


def run(side: str, uri: str, database: str, count: int, again: bool = True) -> dict[str, Any]:
    """
    Work off a queue of *count* messages.

    Args:
        side: Ours, or ``handler``: Nameko's ``event_handler``, one insert and commit each.
        uri: An empty vhost.
        database: An empty database.
        count: How many.
        again: Whether the store gets them all a second time, as duplicates.

    Returns:
        ``rate``: event logs a second; ``again``: duplicates a second; ``tenth``, ``end``: bytes
        of memory after a tenth, and at the end.
    """
    _create_tables(database)
    config = {
        "AMQP_URI": uri,
        "EVENTLOG_STORE": {"uri": database, "services": [SERVICE]},
    }
    with Connection(uri) as connection:
        get_event_exchange(SERVICE, {})(connection.default_channel).declare()

    generator = UUID7Generator()
    ids = [generator.make(_BEGIN + number / 1000) for number in range(count)]

    def once() -> tuple[float, _Progress]:
        progress = _Progress(count)
        service = _store(progress) if side == OURS else _handler(database, progress)
        container = ServiceContainer(service, config)
        container.start()  # which makes the queue
        container.stop()
        _publish(uri, ids)
        container = ServiceContainer(service, config)
        start = perf_counter()
        container.start()
        while progress.written < count:
            eventlet.sleep(0.01)
        elapsed = perf_counter() - start
        container.stop()
        return elapsed, progress

    elapsed, progress = once()
    result = {"rate": count / elapsed, "tenth": progress.tenth, "end": progress.resident()}
    if side == OURS and again:
        elapsed, _ = once()
        result["again"] = count / elapsed
    return result
