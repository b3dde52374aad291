"""
The explorer's pages among many rows, and the SQL that they are made from, alone.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any
from urllib.request import urlopen

from nameko.containers import ServiceContainer
from sqlalchemy import event

from benchmarks.queries import fill
from nameko_eventlog.explorer import EventLogExplorer
from nameko_eventlog.store import EventLogQuery
from tests.rabbitmq import free_ports


_LEVELS = (["error", "critical", "fatal"], ["warning", "warn"])


def run(database: str, rows: int, rounds: int) -> dict[str, Any]:
    """
    Time the stream's first page, a trace of 200 calls, and the map of a day.

    Args:
        database: An empty database.
        rows: How many rows, one a second, the last now.
        rounds: How often each page is asked for.

    Returns:
        For each page ``page`` and ``sql``, milliseconds, medians; and its ``bytes``.
    """
    fill(database, rows)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    config = {
        "AMQP_URI": "memory://",
        "WEB_SERVER_ADDRESS": address,
        "EVENTLOG_STORE": {"uri": database},
    }
    container = ServiceContainer(EventLogExplorer, config)
    container.start()
    origin = f"web.get.{rows // 400}"
    pages: dict[str, tuple[str, Callable[[EventLogQuery], Any]]] = {
        "stream": ("/", _stream),
        "trace of 200 calls": (f"/trace?call={origin}", lambda query: query.trace(origin)),
        "map of a day": ("/map", lambda query: query.service_map(**_day())),
    }
    results = {}
    with EventLogQuery(database) as query:
        for name, (path, ask) in pages.items():
            url = f"http://{address}{path}"
            statements = _statements(query, ask)
            connection = query._engine.raw_connection()
            got = _get(url)
            page, sql = [], []
            for _ in range(rounds):
                page.append(_milliseconds(partial(_get, url)))
                sql.append(_milliseconds(partial(_execute, connection, statements)))
            connection.close()
            results[name] = {"page": median(page), "sql": median(sql), "bytes": len(got)}
    container.stop()
    return results


def _stream(query: EventLogQuery) -> None:
    query.query(limit=100)
    count = partial(query.count, group_by="time", bucket=1800, limit=1000, **_day())
    count()
    for level in _LEVELS:
        count(level=level)


def _day() -> dict[str, Any]:
    until = datetime.now(timezone.utc)
    return {"since": until - timedelta(days=1), "until": until}


def _statements(
    query: EventLogQuery, ask: Callable[[EventLogQuery], Any]
) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, statement: str, values: Any, *rest: Any) -> None:
        found.append((statement, values))

    event.listen(query._engine, "before_cursor_execute", note)
    ask(query)
    event.remove(query._engine, "before_cursor_execute", note)
    return [pair for pair in found if pair[0].lstrip().startswith(("SELECT", "WITH"))]


def _execute(connection: Any, statements: list[tuple[str, Any]]) -> None:
    for statement, values in statements:
        cursor = connection.cursor()
        cursor.execute(statement, values)
        cursor.fetchall()
        cursor.close()


def _get(url: str) -> bytes:
    with urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def _milliseconds(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e3
