"""
A day of a hundred event logs a second: how fast it is written, how large it is, and how long each
page, filter and count takes on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from statistics import median
from time import perf_counter, time
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

from nameko.containers import ServiceContainer
from sqlalchemy import column, func, select, table

from benchmarks.day import LONG_TRACE, NEVER_MEET, ROWS, Day
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.explorer import EventLogExplorer
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.databases import is_clickhouse
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.writing import EventLogWriter
from tests.rabbitmq import free_ports


PAGE, TRACE, EQUALITY, TEXT, PAIR = "page", "trace", "equality", "text", "pair"

BOUNDS = {PAGE: 300, TRACE: 300, EQUALITY: 100, TEXT: 500, PAIR: 100}
"""In milliseconds, on SQLite and PostgreSQL."""

CLICKHOUSE_BOUNDS = {PAGE: 500, TEXT: 1_500}
"""In milliseconds, on ClickHouse."""

Ask = Callable[[EventLogQuery], Any]


def run(database: str, rows: int = ROWS, rounds: int = 5) -> dict[str, Any]:
    """
    Fill a database, and ask it.

    Args:
        database: An empty database.
        rows: How many event logs, a hundred a second, the last now.
        rounds: How often each is asked.

    Returns:
        ``rates``: rows a second of each tenth; ``bytes``: on disk, for each event log; ``asked``:
        by what was asked, the milliseconds of the first answer on a new connection, the median of
        the next ones, and the bound, or None.
    """
    day = Day(time(), rows)
    rates = fill(database, day)
    size = _size(database) / rows
    bounds = CLICKHOUSE_BOUNDS if is_clickhouse(database) else BOUNDS
    asked = {
        name: [*_took(database, ask, rounds), bounds.get(kind)]
        for name, (ask, kind) in questions(day).items()
    }
    for name, path, kind in _pages():
        asked[f"page: {name}"] = [*_page_took(database, path, rounds), bounds.get(kind)]
    return {"rates": rates, "bytes": size, "asked": asked}


def fill(database: str, day: Day) -> list[float]:
    """
    Store the event logs of *day*.

    Returns:
        How many rows a second were written, for each tenth.
    """
    writer = EventLogWriter(database, ["json"])
    writer.prepare()
    rates: list[float] = []
    number, took, tenth = 0, 0.0, max(day.rows // 10, 1)
    size = parse_store_config({"EVENTLOG_STORE": {"uri": database}}).batch_size
    for messages in _batches(day, min(size, tenth)):
        begin = perf_counter()
        writer.write(messages)
        took += perf_counter() - begin
        number += len(messages)
        if number >= tenth:
            rates.append(number / took)
            number, took = 0, 0.0
    writer.close()
    if database.startswith("postgresql"):  # as autovacuum does, sooner or later
        engine = open_engine(database, writes=True)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
        engine.dispose()
    return rates


def _batches(day: Day, size: int) -> Iterator[list[ReceivedMessage]]:
    batch: list[ReceivedMessage] = []
    for message_id, body in day.event_logs():
        batch.append(
            ReceivedMessage(
                json.dumps(body).encode(),
                "application/json",
                "utf-8",
                {},
                {"message_id": message_id},
                f"{body['service_name']}.events",
                "log_event",
                False,
                0,
            )
        )
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _size(database: str) -> int:
    if database.startswith("sqlite"):
        path = database.removeprefix("sqlite:///")
        return sum(
            os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end)
        )
    if is_clickhouse(database):
        return _size_of_parts(database)
    engine = open_engine(database)
    with engine.begin() as connection:
        size = connection.exec_driver_sql("SELECT pg_database_size(current_database())").scalar()
    engine.dispose()
    return int(size or 0)


def _size_of_parts(database: str) -> int:
    names = ("database", "active", "bytes_on_disk")
    parts = table("parts", *map(column, names), schema="system")
    connection = Connection(database)
    size = connection.scalar(
        select(func.sum(parts.c.bytes_on_disk)).where(
            parts.c.active == 1, parts.c.database == func.currentDatabase()
        )
    )
    connection.close()
    return int(size or 0)


def questions(day: Day) -> dict[str, tuple[Ask, str]]:
    """
    Return what is asked of the day, by name, with the kind of its bound.
    """
    since = datetime.fromtimestamp(day.begin, timezone.utc)
    middle = since + timedelta(seconds=(day.end - day.begin) / 2)
    range_ = {"since": since}
    order = day.rows // 24
    return {
        "first page": (lambda q: q.query(), PAGE),
        "a page of noon": (lambda q: q.query(until=middle), PAGE),
        "service": (lambda q: q.query(service="payments"), PAGE),
        "two services": (lambda q: q.query(service=["payments", "mail"]), PAGE),
        "entrypoint": (lambda q: q.query(entrypoint="cancel"), PAGE),
        "event_type": (lambda q: q.query(event_type="orders_row_written"), PAGE),
        "event_type with *": (lambda q: q.query(event_type="*_changed"), PAGE),
        "level": (lambda q: q.query(level="warning+"), PAGE),
        "caller": (lambda q: q.query(caller="orders"), PAGE),
        "oldest": (lambda q: q.query(level="warning", order="oldest"), PAGE),
        "two that never meet": (lambda q: q.query(**NEVER_MEET), PAIR),
        "call_id": (lambda q: q.query(call_id=LONG_TRACE), PAGE),
        "origin_call_id": (lambda q: q.query(origin_call_id=LONG_TRACE), PAGE),
        "trace of 200 calls": (lambda q: q.trace(LONG_TRACE), TRACE),
        "data": (lambda q: q.query(data={"order": order}, **range_), EQUALITY),
        "data that is nowhere": (lambda q: q.query(data={"order": -1}, **range_), EQUALITY),
        "data that is common": (lambda q: q.query(data={"items": 3}, **range_), EQUALITY),
        "data and service": (
            lambda q: q.query(data={"order": order}, service="orders", **range_), EQUALITY,
        ),
        "data_contains": (
            lambda q: q.query(data_contains={"customer": {"id": 4711}}, **range_), EQUALITY,
        ),
        "metadata": (lambda q: q.query(metadata={"logger": "mail.get"}, **range_), EQUALITY),
        "text": (lambda q: q.query(text=f"order {order} of", **range_), TEXT),
        "text that is nowhere": (lambda q: q.query(text="nowhere", **range_), TEXT),
        "text that is common": (lambda q: q.query(text="customer", **range_), TEXT),
        "count by service": (lambda q: q.count(group_by="service", **range_), PAGE),
        "count by event_type": (lambda q: q.count(group_by="event_type", **range_), PAGE),
        "count by level of a service": (
            lambda q: q.count(group_by="level", service="mail", **range_), PAGE,
        ),
        "count by half an hour": (
            lambda q: q.count(group_by="time", bucket=1800, limit=1000, **range_), PAGE,
        ),
        "count by minute": (
            lambda q: q.count(group_by="time", bucket=60, limit=1000, **range_), PAGE,
        ),
        "count by second, the last 100": (
            lambda q: q.count(group_by="time", bucket=1, limit=100, **range_), PAGE,
        ),
        "service_map": (lambda q: q.service_map(**range_), PAGE),
        "services": (lambda q: q.services(), PAGE),
        "unseen": (lambda q: q.unseen(service="nobody", event_type="orders_rowwritten"), PAGE),
        "calls": (lambda q: q.calls(), PAGE),
        "calls that failed": (lambda q: q.calls(outcome="failed"), PAGE),
        "calls of a service that failed": (
            lambda q: q.calls(outcome="failed", service="mail"), PAGE,
        ),
        "calls that took long": (lambda q: q.calls(min_duration=1.0), PAGE),
        "the longest calls": (lambda q: q.calls(order="longest", **range_), PAGE),
        "the longest calls of a service": (
            lambda q: q.calls(order="longest", service="returns", **range_), PAGE,
        ),
        "latencies": (lambda q: q.latencies(**range_), PAGE),
        "latencies by hour": (lambda q: q.latencies(bucket=3600, **range_), ""),
    }  # fmt: skip


def _took(database: str, ask: Ask, rounds: int) -> tuple[float, float]:
    with EventLogQuery(database) as query:
        first = _milliseconds(partial(ask, query))
        return first, median(_milliseconds(partial(ask, query)) for _ in range(rounds))


def _pages() -> list[tuple[str, str, str]]:
    return [
        ("stream", "/", PAGE),
        ("trace of 200 calls", f"/trace?call={quote(LONG_TRACE)}", TRACE),
        ("map", "/map", PAGE),
    ]


def _page_took(database: str, path: str, rounds: int) -> tuple[float, float]:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = {
        "AMQP_URI": "memory://",
        "WEB_SERVER_ADDRESS": address,
        "EVENTLOG_STORE": {"uri": database},
    }
    container = ServiceContainer(EventLogExplorer, config)
    container.start()
    try:
        get = partial(_get, f"http://{address}{path}")
        return _milliseconds(get), median(_milliseconds(get) for _ in range(rounds))
    finally:
        container.stop()


def _get(url: str) -> bytes:
    with urlopen(url, timeout=120) as answer:
        content: bytes = answer.read()
        return content


def _milliseconds(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e3
