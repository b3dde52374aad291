"""
Retention is killed, its database with it, while it drops days and deletes by rule.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import eventlet
import pytest

from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.migrating import Migration
from nameko_eventlog.store.sql.partitions import DAY_MS, DailyPartitions
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body, message
from tests.store.recomputed import check_summaries
from tests.store.tables import Tables, is_clickhouse, server_of
from tests.store.test_retention import earliest
from tests.waiting import wait_until


__all__ = ["message"]

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)

KILLS = 6
CALLS = 3_000

RETAIN = f"""
import sys, time
import eventlet
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.retention import Retention
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.sql.waiting import wait_in_real_threads

wait_in_real_threads()
rules = [Rule(0.3, level=("debug",)), Rule(1)]
elapsed = iter(range(0, 10**9, 100_000))
retention = Retention(sys.argv[1], rules, lambda: {NOW_MS}, lambda: next(elapsed))
while True:
    try:
        retention.run(Background(60), lambda: eventlet.sleep(0.05))
    except DatabaseError as exc:
        print(exc, flush=True)
    eventlet.sleep(0.05)
"""


class Retaining:
    """
    A process that runs retention again and again.
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self.start()

    def start(self) -> None:
        """
        Start it.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", RETAIN, self._database],
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )

    def kill(self) -> None:
        """
        End it by SIGKILL.
        """
        self._process.kill()
        self._process.wait()


def left(database: str) -> int:
    """
    Return how many event logs, and days to be corrected, there still are.
    """
    with Tables(database) as tables:
        if is_clickhouse(database):
            opened = sum(one for (one,) in tables.rows("repairs", "is_open"))
            return tables.count("event_logs") + opened
        return tables.count("event_logs", "dropped_days")


@pytest.fixture
def filled(database: str, message: Make) -> str:
    """
    The database, with four days of calls.
    """
    if not is_clickhouse(database):
        engine = open_engine(database, writes=True)
        Migration(engine).run()
        for day in range(-4, 1):
            DailyPartitions(engine, lambda day=day: NOW_MS + day * DAY_MS).add()
        engine.dispose()
    writer = EventLogWriter(database, ["json"])
    for begin in range(0, CALLS, 250):
        logged = []
        for number in range(begin, begin + 250):
            time = NOW - timedelta(days=4 * number / CALLS)
            call = {"call_id": f"shop.pay.{number}", "call_stack": [f"shop.pay.{number}"]}
            logged += [
                message(
                    body(
                        timestamp=(time + timedelta(hours=later)).isoformat(), level=level, **call
                    )
                )
                for later, level in ((0, "debug"), (-1, "info"), (-3, "error"))
            ]
        writer.write(logged)
    writer.close()
    return database


@pytest.fixture
def retaining(filled: str) -> Iterator[Retaining]:
    """
    Retention, in a process of its own.
    """
    process = Retaining(filled)
    yield process
    process.kill()


def expected(database: str) -> int:
    """
    Return how many event logs the rules keep.
    """
    return sum(
        NOW - timedelta(days=4 * number / CALLS, hours=hours) >= earliest(database, days)
        for number in range(CALLS)
        for hours, days in ((0, 0.3), (1, 1), (3, 1))
    )


def told(query: EventLogQuery, range_: dict[str, datetime]) -> list[object]:
    """
    Return what readers are told of a time.
    """
    return [
        query.query(limit=500, **range_),
        query.query(level="error", limit=500, order="oldest", **range_),
        query.count(group_by="level", **range_),
        query.count(group_by="time", bucket=600, **range_),
        query.calls(limit=200, **range_),
        query.latencies(bucket=3600, **range_),
        query.service_map(**range_),
    ]


@pytest.mark.timeout(600)
class TestRetention:
    def test_killed(
        self,
        request: pytest.FixtureRequest,
        filled: str,
        retaining: Retaining,
        seed: random.Random,
    ) -> None:
        """
        SIGKILL several times, the database restarted twice: in the end what is old is gone, and
        the summaries are those of what is left.
        """
        server = server_of(filled, request)
        for kill in range(KILLS):
            eventlet.sleep(0.5 + seed.random())
            retaining.kill()
            if kill in (2, 4) and server is not None:
                server.kill()
                server.start()
            retaining.start()
        kept = expected(filled)
        wait_until(lambda: left(filled) == kept, timeout=120, interval=0.5)
        eventlet.sleep(0.5)

        assert kept == left(filled)
        check_summaries(filled)

    def test_readers(self, filled: str, retaining: Retaining) -> None:
        """
        Meanwhile readers get their answers, and what no rule deletes is in all of them.
        """
        recent = {"since": NOW - timedelta(hours=6)}
        old = {"since": NOW - timedelta(days=5), "until": NOW - timedelta(days=1)}
        number = 0
        with EventLogQuery(filled) as query:
            first = told(query, recent)
            while left(filled) != expected(filled):
                assert first == told(query, recent)
                query.query(text="pay", **old)
                query.count(group_by="time", bucket=60, **old)
                query.calls(order="longest", **old)
                query.latencies(**old)
                query.service_map(**old)
                for age in (0.5, 1.5, 2.5, 3.5):
                    query.trace(f"shop.pay.{round(age * CALLS / 4)}")
                number += 1
            assert first == told(query, recent)
        print(f"{number} rounds of queries")
        assert number > 1
        check_summaries(filled)
