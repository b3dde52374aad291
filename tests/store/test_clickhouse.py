"""
ClickHouse: what it promises that the other databases promise in other words.
"""

from __future__ import annotations

import logging.config
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import count
from time import monotonic
from typing import Any

import pytest
from eventlet import tpool
from sqlalchemy import text

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.clickhouse import finding
from nameko_eventlog.store.clickhouse.connections import Connection
from nameko_eventlog.store.clickhouse.migrating import probe
from nameko_eventlog.store.clickhouse.purging import ClickHousePurger
from nameko_eventlog.store.probing import try_tables
from nameko_eventlog.store.retention import purge
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import EventLogWriter
from tests.clickhouse import ClickHouse
from tests.store.conftest import Make, body
from tests.store.recomputed import check_summaries
from tests.store.tables import Tables, with_tables
from tests.waiting import wait_until


ENDLESS = text("SELECT sum(number) FROM system.numbers")


@pytest.fixture
def database(clickhouse: ClickHouse) -> str:
    """
    The address of an empty database.
    """
    clickhouse.start()
    return clickhouse.create_database()


@pytest.fixture
def query(database: str, message: Make) -> Iterator[EventLogQuery]:
    """
    Queries of three event logs of two calls.
    """
    writer = EventLogWriter(database, ["json"])
    writer.write(
        [
            message(body(call_id=f"shop.pay.{call}", call_stack=["web.get.1", f"shop.pay.{call}"]))
            for call in (1, 1, 2)
        ]
    )
    writer.close()
    with EventLogQuery(database, seconds=1) as query:
        yield query


class TestRefused:
    def test_login(self, database: str) -> None:
        """
        A login that is rejected is called that, without the password.
        """
        wrong = database.replace("default@", "default:secret@")
        with (
            EventLogQuery(wrong) as query,
            pytest.raises(DatabaseError, match="Authentication failed") as raised,
        ):
            query.services()

        assert "secret" not in str(raised.value)
        assert "The database cannot be used: it rejected the login." == raised.value.reason

    def test_no_database(self, database: str, message: Make) -> None:
        """
        So is a database that does not exist: the store does not create it.
        """
        missing = f"{database}_missing"
        writer = EventLogWriter(missing, ["json"])
        with pytest.raises(DatabaseError, match="does not exist") as raised:
            writer.write([message(body())])
        writer.close()

        assert "The database cannot be used: the database does not exist." == raised.value.reason

    def test_no_server(self, clickhouse: ClickHouse, database: str, message: Make) -> None:
        """
        A server that is away is called that, and one that is there again is used.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body())])
        with EventLogQuery(database) as query:
            clickhouse.kill()
            for use in (lambda: writer.write([message(body())]), query.services):
                with pytest.raises(DatabaseError, match=r"cannot be reached: \[Errno 1") as raised:
                    use()
                assert "The database cannot be used: it cannot be reached." == raised.value.reason
            clickhouse.start()
            writer.write([message(body())])
            assert [2] == [one["count"] for one in query.count()]
        writer.close()

    def test_later_schema(self, database: str) -> None:
        """
        `check` and readers tell that tables have the schema of a later version.
        """
        assert "none yet: the store creates them when it starts" == try_tables(database)
        with with_tables(database) as tables:
            tables.set_version("9999")

        with pytest.raises(DatabaseError, match="the schema '9999', which this version of"):
            try_tables(database)


class TestGivenUp:
    def test_statement(self, query: EventLogQuery) -> None:
        """
        A statement that takes too long is given up, and the connection is free for the next.
        """
        for _ in range(2):
            begin = monotonic()
            with (
                pytest.raises(DatabaseError, match="it took too long"),
                query._reader.reading() as reading,
            ):
                reading.connection.execute(ENDLESS)
            assert monotonic() - begin < 10
            assert [3] == [one["count"] for one in query.count()]

    def test_together(self, query: EventLogQuery) -> None:
        """
        All statements of a reading have one deadline.
        """

        def ask() -> None:
            with query._reader.reading() as reading:
                while True:
                    reading.connection.execute(text("SELECT sleep(0.2)"))

        begin = monotonic()
        with pytest.raises(DatabaseError, match="it took too long"):
            ask()
        assert 1 <= monotonic() - begin < 5

    def test_frozen(
        self,
        clickhouse: ClickHouse,
        query: EventLogQuery,
        database: str,
        message: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A server that does not answer is given up: by queries soon after their deadline.
        """
        monkeypatch.setattr("nameko_eventlog.store.clickhouse.connections.WAIT_SECONDS", 3)
        writer = EventLogWriter(database, ["json"])
        tpool.execute(writer.write, [message(body())])
        tpool.execute(query.services)
        clickhouse.freeze()
        try:
            for use, most in ((query.services, 3), (lambda: writer.write([message(body())]), 10)):
                begin = monotonic()
                with pytest.raises(DatabaseError, match=r"cannot be reached: .*timed out"):
                    tpool.execute(use)
                assert monotonic() - begin < most
            with pytest.raises(DatabaseError):
                probe(database)
        finally:
            clickhouse.thaw()
        tpool.execute(writer.write, [message(body())])
        writer.close()

        wait_until(lambda: query.count()[0]["count"] in (5, 6))  # it may do what it was asked


class TestLoggers:
    def test_silent(self, query: EventLogQuery) -> None:
        """
        Those of the driver stay disabled, also when logging is configured after it was imported.
        """
        settings = {"version": 1, "disable_existing_loggers": False}
        logging.config.dictConfig(settings)
        names = (
            "urllib3.connectionpool",
            "urllib3.util.retry",
            "clickhouse_connect.driver.client",
        )
        assert not any(logging.getLogger(name).disabled for name in names)
        query.services()

        assert all(logging.getLogger(name).disabled for name in names)


class TestDeletedMeanwhile:
    def test_pages(self, database: str, query: EventLogQuery) -> None:
        """
        An event log whose call has just been deleted is left out.
        """
        (first, *_) = query.query()["event_logs"]
        with Tables(database) as tables:
            tables.empty("call_parts")

        assert [] == query.query()["event_logs"]
        assert query.get(first["message_id"]) is None
        assert [] == query.query(text="pay", data={"0": 1})["event_logs"]


class TestTests:
    def test_service_map(self, query: EventLogQuery, database: str, message: Make) -> None:
        """
        The map of services counts by event logs whose bodies Python tests as those that SQL does.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write(
            [
                message(
                    body(
                        call_id=f"shop.pay.{number % 3}",
                        call_stack=["web.get.1", f"shop.pay.{number % 3}"],
                        level="error" if number == 1 else "info",
                        data={"tags": ["a", number % 2]},
                    )
                )
                for number in range(8)
            ]
        )
        writer.close()

        for filters, expected in (
            ({"data": {"tags.1": 1}}, ("web", "shop", 3, 1, 4)),
            ({"data": {"tags": ["a", 0]}}, ("web", "shop", 3, 0, 4)),
        ):
            assert [expected] == [tuple(one.values()) for one in query.service_map(**filters)]
            counts = query.count(group_by="level", **filters)
            assert 4 == sum(one["count"] for one in counts)

    def test_parts(
        self, query: EventLogQuery, database: str, message: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What Python tests is read in parts, in order.
        """
        monkeypatch.setattr(finding, "_FIRST_PARTS", (2, 5))
        monkeypatch.setattr(finding, "_LATER_PARTS", 7)
        monkeypatch.setattr(finding, "_TESTED", 3)
        writer = EventLogWriter(database, ["json"])
        now = now_ms()
        writer.write(
            [
                message(
                    body(
                        timestamp=format_time(now - number * 1000),
                        data={"tags": [number % 4, number]},
                    ),
                    message_id=str(number),
                )
                for number in range(50)
            ]
        )
        writer.close()
        for order in ("newest", "oldest"):
            expected = [number for number in range(50) if number % 4 == 1]
            found: list[int] = []
            cursor = None
            while True:
                page = query.query(data={"tags.0": 1}, order=order, limit=3, cursor=cursor)
                found += [one["body"]["data"]["tags"][1] for one in page["event_logs"]]
                cursor = page["cursor"]
                if cursor is None:
                    break
            assert (expected if order == "newest" else expected[::-1]) == found


OLD = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)


@pytest.fixture
def meanwhile(
    database: str, message: Make, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., list[str]]]:
    """
    Purge a day that has an event log of level debug, while others arrive for it; return the ids of
    the calls that are left.
    """
    writer = EventLogWriter(database, ["json"])

    def logged(number: int, level: str) -> ReceivedMessage:
        at = (OLD + timedelta(seconds=number)).isoformat()
        call = f"shop.pay.{number}"
        return message(
            body(timestamp=at, level=level, call_id=call, call_stack=["web.get.1", call]),
            message_id=f"{number}",
        )

    def purged(others: list[str], late: list[list[str]], during: str) -> list[str]:
        for number, level in enumerate(["debug", *others], 1):
            writer.write([logged(number, level)])
        numbers = count(11)
        waiting = [[logged(next(numbers), level) for level in batch] for batch in late]
        command = Connection.command

        def commanded(self: Connection, text: str, *args: Any, **kwargs: Any) -> Any:
            if during in text and waiting:
                writer.write(waiting.pop())
            return command(self, text, *args, **kwargs)

        monkeypatch.setattr(Connection, "command", commanded)
        rule = Rule(days=1, level=("debug",))
        assert [1] == list(purge(database, OLD + timedelta(days=2), rule))
        assert [] == waiting
        with EventLogQuery(database) as query:
            found = query.query(since=OLD, until=OLD + timedelta(days=1), order="oldest")
        return [one["body"]["call_id"] for one in found["event_logs"]]

    yield purged
    writer.close()


class TestArrivesMeanwhile:
    def test_rebuilding(self, database: str, meanwhile: Callable[..., list[str]]) -> None:
        """
        An event log that arrives for a day whose summaries are being made again keeps its call.
        """
        left = meanwhile(["info"], [["info"], ["info"]], "TABLE call_parts MOVE PARTITION ")

        assert ["shop.pay.2", "shop.pay.11", "shop.pay.12"] == left
        check_summaries(database)

    def test_dropping(self, database: str, meanwhile: Callable[..., list[str]]) -> None:
        """
        An event log that arrives for a day that is being dropped is put back if a rule keeps it.
        """
        left = meanwhile([], [["info", "debug"]], "TABLE event_logs MOVE PARTITION ")

        assert ["shop.pay.11"] == left
        check_summaries(database)

    def test_interrupted(
        self, database: str, meanwhile: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What was being dropped when the process ended is put back by the next run, which drops it.
        """
        put_back = ClickHousePurger._put_back
        monkeypatch.setattr(ClickHousePurger, "_put_back", lambda *_: sys.exit())
        with pytest.raises(SystemExit):
            meanwhile([], [["info"]], "TABLE event_logs MOVE PARTITION ")
        monkeypatch.setattr(ClickHousePurger, "_put_back", put_back)

        purger = ClickHousePurger(database)
        assert [Counter()] == list(purger.correct())
        purger.close()
        check_summaries(database)
        assert [1] == list(
            purge(database, OLD + timedelta(days=2), Rule(days=1, level=("debug",)))
        )
        check_summaries(database)
        with EventLogQuery(database) as query:
            found = query.count(group_by="level", since=OLD, until=OLD + timedelta(days=1))
        assert [{"group": "info", "count": 1}] == found


@pytest.mark.parametrize("table", ["event_logs", "call_parts", "series_days"])
def test_insert_that_failed(database: str, message: Make, table: str) -> None:
    """
    A batch that an insert has left in some of the tables is in all of them when it comes again.
    """
    messages = [message(body()) for _ in range(3)]
    writer = EventLogWriter(database, ["json"])
    writer.write(messages)
    connection = Connection(database)
    connection.command(f"TRUNCATE TABLE {table}")
    connection.close()

    writer.write(messages)
    writer.close()

    check_summaries(database)
    with EventLogQuery(database) as query:
        assert 3 == len(query.query()["event_logs"])
        assert [3] == [one["event_logs"] for one in query.calls()["calls"]]
