"""
First pages and traces among many rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter, time
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.writing import EventLogWriter


_BATCH = 1_000
_CALLS = 200  # of one origin
_DAY = 86_400  # seconds: the range of filters without an index, by default

INDEX = "by an index"
RANGE = "through a day"
"""86,400 of the rows, or all where there are less."""

PAIR = "two that never meet"
"""All rows of the one are gone through."""


def fill(database: str, rows: int) -> None:
    """
    Store *rows* event logs, one a second, the last now; 200 calls of one origin.

    No event type of ``service_3`` is ``order_7``: one has the numbers that end in 3, the other
    those that end in 2 or 7.
    """
    writer = EventLogWriter(database, ["json"])
    ids = UUID7Generator()
    begin = time() - rows
    for first in range(0, rows, _BATCH):
        messages = []
        for number in range(first, first + _BATCH):
            service = f"service_{number % 10}"
            origin, call = f"web.get.{number // _CALLS}", f"{service}.work.{number}"
            body = {
                "service_name": service,
                "entrypoint_protocol": "Rpc",
                "entrypoint_name": f"method_{number % 30}",
                "call_id": call,
                "call_stack": [origin, call],
                "event_type": f"order_{number % 25}",
                "timestamp": format_time(int((begin + number) * 1000)),
                "level": "error" if number % 50 == 0 else "info",
                "data": {"number": number, "customer": {"id": number % 97}},
            }
            properties = {"message_id": ids.make(begin + number)}
            messages.append(
                ReceivedMessage(
                    json.dumps(body).encode(),
                    "application/json",
                    "utf-8",
                    {},
                    properties,
                    "foo.events",
                    "log_event",
                    False,
                    number,
                )
            )
        writer.write(messages)
    if database.startswith("postgresql"):  # as autovacuum does, sooner or later
        with writer._engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
    writer.close()


def run(database: str, rows: int, rounds: int) -> dict[str, Any]:
    """
    Time each filter's first page, and a trace of 200 calls.

    Args:
        database: An empty database.
        rows: How many rows, one a second, the last now.
        rounds: How often each is asked.

    Returns:
        Milliseconds, medians, by what was asked, and that by what serves it: `INDEX`, `RANGE` or
        `PAIR`.
    """
    fill(database, rows)
    with EventLogQuery(database) as query:
        return {
            kind: {name: _took(partial(ask, query), rounds) for name, ask in asked.items()}
            for kind, asked in _asked().items()
        }


def _took(ask: Callable[[], Any], rounds: int) -> float:
    ask()
    took = []
    for _ in range(rounds):
        start = perf_counter()
        ask()
        took.append((perf_counter() - start) * 1e3)
    return median(took)


def _asked() -> dict[str, dict[str, Callable[[EventLogQuery], Any]]]:
    since = format_time(int((time() - _DAY) * 1000))
    indexed: dict[str, Callable[[EventLogQuery], Any]] = {
        "all": lambda q: q.query(),
        "service": lambda q: q.query(service="service_3"),
        "services": lambda q: q.query(service=["service_3", "service_4"]),
        "entrypoint": lambda q: q.query(entrypoint="method_7"),
        "event_type": lambda q: q.query(event_type="order_7"),
        "event_type with *": lambda q: q.query(event_type="*_1*"),
        "no such event_type": lambda q: q.query(event_type="nothing*"),
        "caller": lambda q: q.query(caller="web"),
        "no such caller": lambda q: q.query(caller="nobody"),
        "level": lambda q: q.query(level="error"),
        "no such level": lambda q: q.query(level="fatal"),
        "oldest": lambda q: q.query(level="info", order="oldest"),
        "call_id": lambda q: q.query(call_id="service_5.work.5"),
        "origin_call_id": lambda q: q.query(origin_call_id="web.get.3"),
        "trace": lambda q: q.trace("web.get.3"),
    }
    ranged: dict[str, Callable[[EventLogQuery], Any]] = {
        "data": lambda q: q.query(data={"customer.id": 97}, since=since),
        "data_contains": lambda q: q.query(data_contains={"number": 2**40}, since=since),
        "metadata": lambda q: q.query(metadata={"level": "fatal"}, since=since),
        "text": lambda q: q.query(text="nowhere", since=since),
    }
    pair: dict[str, Callable[[EventLogQuery], Any]] = {
        "service and event_type": lambda q: q.query(service="service_3", event_type="order_7")
    }
    return {INDEX: indexed, RANGE: ranged, PAIR: pair}
