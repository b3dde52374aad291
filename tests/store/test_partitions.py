"""
Daily partitions: they are there ahead of time, and go as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import eventlet
import pytest
from eventlet import tpool
from sqlalchemy import Connection, text

from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.retention import Retention
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.sql.engines import close_engine, open_engine
from nameko_eventlog.store.sql.migrating import Migration
from nameko_eventlog.store.sql.partitions import DAY_MS, DailyPartitions, days_of
from nameko_eventlog.store.sql.waiting import wait_in_real_threads
from nameko_eventlog.store.times import now_ms
from nameko_eventlog.store.writing import EventLogWriter
from tests.postgresql import PostgreSQL
from tests.store.conftest import Make, body
from tests.store.recomputed import check_summaries


NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
TODAY = NOW_MS // DAY_MS


@pytest.fixture
def uri(postgresql: PostgreSQL) -> str:
    """
    The address of an empty database.
    """
    postgresql.start()
    wait_in_real_threads()
    return postgresql.create_database()


@contextmanager
def connected(uri: str, writes: bool = False) -> Iterator[Connection]:
    """
    Open a transaction.
    """
    engine = open_engine(uri, writes=writes)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        close_engine(engine)


def add(uri: str, *times: int) -> list[int]:
    """
    Make the tables, and add partitions at some times; return the days, counted from `TODAY`.
    """
    engine = open_engine(uri, writes=True)
    Migration(engine).run()
    for time in times:
        DailyPartitions(engine, lambda time=time: time).add()
    with engine.begin() as connection:
        found = days_of(connection)
    close_engine(engine)
    return [day - TODAY for day in found]


def partitions(uri: str) -> set[str]:
    """
    Return the partitions that have event logs.
    """
    with connected(uri) as connection:
        return set(connection.scalars(text("SELECT tableoid::regclass::text FROM event_logs")))


def write(uri: str, message: Make, *logged: dict[str, Any]) -> None:
    """
    Store event logs: ``age`` is that of the body, in days; ``message_id`` that of the message.
    """
    writer = EventLogWriter(uri, ["json"])
    messages = []
    for one in logged:
        age, message_id = one.pop("age"), one.pop("message_id", None)
        known = {} if message_id is None else {"message_id": message_id}
        timestamp = (NOW - timedelta(days=age)).isoformat()
        messages.append(message(body(timestamp=timestamp, data={"age": age}, **one), **known))
    writer.write(messages)
    writer.close()


def ages(uri: str) -> list[float]:
    with EventLogQuery(uri) as query:
        return sorted(one["body"]["data"]["age"] for one in query.query(limit=1000)["event_logs"])


def retain(uri: str, days: float, rest: Callable[[], None] = lambda: None) -> int:
    """
    Run retention at `NOW`, even if it takes more than half of all.
    """
    elapsed = iter(range(0, 10**9, 100_000))
    retention = Retention(uri, [Rule(days)], lambda: NOW_MS, lambda: next(elapsed))
    return retention.run(Background(30), rest) or retention.run(Background(30), rest)


class TestAdd:
    def test_start(self, uri: str, message: Make) -> None:
        """
        The store's start adds yesterday, today and the next two days, and event logs go there.
        """
        writer = EventLogWriter(uri, ["json"])
        writer.write([message(body())])
        writer.close()

        today = now_ms() // DAY_MS
        with connected(uri) as connection:
            assert [today - 1, today, today + 1, today + 2] == days_of(connection)
        assert partitions(uri) <= {
            f"event_logs_{datetime.now(timezone.utc) - timedelta(days=days):%Y%m%d}"
            for days in (0, 1)
        }

    def test_next_days(self, uri: str) -> None:
        """
        Each day adds another; days that were missed are added too, but not hundreds of them.
        """
        assert [-1, 0, 1, 2] == add(uri, NOW_MS)
        assert [-1, 0, 1, 2, 3] == add(uri, NOW_MS + DAY_MS)
        assert [*range(-1, 10)] == add(uri, NOW_MS + 7 * DAY_MS)
        assert [*range(-1, 10), *range(969, 1003)] == add(uri, NOW_MS + 1000 * DAY_MS)

    def test_clock_leaps(self, uri: str) -> None:
        """
        After a clock was ahead, the days are added as before.
        """
        add(uri, NOW_MS + 1000 * DAY_MS)

        assert [0, 1, 2, 999, 1000, 1001, 1002] == add(uri, NOW_MS)

    def test_same_day(self, uri: str) -> None:
        """
        The database is asked once a day.
        """
        engine = open_engine(uri, writes=True)
        Migration(engine).run()
        added = DailyPartitions(engine, lambda: NOW_MS)
        added.add()
        close_engine(engine)
        with connected(uri, writes=True) as connection:
            connection.execute(text("DROP TABLE event_logs_20260301"))
        added.add()

        with connected(uri) as connection:
            assert TODAY not in days_of(connection)
        added.forget()
        added.add()
        close_engine(engine)
        with connected(uri) as connection:
            assert TODAY in days_of(connection)

    def test_default(self, uri: str, message: Make) -> None:
        """
        A day whose event logs are in the default partition gets none of its own.
        """
        write(uri, message, {"age": 0}, {"age": -1})

        days = add(uri, NOW_MS)
        assert [2] == [day for day in days if day < 100]
        assert {"event_logs_default"} == partitions(uri)

    def test_in_use(self, uri: str, message: Make) -> None:
        """
        While others use the tables, none is added, and nobody waits for long.
        """
        add(uri)
        engine = open_engine(uri, writes=True)
        added = DailyPartitions(engine, lambda: NOW_MS)
        with connected(uri) as reader:
            reader.execute(text("SELECT FROM event_logs"))
            with eventlet.Timeout(5):
                tpool.execute(added.add)
            write(uri, message, {"age": 0})
        assert added.problem is None
        with connected(uri) as connection:
            assert [] == days_of(connection)

        added.forget()
        added.add()
        close_engine(engine)
        with connected(uri) as connection:
            assert [-1, 1, 2] == [day - TODAY for day in days_of(connection) if day < TODAY + 100]

    def test_problem(self, uri: str, message: Make) -> None:
        """
        A partition that cannot be added is a problem, but event logs are stored.
        """
        add(uri)
        with connected(uri, writes=True) as connection:
            today = datetime.now(timezone.utc)
            connection.execute(
                text(f"CREATE TABLE event_logs_{today - timedelta(days=1):%Y%m%d} (one int)")
            )
        writer = EventLogWriter(uri, ["json"])
        writer.write([message(body())])
        problem = writer.problem
        writer.close()

        assert problem is not None
        assert "already exists" in problem
        assert {"event_logs_default"} == partitions(uri)

    def test_at_once(self, uri: str, message: Make) -> None:
        """
        Of several stores that start at once, one adds them.
        """
        writers = [EventLogWriter(uri, ["json"]) for _ in range(4)]
        pool = eventlet.GreenPool(4)
        list(pool.imap(lambda one: tpool.execute(one.write, [message(body())]), writers))
        assert [None] * 4 == [one.problem for one in writers]
        for one in writers:
            one.close()

        with connected(uri) as connection:
            assert 4 == len(days_of(connection))
        with EventLogQuery(uri) as query:
            assert [4] == [one["count"] for one in query.count()]

    def test_duplicates(self, uri: str, message: Make) -> None:
        """
        A message id is stored once, also with a time of another day, whatever partition that is.
        """
        add(uri, NOW_MS)
        ahead = "019ca9a8-e400-7000-8000-000000000000"  # of 2026-03-01, 17:00
        for message_id in ("one", ahead):
            for age in (0, 1, 40, -0.5, 0):
                write(uri, message, {"age": age, "message_id": message_id})
        write(uri, message, {"age": 40, "message_id": "other"})
        write(uri, message, {"age": 0, "message_id": "other"})

        assert [0, 0, 40] == ages(uri)
        check_summaries(uri)


def across_midnight(message_id: str, age: float) -> list[dict[str, Any]]:
    """
    Make a call's event logs: some before the last midnight, some after.
    """
    call = {"call_id": f"shop.pay.{message_id}", "call_stack": [f"shop.pay.{message_id}"]}
    return [
        {"age": age + 0.2 - part / 10, "message_id": f"{message_id}-{part}", **call}
        for part in range(5)
    ]


class TestDrop:
    @pytest.fixture
    def filled(self, uri: str, message: Make) -> str:
        """
        A database with event logs of five days, each with a partition.
        """
        add(uri, *(NOW_MS + days * DAY_MS for days in range(-4, 1)))
        call = {"call_id": "a.b.1", "call_stack": ["a.b.1"]}
        write(
            uri,
            message,
            *({"age": day + part / 10} for day in range(5) for part in range(-4, 5)),
            # within the day, into the next one, over three days
            {"age": 4, **call},
            *across_midnight("2", 2.5),
            *({"age": age, "call_id": "c.d.3", "call_stack": ["c.d.3"]} for age in (4, 3, 1)),
        )
        assert 5 == len(partitions(uri))
        check_summaries(uri)
        return uri

    def test_days(self, filled: str, caplog: pytest.LogCaptureFixture) -> None:
        """
        Days that are over go as a whole, the boundary's day goes in part; the summaries are right,
        and the log counts all of it.
        """
        caplog.set_level(logging.INFO, "nameko_eventlog")
        before = ages(filled)

        number = retain(filled, 2)
        assert [age for age in before if age <= 2] == ages(filled)
        assert len([age for age in before if age > 2]) == number
        assert {"event_logs_20260227", "event_logs_20260228", "event_logs_20260301"} == partitions(
            filled
        )
        with connected(filled) as connection:
            assert TODAY - 2 == days_of(connection)[0]
        check_summaries(filled)
        assert f"retention: deleted {number} event logs and rejects" in caplog.messages[-1]

    @pytest.mark.parametrize("steps", [1, 2, 3, 20, 50])
    def test_interrupted(self, filled: str, message: Make, steps: int) -> None:
        """
        If it ends in between, the next run goes on, with what was stored meanwhile: further event
        logs of calls that went, and late ones of the dropped days.
        """

        def stop() -> None:
            nonlocal steps
            steps -= 1
            if not steps:
                raise DatabaseError("it is gone")

        with pytest.raises(DatabaseError):
            retain(filled, 1, stop)
        calls = [
            {"call_id": f"{call}", "call_stack": [call]} for call in ("a.b.1", "c.d.3", "new")
        ]
        for age in (0.5, 4, 3, 5):
            write(filled, message, *({"age": age, **call} for call in calls))
        retain(filled, 2)

        assert max(ages(filled)) <= 2
        check_summaries(filled)

    def test_late(self, filled: str, message: Make) -> None:
        """
        What comes late, of a day that was dropped, goes to the default partition, and goes with
        the next run.
        """
        retain(filled, 2)
        write(filled, message, {"age": 4}, *across_midnight("2", 2.5))
        assert "event_logs_default" in partitions(filled)
        check_summaries(filled)
        assert 6 == retain(filled, 2)
        check_summaries(filled)

    def test_in_use(self, filled: str) -> None:
        """
        As long as a query reads, its days stay, and other readers hardly wait; they are dropped
        the next time.
        """
        before = ages(filled)
        with connected(filled) as reader:
            position = reader.scalar(text("SELECT position FROM event_logs"))
            with eventlet.Timeout(10):
                retain(filled, 2)
                assert [age for age in before if age <= 2 or age > 2.5] == ages(filled)
            assert position == reader.scalar(text("SELECT position FROM event_logs"))
        retain(filled, 2)

        assert [age for age in before if age <= 2] == ages(filled)
        check_summaries(filled)

    def test_kept(self, filled: str, message: Make) -> None:
        """
        A day with something to keep is not dropped: the rest is deleted.
        """
        write(filled, message, {"age": 3, "level": "error"})
        rules = [Rule(None, level=("error",)), Rule(1.5)]
        elapsed = iter((0, 100_000))
        retention = Retention(filled, rules, lambda: NOW_MS, lambda: next(elapsed))
        for _ in range(2):
            retention.run(Background(30), lambda: None)

        assert [3] == [age for age in ages(filled) if age > 1.5]
        with connected(filled) as connection:
            assert [TODAY - 3, TODAY - 1] == [day for day in days_of(connection) if day < TODAY]
        check_summaries(filled)

    def test_others_at_work(self, filled: str, message: Make) -> None:
        """
        Others read and write meanwhile, and two stores retain at once.
        """
        is_over = False

        def work() -> int:
            number = 0
            while not is_over:
                number += 1
                logged = [
                    {"age": 0, "call_id": f"x.y.{number}", "call_stack": [f"x.y.{number}"]},
                    *across_midnight("2", 2.5 + number),
                    {"age": 4, "message_id": f"late-{number}"},
                ]
                tpool.execute(write, filled, message, *logged)
                assert tpool.execute(ages, filled)
            return number

        working = eventlet.spawn(work)
        pausing = [eventlet.spawn(retain, filled, 1, lambda: eventlet.sleep(0.01)) for _ in "ab"]
        for one in pausing:
            one.wait()
        is_over = True
        working.wait()

        retain(filled, 1)
        assert max(ages(filled)) <= 1
        check_summaries(filled)


class TestShrink:
    @pytest.fixture
    def sparse(self, uri: str, message: Make, monkeypatch: pytest.MonkeyPatch) -> str:
        """
        A database with many event logs of a day, of which few will be kept.
        """
        monkeypatch.setattr("nameko_eventlog.store.sql.shrinking.LEAST_PAGES", 4)
        add(uri, NOW_MS - 3 * DAY_MS, NOW_MS)
        logged = [{"age": 3 - number / 1000, "level": "debug"} for number in range(400)]
        for one in logged[::50]:
            one["level"] = "error"
        write(uri, message, *logged, {"age": 0})
        return uri

    def size(self, uri: str) -> int:
        with connected(uri) as connection:
            return int(connection.scalar(text("SELECT pg_relation_size('event_logs_20260226')")))

    def retain(self, uri: str, rest: Callable[[], None] = lambda: None) -> None:
        rules = [Rule(None, level=("error",)), Rule(1.5)]
        elapsed = iter((0, 100_000))
        retention = Retention(uri, rules, lambda: NOW_MS, lambda: next(elapsed))
        for _ in range(2):
            retention.run(Background(30), rest)

    def tables(self, uri: str) -> list[str]:
        with connected(uri) as connection:
            found = connection.scalars(
                text(
                    "SELECT relname FROM pg_class WHERE relname LIKE 'event_logs_20260226%'"
                    " AND relkind = 'r'"
                )
            )
            return list(found)

    def test_shrinks(self, sparse: str, message: Make) -> None:
        """
        A day of which little is kept needs little room then, and is a partition as before.
        """
        before = self.size(sparse)
        expected = [age for age in ages(sparse) if age < 1.5 or round(3000 - age * 1000) % 50 == 0]
        self.retain(sparse)

        assert expected == ages(sparse)
        assert self.size(sparse) < before / 4
        assert ["event_logs_20260226"] == self.tables(sparse)
        check_summaries(sparse)
        write(sparse, message, {"age": 2.9, "level": "error"})
        assert "event_logs_default" not in partitions(sparse)
        with EventLogQuery(sparse) as query:
            assert 9 == len(
                query.query(level="error", since=NOW - timedelta(days=4))["event_logs"]
            )

    def test_changes(self, sparse: str, message: Make) -> None:
        """
        What is stored while it is copied is not lost: the copy is given up, and made again later.
        """
        before = self.size(sparse)
        number = 0

        def rest() -> None:
            nonlocal number
            if len(self.tables(sparse)) > 1 and number < 3:
                number += 1
                write(sparse, message, {"age": 3.49, "level": "error"})

        self.retain(sparse, rest)
        assert 3 == number
        assert 3 + 8 + 1 == len(ages(sparse))
        assert before == self.size(sparse)
        assert ["event_logs_20260226"] == self.tables(sparse)
        self.retain(sparse)
        assert 3 + 8 + 1 == len(ages(sparse))
        assert self.size(sparse) < before
        check_summaries(sparse)

    def test_in_use(self, sparse: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        While others read, it stays as it is.
        """
        before = self.size(sparse)
        with monkeypatch.context() as large:
            large.setattr("nameko_eventlog.store.sql.shrinking.LEAST_PAGES", 128)
            self.retain(sparse)
        with connected(sparse) as reader:
            reader.execute(text("SELECT FROM event_logs"))
            self.retain(sparse)
        assert before == self.size(sparse)
        assert 9 == len(ages(sparse))
        assert ["event_logs_20260226"] == self.tables(sparse)
        self.retain(sparse)
        assert self.size(sparse) < before
