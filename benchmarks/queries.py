"""
First pages and traces among many rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
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


def fill(database: str, rows: int) -> None:
    """
    Store *rows* event logs, one a second, the last now; 200 calls of one origin.
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
        Milliseconds by what was asked, medians.
    """
    fill(database, rows)
    day = {"since": format_time(int((time() - 1000) * 1000))}
    asked: dict[str, Callable[[EventLogQuery], Any]] = {
        "all": lambda q: q.query(),
        "service": lambda q: q.query(service="service_3"),
        "services": lambda q: q.query(service=["service_3", "service_4"]),
        "entrypoint": lambda q: q.query(entrypoint="method_7"),
        "event_type": lambda q: q.query(event_type="order_7"),
        "event_type with *": lambda q: q.query(event_type="*_1*"),
        "no such event_type": lambda q: q.query(event_type="nothing*"),
        "level": lambda q: q.query(level="error"),
        "no such level": lambda q: q.query(level="fatal"),
        "oldest": lambda q: q.query(level="info", order="oldest"),
        "call_id": lambda q: q.query(call_id="service_5.work.5"),
        "origin_call_id": lambda q: q.query(origin_call_id="web.get.3"),
        "data": lambda q: q.query(data={"customer.id": 5}, **day),
        "data_contains": lambda q: q.query(data_contains={"number": -1}, **day),
        "text": lambda q: q.query(text="nowhere", **day),
        "trace": lambda q: q.trace("web.get.3"),
    }
    results = {}
    with EventLogQuery(database) as query:
        for name, ask in asked.items():
            ask(query)
            took = []
            for _ in range(rounds):
                start = perf_counter()
                ask(query)
                took.append((perf_counter() - start) * 1e3)
            results[name] = median(took)
    return results
