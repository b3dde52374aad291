"""
Queries: what they find, on both databases, held to a plain search through all rows.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from time import monotonic, process_time, time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, update

from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store import DatabaseError, EventLogQuery, InvalidQuery
from nameko_eventlog.store.comparing import is_at, is_contained, is_equal, is_in, needle_of
from nameko_eventlog.store.cursors import Cursor
from nameko_eventlog.store.parameters import (
    MAX_PATH_LEVELS,
    MAX_PATHS,
    MAX_VALUES,
    ORDERS,
    Filters,
)
from nameko_eventlog.store.patterns import Patterns
from nameko_eventlog.store.positions import position_of
from nameko_eventlog.store.sql import matching, sqlite_functions
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.schema import event_logs
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.writing import EventLogWriter
from tests.examples import examples
from tests.store.conftest import Make, body, make_message
from tests.store.tables import SQL, Tables, is_clickhouse
from tests.waiting import wait_until


SERVICES = ("shop", "billing", "web")
LEVELS = ("info", "error", None)
NUMBER = 240

BASE = 1_600_000_000_000  # milliseconds: some time of a clock that is right

ON_ONE_DATABASE = settings(
    max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def bodies(database: str, message: Make) -> list[dict[str, Any]]:
    """
    What is stored, oldest first: one a minute, the last now.
    """
    ids = UUID7Generator()
    begin = time() - NUMBER * 60
    made = [
        body(
            timestamp=format_time(int(begin + number * 60) * 1000),
            service_name=SERVICES[number % 3],
            entrypoint_name=f"method_{number % 5}",
            event_type=f"order_{number % 7}" if number % 2 else f"login_{number % 4}",
            level=LEVELS[number % 3],
            call_id=f"shop.pay.{number // 4}",
            call_stack=["web.get.1", f"shop.pay.{number // 4}"],
            meta=number % 2,
            data={
                "number": number,
                "customer": {"id": number % 9},
                "tags": ["a", f"t{number % 3}"],
            },
        )
        for number in range(NUMBER)
    ]
    writer = EventLogWriter(database, ["json"])
    writer.write(
        [message(one, message_id=ids.make(begin + number * 60)) for number, one in enumerate(made)]
    )
    writer.close()
    return made


@pytest.fixture
def query(database: str, bodies: Any) -> Iterator[EventLogQuery]:
    """
    Queries of it.
    """
    with EventLogQuery(database) as query:
        yield query


def all_pages(query: EventLogQuery, **options: Any) -> list[dict[str, Any]]:
    """
    Follow the cursors to the end.
    """
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = query.query(cursor=cursor, **options)
        found += [row["body"] for row in page["event_logs"]]
        cursor = page["cursor"]
        if cursor is None:
            return found


def numbers(bodies: list[dict[str, Any]]) -> list[int]:
    """
    Which they are.
    """
    return [one["data"]["number"] for one in bodies]


def is_web(one: dict[str, Any], meta: int) -> bool:
    """
    Tell whether it is of the service ``web``, with that metadata.
    """
    return bool(one["service_name"] == "web" and one["meta"] == meta)


FILTERS: list[tuple[dict[str, Any], Any, str | None]] = [
    ({}, lambda b: True, None),
    ({"service": "shop"}, lambda b: b["service_name"] == "shop", "series"),
    ({"service": ["shop", "web"]}, lambda b: b["service_name"] in ("shop", "web"), "series"),
    ({"entrypoint": "method_3"}, lambda b: b["entrypoint_name"] == "method_3", "series"),
    ({"event_type": "order_3"}, lambda b: b["event_type"] == "order_3", "series"),
    ({"event_type": "order_*"}, lambda b: b["event_type"].startswith("order_"), "series"),
    (
        {"event_type": ["*_1", "login_2"]},
        lambda b: b["event_type"] in ("login_1", "order_1", "login_2"),
        "series",
    ),
    ({"event_type": "nothing*"}, lambda b: False, "series"),
    ({"caller": "web"}, lambda b: True, "series"),
    ({"caller": ["shop", "mail"]}, lambda b: False, "series"),
    ({"caller": "web", "service": "shop"}, lambda b: b["service_name"] == "shop", "series"),
    ({"level": "error"}, lambda b: b["level"] == "error", "series"),
    ({"call_id": "shop.pay.7"}, lambda b: b["call_id"] == "shop.pay.7", "call"),
    ({"origin_call_id": "web.get.1"}, lambda b: True, "call"),
    ({"data": {"number": 77}}, lambda b: b["data"]["number"] == 77, "position"),
    ({"data": {"customer.id": 4}}, lambda b: b["data"]["customer"]["id"] == 4, "position"),
    ({"data": {"tags.1": "t2"}}, lambda b: b["data"]["tags"][1] == "t2", "position"),
    ({"data": {"tags.-1": "t2"}}, lambda b: b["data"]["tags"][1] == "t2", "position"),
    ({"data": {"tags.+01": "t2"}}, lambda b: b["data"]["tags"][1] == "t2", "position"),
    ({"data": {f"tags.{'0' * 5000}1": "t2"}}, lambda b: b["data"]["tags"][1] == "t2", "position"),
    ({"data": {f"tags.{'1' * 5000}": "t2"}}, lambda b: False, "position"),
    ({"data": {"tags.--1": "t2"}}, lambda b: False, "position"),
    ({"data": {"tags.\u0661": "t2"}}, lambda b: False, "position"),
    ({"data": {"tags.": "t2"}}, lambda b: False, "position"),
    ({"data": {".".join(["a"] * MAX_PATH_LEVELS): 1}}, lambda b: False, "position"),
    ({"data": {"number": "77"}}, lambda b: False, "position"),
    ({"data": {"number": True}}, lambda b: False, "position"),
    ({"data": {"number": 77.0}}, lambda b: b["data"]["number"] == 77, "position"),
    ({"data": {"number": -0.0}}, lambda b: b["data"]["number"] == 0, "position"),
    ({"data": {"customer": {"id": 4}}}, lambda b: b["data"]["customer"]["id"] == 4, "position"),
    ({"data": {"customer": {}}}, lambda b: False, "position"),
    ({"data_contains": {"tags": ["t1"]}}, lambda b: "t1" in b["data"]["tags"], "position"),
    ({"data_contains": {"customer": {}}}, lambda b: True, "position"),
    ({"metadata": {"meta": 1}}, lambda b: b["meta"] == 1, "position"),
    ({"metadata_contains": {"meta": 0}}, lambda b: b["meta"] == 0, "position"),
    ({"text": 'TAGS": ["A'}, lambda b: False, "position"),
    ({"text": "ORDER_3"}, lambda b: b["event_type"] == "order_3", "position"),
    (
        {"service": "shop", "level": "info", "event_type": "order_*"},
        lambda b: b["service_name"] == "shop" and b["event_type"].startswith("order_"),
        "series",
    ),
    ({"metadata": {"level": "error"}}, lambda b: b["level"] == "error", "position"),
    ({"metadata": {"entrypoint_protocol": "Rpc"}}, lambda b: True, "position"),
    ({"metadata": {"service_name": 5}}, lambda b: False, "position"),
    ({"metadata": {"service_name": "web", "meta": 1}}, lambda b: is_web(b, 1), "position"),
    (
        {"metadata_contains": {"service_name": "web", "meta": 1}},
        lambda b: is_web(b, 1),
        "position",
    ),
    ({"metadata": {"call_id": "shop.pay.7"}}, lambda b: b["call_id"] == "shop.pay.7", "position"),
    ({"metadata": {"call_id": None}}, lambda b: False, "position"),
    (
        {"metadata": {"call_stack": ["web.get.1", "shop.pay.7"]}},
        lambda b: b["call_id"] == "shop.pay.7",
        "position",
    ),
    ({"metadata": {"call_stack": []}}, lambda b: False, "position"),
    ({"metadata": {"call_stack.0": "web.get.1"}}, lambda b: True, "position"),
    (
        {"metadata": {"call_stack.-1": "shop.pay.7"}},
        lambda b: b["call_id"] == "shop.pay.7",
        "position",
    ),
    (
        {"metadata_contains": {"call_stack": ["shop.pay.7"]}},
        lambda b: b["call_id"] == "shop.pay.7",
        "position",
    ),
    ({"metadata_contains": {"call_stack": []}}, lambda b: True, "position"),
    ({"metadata_contains": {"data": {}}}, lambda b: True, "position"),
]
"""What is asked for, what is found, and the index by which."""


class TestQuery:
    def test_filters(
        self, database: str, query: EventLogQuery, bodies: list[dict[str, Any]]
    ) -> None:
        """
        Every filter finds what a search through all finds, page by page, in both orders.
        """
        limit = 40 if is_clickhouse(database) else 7  # there a page takes a twentieth of a second
        for filters, is_wanted, _ in FILTERS:
            expected = [one for one in bodies if is_wanted(one)]
            found = all_pages(query, order="oldest", limit=limit, **filters)
            assert (filters, numbers(expected)) == (filters, numbers(found))
            assert expected == found
            newest = all_pages(query, order="newest", limit=50, **filters)
            assert numbers(expected)[::-1] == numbers(newest)

    def test_times(self, query: EventLogQuery) -> None:
        """
        From since until before until; datetimes and text mean the same.
        """
        since = datetime.now(timezone.utc) - timedelta(minutes=60.5)
        until = since + timedelta(minutes=30)

        found = all_pages(query, since=since, until=until, order="oldest")

        assert list(range(NUMBER - 60, NUMBER - 30)) == numbers(found)
        assert found == all_pages(
            query, since=since.isoformat(), until=until.isoformat(), order="oldest"
        )

    def test_default_range(self, database: str, message: Make, query: EventLogQuery) -> None:
        """
        Filters on data look through the last 24 hours, unless they are told otherwise.
        """
        old = (datetime.now(timezone.utc) - timedelta(days=2)).isoformat()
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(timestamp=old, data={"old": 1}), message_id="old")])
        writer.close()

        assert [] == query.query(data={"old": 1})["event_logs"]
        assert 1 == len(query.query(data={"old": 1}, since="2020-01-01T00:00:00Z")["event_logs"])
        assert 1 == len(query.query(event_type="order_paid")["event_logs"])

    def test_stable(self, database: str, message: Make, query: EventLogQuery) -> None:
        """
        What arrives between two pages does not shift them.
        """
        first = query.query(limit=10)
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(data={"number": 9999})) for _ in range(5)])
        writer.close()

        second = query.query(limit=10, cursor=first["cursor"])

        assert list(range(NUMBER - 11, NUMBER - 21, -1)) == numbers(
            [row["body"] for row in second["event_logs"]]
        )

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"service": 5}, "service=5: pass a non-empty string, or a list"),
            ({"service": []}, "service=\\[\\]: pass a non-empty string"),
            ({"since": "yesterday"}, "since='yesterday': pass a datetime, or ISO 8601"),
            (
                {"since": "2026-01-02", "until": "2026-01-01"},
                "until='2026-01-01': pass a time after",
            ),
            ({"limit": 0}, "limit=0: pass an integer from 1 to 1000"),
            ({"limit": True}, "limit=True"),
            ({"order": "up"}, "order='up': pass one of newest, oldest"),
            ({"cursor": "x"}, "cursor='x': pass the cursor of a page, unchanged"),
            ({"cursor": 5}, "cursor=5"),
            ({"data": "x"}, "data='x': pass a non-empty mapping"),
            ({"data": {"a" + ".a" * 50: 1}}, "data={'a.a.*: pass paths of at most 50 levels"),
            ({"metadata": {"a" + ".a" * 200: 1}}, "metadata=.*: pass paths of at most 50 levels"),
            ({"data": dict.fromkeys(map(str, range(51)), 1)}, "data=.*: pass at most 50 paths"),
            ({"data_contains": {}}, "data_contains={}: pass a non-empty mapping"),
            ({"text": ""}, "text='': pass a non-empty string"),
            ({"colour": "red"}, "colour='red': unknown filter; pass one of service, "),
        ],
    )
    def test_invalid(self, query: EventLogQuery, parameters: dict[str, Any], said: str) -> None:
        """
        A wrong parameter is named, with its value and what to do.
        """
        with pytest.raises(InvalidQuery, match=said):
            query.query(**parameters)

    def test_most(self, query: EventLogQuery) -> None:
        """
        As many values and paths as there may be, all at once, are answered.
        """
        paths = {f"x{number}": number for number in range(MAX_PATHS)}
        names = [f"n{number}" for number in range(MAX_VALUES)]

        page = query.query(
            service=names, event_type=names, level=names, data=paths, metadata=paths
        )

        assert [] == page["event_logs"]

    def test_foreign_cursor(self, query: EventLogQuery) -> None:
        """
        A cursor is for the query that it is of.
        """
        cursor = query.query(limit=1)["cursor"]

        with pytest.raises(InvalidQuery, match="it belongs to another query: pass the same"):
            query.query(limit=1, cursor=cursor, service="shop")
        with pytest.raises(InvalidQuery, match="it belongs to another query: pass the same"):
            query.query(limit=1, cursor=cursor, order="oldest")

    def test_forged_cursor(self, query: EventLogQuery) -> None:
        """
        A cursor that somebody has changed to what no database takes is told to be none.
        """
        wanted = Filters.parse()
        cursor = Cursor("newest", None, None, b"\xff" * 16)
        assert 1 == len(query.query(limit=1, cursor=cursor.encode(wanted))["event_logs"])

        for changes in (
            {"since": 2**63},
            {"until": 2**63},
            {"since": -(2**63) - 1},
            {"position": b""},
            {"position": b"x" * 17},
        ):
            forged = replace(cursor, **changes).encode(wanted)  # type: ignore[arg-type]
            with pytest.raises(InvalidQuery, match="pass the cursor of a page, unchanged"):
                query.query(cursor=forged)

    def test_limit(self, query: EventLogQuery) -> None:
        """
        A limit above the most is the most.
        """
        assert NUMBER == len(query.query(limit=10**6)["event_logs"])

    def test_injection(self, query: EventLogQuery) -> None:
        """
        Nothing that is asked for is SQL, or a pattern, or a path, by accident.
        """
        for evil in (
            "'; DROP TABLE event_logs; --",
            "%",
            "_",
            "order_%",
            '"',
            "\\",
            "\0",
            "\ud800",
        ):
            for name in ("service", "event_type", "text", "call_id"):
                if (name, evil) not in (("text", "_"), ("text", '"')):
                    assert [] == query.query(**{name: evil})["event_logs"], (name, evil)
            assert [] == query.query(data={evil: evil})["event_logs"]
        assert NUMBER == len(query.query(limit=1000)["event_logs"])

    def test_many_types(self, database: str, message: Make) -> None:
        """
        A wildcard that means more types than can be asked one by one looks through the last day.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(event_type=f"type_{number}")) for number in range(300)])
        writer.close()
        with EventLogQuery(database) as query:
            assert 300 == len(query.query(event_type="type_*", limit=1000)["event_logs"])
            assert 100 == len(query.query(event_type="type_1*", limit=100)["event_logs"])


def plans_of(query: EventLogQuery, without: Collection[str] = ()) -> list[str]:
    """
    Return a list into which the plan of every statement goes from now on.

    Args:
        query: What will be asked.
        without: Indexes that are not there for the plans.
    """
    plans: list[str] = []
    explain = (
        "EXPLAIN QUERY PLAN " if query._reader.engine.dialect.name == "sqlite" else "EXPLAIN "
    )

    @event.listens_for(query._reader.engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, text: str, values: Any, *rest: Any) -> None:
        if "WHERE 0 = 1" in text:  # SQLite has a plan for it, and looks at no row
            return
        if text.startswith(("SELECT", "WITH")):
            own = cursor.connection.cursor()
            own.execute("SAVEPOINT plan")
            for index in without:
                own.execute(
                    f"ALTER TABLE event_logs DROP CONSTRAINT IF EXISTS {index}"
                    if index.endswith("pkey")
                    else f"DROP INDEX IF EXISTS {index}"
                )
            own.execute(explain + text, values)
            plans.append("\n".join(str(row[-1]) for row in own.fetchall()))
            own.execute("ROLLBACK TO SAVEPOINT plan")
            own.close()

    return plans


def read_through(plans: list[str]) -> list[str]:
    """
    Return the plans in which a large table is read from its beginning to its end.
    """
    return [plan for plan in plans if _READ.search(plan)]


def searched(plans: list[str]) -> set[str]:
    """
    Return the indexes of event logs that are searched for a value or a range.
    """
    found = {name for plan in plans for one in _SEARCHED.findall(plan) for name in one if name}
    every = {re.sub(r"^event_logs_\d{8}", "event_logs_default", name) for name in found}
    return {_INDEXES.get(name, name) for name in every}


_READ = re.compile(
    r"SCAN (event_logs|calls)\b(?! USING (COVERING )?INDEX)|Seq Scan on (event_logs|calls)"
    r"(?!.*\.\.0\.\d\d )"  # of an empty partition
)
_SEARCHED = re.compile(
    r"SEARCH event_logs(?:_\d+)? USING (?:COVERING )?INDEX (\w+) \("  # SQLite
    r"|(?:Scan(?: Backward)? using|Index Scan on) (event_logs\w+)[^\n]*\n *Index Cond"
)
_INDEXES = {
    "sqlite_autoindex_event_logs_1": "position",
    "event_logs_default_pkey": "position",
    "event_logs_series": "series",
    "event_logs_default_series_id_position_idx": "series",
    "event_logs_call": "call",
    "event_logs_default_call_idx": "call",
    "event_logs_default_body_idx": "body",
}


class TestAnyOrder:
    def test_filters(
        self, database: str, query: EventLogQuery, bodies: list[dict[str, Any]]
    ) -> None:
        """
        As much is found part by part.
        """
        TestQuery().test_filters(database, query, bodies)

    @ON_ONE_DATABASE
    @given(
        st.lists(st.integers(-5, 40), max_size=60),
        st.integers(1, 9),
        st.sampled_from(ORDERS),
        st.integers(-5, 20),
        st.one_of(st.none(), st.integers(21, 41)),
    )
    @example([0] * 60, 7, "newest", 0, None)
    @example([0] * 60, 7, "oldest", 0, None)
    @example([*range(40, 0, -1)], 5, "oldest", 0, 21)
    @example([40, *range(39), -5], 5, "newest", -5, 41)
    def test_any_order(
        self,
        database: str,
        times: list[int],
        limit: int,
        order: str,
        since: int,
        until: int | None,
    ) -> None:
        """
        However the rows have come, and however many share a time, pages have all of the range
        once, in order.
        """
        messages = [
            make_message(
                body(
                    timestamp=format_time(BASE + time_ms),
                    data={"number": number, "is_wanted": number % 3 == 0},
                ),
                message_id=f"{number:02}",
            )
            for number, time_ms in enumerate(times)
        ]
        writer = EventLogWriter(database, ["json"])
        writer.prepare()
        with Tables(database) as tables:
            tables.empty("event_logs", "message_ids")
        assert [] == writer.write(messages)
        writer.close()
        expected = sorted(
            (time_ms, position_of(f"{number:02}", BASE + time_ms), number)
            for number, time_ms in enumerate(times)
            if number % 3 == 0 and since <= time_ms and (until is None or time_ms < until)
        )
        with EventLogQuery(database) as query:
            found = all_pages(
                query,
                data={"is_wanted": True},
                order=order,
                limit=limit,
                since=format_time(BASE + since),
                until=None if until is None else format_time(BASE + until),
            )

        if order == "newest":
            expected.reverse()
        assert [number for *_, number in expected] == numbers(found)

    def test_most(self, query: EventLogQuery) -> None:
        """
        As many paths as there may be are answered part by part, too.
        """
        paths = {f"x{number}": number for number in range(MAX_PATHS)}

        assert [] == query.query(data=paths, metadata=paths)["event_logs"]


class TestPlans:
    @pytest.fixture
    def query(self, query: EventLogQuery) -> EventLogQuery:
        """
        Queries that read no table through if they need not: of so few rows PostgreSQL would.
        """
        if query._reader.engine.dialect.name == "postgresql":
            with query._reader.engine.connect() as connection:
                connection.exec_driver_sql("SET enable_seqscan = off")
                connection.commit()
        return query

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_filters(self, query: EventLogQuery) -> None:
        """
        Names are looked up by the index of series, ids by that of calls, and all else by time.

        Of so few rows PostgreSQL takes one index or another, as its statistics are just then. So
        there the others are not there: an index is known to serve its filter, not to be preferred
        among many rows, which the benchmarks measure. SQLite has no statistics, and prefers it.
        """
        names = {str(one.name) for one in event_logs.indexes} | {"event_logs_pkey"}
        without: set[str] = set()
        plans = plans_of(query, without)
        for filters, _, index in FILTERS:
            without.clear()
            if query._reader.engine.dialect.name == "postgresql":
                meant = "pkey" if index in (None, "position") else index
                without |= names - {f"event_logs_{meant}"}
            for order in ("newest", "oldest"):
                del plans[:]
                found = query.query(order=order, **filters)["event_logs"]
                if index in ("series", "call"):  # without the rows, read by their positions
                    plans[:] = [plan for plan in plans if '"position" = ' not in plan]
                assert (filters, []) == (filters, read_through(plans))
                if found:
                    assert (index or "position") in searched(plans), (filters, plans)

    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    def test_bodies(self, query: EventLogQuery) -> None:
        """
        What is in the bodies has an index on PostgreSQL, which serves paths, too, but for those
        through lists.
        """
        names = {str(one.name) for one in event_logs.indexes} | {"event_logs_pkey"}
        plans = plans_of(query, names - {"event_logs_body"})
        for filters in (
            {"data": {"customer.id": 4}},
            {"data": {"customer": {"id": 4}}},
            {"data_contains": {"tags": ["t1"]}},
            {"metadata": {"meta": 1}},
            {"metadata_contains": {"meta": 1}},
            {"data": {"tags.1": "t2"}},
        ):
            del plans[:]
            query.query(limit=1000, **filters)
            assert ("body" in searched(plans)) == ("tags.1" not in str(filters)), plans

    @pytest.mark.parametrize("database", ["postgresql"], indirect=True)
    def test_text(self, database: str, message: Make) -> None:
        """
        PostgreSQL looks for a text that no index finds with several processes, in the order of the
        time; for what has an index with one.
        """
        writer = EventLogWriter(database, ["json"])
        for begin in range(0, 5_000, 500):
            numbers = [f"shop.pay.{number}" for number in range(begin, begin + 500)]
            writer.write([message(body(call_id=one, data={"name": one})) for one in numbers])
        writer.close()
        with EventLogQuery(database) as query:
            with query._reader.engine.connect() as connection:
                connection.exec_driver_sql("ANALYZE")
                for kind in ("table", "index"):  # else for several processes these are too small
                    connection.exec_driver_sql(f"SET min_parallel_{kind}_scan_size = 0")
                connection.commit()
            plans = plans_of(query)
            pages = [
                query.query(order=order, **filters)
                for order in ("newest", "oldest")
                for filters in (
                    {"text": "-+"},
                    {"text": "-+", "call_id": "shop.pay.7"},
                    {"text": "Y.4999"},
                    {"text": ".\u00e9"},
                    {"data": {"nowhere": 1}},
                )
            ]

        assert [0, 0, 1, 0, 0] * 2 == [len(one["event_logs"]) for one in pages]
        gathered = [searched([plan]) for plan in plans if "Gather Merge" in plan]
        assert [{"position"}] * 4 == gathered

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_others(self, query: EventLogQuery) -> None:
        """
        Counts, the map, services, single event logs, and traces read no table through, either.
        """
        plans = plans_of(query)
        for ask in (
            query.count,
            query.service_map,
            query.services,
            functools.partial(query.get, "x"),
            functools.partial(query.get_json, "x"),
            functools.partial(query.trace, "web.get.1"),
            functools.partial(query.trace, "nobody"),
            functools.partial(query.unseen, service="nobody", call_id="x"),
        ):
            ask()

        assert len(plans) > 8
        assert [] == read_through(plans)

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_trace(self, database: str, message: Make) -> None:
        """
        A trace of many calls is found by the index, too, where origins have many calls each: so
        many that PostgreSQL would rather read all than look for a hundred origins at once.
        """
        writer = EventLogWriter(database, ["json"])
        for origin in range(250):
            calls = [f"shop.pay.{origin}-{number}" for number in range(100)]
            writer.write(
                [message(body(call_id=one, call_stack=[f"o.x.{origin}", one])) for one in calls]
            )
        writer.close()
        with EventLogQuery(database) as query:
            with query._reader.engine.connect() as connection:
                connection.exec_driver_sql("ANALYZE")
                connection.commit()
            plans = plans_of(query)
            trace = query.trace("o.x.7")

        assert trace is not None
        assert 101 == len(trace["calls"])
        assert [] == read_through(plans)


class TestCount:
    def test_groups(self, query: EventLogQuery) -> None:
        """
        The largest group first.
        """
        assert [("error", 80), ("info", 80), (None, 80)] == sorted(
            [(one["group"], one["count"]) for one in query.count(group_by="level")],
            key=lambda pair: str(pair[0] or "z"),
        )
        assert [{"group": "shop", "count": 80}] == query.count(service="shop")
        assert 7 + 2 == len(query.count(group_by="event_type"))
        assert [] == query.count(service="nobody")

    def test_ties(self, query: EventLogQuery) -> None:
        """
        Groups that are as large as others stand in the order of their names, those without one
        first.
        """
        assert [None, "error", "info"] == [one["group"] for one in query.count(group_by="level")]
        assert [None] == [one["group"] for one in query.count(group_by="level", limit=1)]

    def test_time(self, query: EventLogQuery) -> None:
        """
        Groups by time are in its order, each bears its begin.
        """
        counts = query.count(group_by="time", bucket=3600)

        assert NUMBER == sum(one["count"] for one in counts)
        assert 4 <= len(counts) <= 5
        begins = [datetime.fromisoformat(str(one["group"])) for one in counts]
        assert begins == sorted(begins)
        assert {(0, 0)} == {(begin.minute, begin.second) for begin in begins}

    def test_invalid(self, query: EventLogQuery) -> None:
        """
        So are wrong groups.
        """
        with pytest.raises(InvalidQuery, match="group_by='colour': pass one of service"):
            query.count(group_by="colour")
        with pytest.raises(InvalidQuery, match="bucket=0: pass an integer number of seconds"):
            query.count(group_by="time", bucket=0)


class TestServiceMap:
    @pytest.fixture
    def calls(self, database: str, message: Make) -> Iterator[EventLogQuery]:
        """
        Two calls of ``shop`` by ``web``, one of which failed, one of ``mail`` by ``shop``, and one
        whose caller nobody knows.
        """
        web, dotted = "web.get.1", "eu.shop.pay.2"
        shop = {"service_name": "eu.shop", "call_id": dotted, "call_stack": [web, dotted]}
        failed = {**shop, "call_id": "eu.shop.pay.3", "call_stack": [web, "eu.shop.pay.3"]}
        mail = "mail.send.4"
        bodies = [
            {"service_name": "web", "call_id": web, "call_stack": [web]},
            shop,
            {**shop, "level": "info"},
            {**failed, "level": "error"},
            {**failed, "event_type": "entrypoint_failed"},
            {"service_name": "mail", "call_id": mail, "call_stack": [web, dotted, mail]},
            {"service_name": "mail", "call_id": None, "call_stack": []},
        ]
        writer = EventLogWriter(database, ["json"])
        assert [] == writer.write([message(body(**one)) for one in bodies])
        writer.close()
        with EventLogQuery(database) as query:
            yield query

    def test_links(self, calls: EventLogQuery) -> None:
        """
        Calls are counted once, however many event logs they have, and what failed in them.
        """
        assert [
            ("web", "eu.shop", 2, 1, 4),
            (None, "web", 1, 0, 1),
            ("eu.shop", "mail", 1, 0, 1),
        ] == [tuple(link.values()) for link in calls.service_map()]

    def test_filters(self, calls: EventLogQuery) -> None:
        """
        Those of `query` say which event logs are looked at.
        """
        assert [("eu.shop", "mail")] == [
            (link["caller"], link["service_name"])
            for link in calls.service_map(caller="eu.shop", event_type="order_*")
        ]
        assert [] == calls.service_map(until="2020-01-01T00:00:00Z")
        assert 1 == len(calls.service_map(limit=1))
        with pytest.raises(InvalidQuery, match="limit=0: pass an integer from 1 to 1000"):
            calls.service_map(limit=0)


class TestOthers:
    def test_get(self, query: EventLogQuery) -> None:
        """
        One by its message id.
        """
        (row,) = query.query(limit=1)["event_logs"]

        assert row == query.get(row["message_id"])
        assert query.get("nobody") is None
        with pytest.raises(InvalidQuery, match="message_id=5: pass an id"):
            query.get(5)  # type: ignore[arg-type]

    def test_services(self, query: EventLogQuery) -> None:
        """
        All services, with their first and last.
        """
        found = query.services()

        assert sorted(SERVICES) == [one["service_name"] for one in found]
        assert all(one["first"] < one["last"] for one in found)

    def test_no_tables(self, database: str) -> None:
        """
        A database that the store has never seen is said to be one.
        """
        if database.startswith("sqlite"):
            with (
                EventLogQuery(database) as query,
                pytest.raises(DatabaseError, match="does not exist"),
            ):
                query.query()
            open_engine(database).connect().close()
        with (
            EventLogQuery(database) as query,
            pytest.raises(DatabaseError, match="start the store"),
        ):
            query.query()


class TestPatterns:
    @settings(max_examples=examples(1000))
    @given(
        st.lists(st.text("ab*.\n", max_size=6), min_size=1, max_size=3),
        st.text("ab.\n*", max_size=8),
    )
    def test_as_searched(self, patterns: list[str], name: str) -> None:
        """
        A name is meant as a search through all that each ``*`` may stand for has it.
        """
        assert any(means(pattern, name) for pattern in patterns) == Patterns(patterns).fullmatch(
            name
        )

    @pytest.mark.parametrize(
        "pattern", ["*a" * 7 + "*b", "*a" * 400 + "*b", "*" * 100_000 + "b", "*ab" * 100_000]
    )
    def test_hostile(self, pattern: str) -> None:
        """
        No pattern takes long, however many ``*`` it has.
        """
        patterns = Patterns([pattern])
        begin = process_time()

        for _ in range(10):
            assert not patterns.fullmatch("a" * 500)

        assert process_time() - begin < 1

    def test_in_query(self, database: str, message: Make) -> None:
        """
        Nor does a query with one.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(event_type="a" * 60))])
        writer.close()
        with EventLogQuery(database) as query:
            begin = process_time()
            assert [] == query.query(event_type="*a" * 7 + "*b")["event_logs"]
            assert 1 == len(query.query(event_type="*a" * 7 + "*")["event_logs"])
            assert process_time() - begin < 2


def means(pattern: str, name: str) -> bool:
    """
    Tell whether *pattern* means *name*, by trying all.
    """
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(means(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return name[:1] == pattern[0] and means(pattern[1:], name[1:])


class TestGivenUp:
    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_frees(self, database: str, bodies: Any) -> None:
        """
        A statement that takes too long is given up, and the connection is free for the next.
        """
        endless = {
            "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
            " SELECT count(*) FROM n",
            "postgresql": "SELECT pg_sleep(60)",
        }
        with EventLogQuery(database, seconds=0.2) as query:
            begin = monotonic()
            for _ in range(2):
                with (
                    pytest.raises(DatabaseError, match=r"took too long|statement timeout"),
                    query._reader.reading() as reading,
                ):
                    reading.connection.exec_driver_sql(
                        endless[query._reader.engine.dialect.name]
                    ).all()
                assert 1 == len(query.query(limit=1)["event_logs"])
            assert monotonic() - begin < 20

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_together(self, database: str, bodies: Any) -> None:
        """
        All statements of a transaction have one deadline, and none that ends it is given up.
        """
        sleep = {"sqlite": "SELECT 1", "postgresql": "SELECT pg_sleep(0.2)"}

        def ask_on(query: EventLogQuery) -> None:
            with query._reader.reading() as reading:
                while True:
                    reading.connection.exec_driver_sql(
                        sleep[query._reader.engine.dialect.name]
                    ).all()

        with EventLogQuery(database, seconds=0.5) as query:
            for _ in range(2):
                begin = monotonic()
                with pytest.raises(DatabaseError, match=r"took too long|statement timeout"):
                    ask_on(query)
                assert 0.5 <= monotonic() - begin < 5
                with query._reader.reading() as reading:
                    assert reading.connection.exec_driver_sql("SELECT 1").scalar()
                    wait_until(query._deadline.has_passed)


_NUMBERS = [1.0, -0.0, 1.5, -2.5e-7, 10**15, 1e15, 10**16, 1e16, 2**63 - 1]

_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from(_NUMBERS)
    | st.sampled_from(["a", "", '"\\\u00e9', 'b":1']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=6,
)

_LETTERS = 'aAiIkK\u212a\u0130\u0131\u0307\u00df\u1e9e\u03a3\u03c2%_~\\"\n\u00e9\u00c9'

_KEYS = [
    *(
        "a",
        "b",
        "",
        "0",
        "1",
        "-1",
        "-3",
        "+1",
        "01",
        " 0",
        "0 ",
        "\t1",
        "--1",
        "1.0",
        "1e0",
        "0x1",
    ),
    *("1_0", "\u0661", "\u00a01", "2147483648", "-2147483648", "9" * 12, "-" + "9" * 30),
]


def at(body: Any, path: list[str]) -> Any:
    """
    Return what is at *path*, with every number as the other type of it, or None.
    """
    for key in path:
        if isinstance(body, dict):
            body = body.get(key)
        elif isinstance(body, list) and body and key in ("0", "-1"):
            body = body[int(key)]
        else:
            return None
    return retyped(body)


def retyped(value: Any) -> Any:
    """
    Return *value* with integers as floats and floats as integers, where that is the same number.
    """
    if isinstance(value, dict):
        return {key: retyped(one) for key, one in value.items()}
    if isinstance(value, list):
        return [retyped(one) for one in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    other = float(value) if isinstance(value, int) else int(value)
    return other if other == value else value


def is_leaf(text: Any) -> bool:
    """
    Tell whether JSON is no mapping and no list.
    """
    return sqlite_functions._begins(text) not in "{["


class TestMatching:
    @ON_ONE_DATABASE
    @given(_VALUES, _VALUES)
    def test_as_postgresql(self, engine: Any, one: Any, other: Any) -> None:
        """
        Equality and containment mean what PostgreSQL means by = and @>.
        """
        with engine.begin() as connection:
            equal, contained = connection.exec_driver_sql(
                "SELECT %s::jsonb = %s::jsonb, %s::jsonb @> %s::jsonb",
                tuple(map(json.dumps, (one, other, one, other))),
            ).one()

        assert equal == is_equal(one, other)
        if isinstance(one, dict) and isinstance(other, dict):
            assert contained == is_contained(other, one)

    @ON_ONE_DATABASE
    @given(
        _VALUES,
        st.lists(
            st.sampled_from(_KEYS),
            max_size=3,
        ),
        _VALUES,
    )
    def test_paths(self, engine: Any, body: Any, path: list[str], value: Any) -> None:
        """
        Paths lead to where PostgreSQL's jsonb_extract_path leads.
        """
        with engine.begin() as connection:
            (found,) = connection.exec_driver_sql(
                "SELECT %s::jsonb #> %s::text[] = %s::jsonb",
                (json.dumps(body), path, json.dumps(value)),
            ).one()

        assert (found is True) == is_at(body, path, value)

    @ON_ONE_DATABASE
    @given(
        st.dictionaries(st.sampled_from(["a", "b"]), _VALUES, max_size=2),
        st.lists(st.sampled_from(["a", "b", "0", "-1", "c"]), min_size=1, max_size=3),
        _VALUES,
        st.booleans(),
    )
    @example({"a": -0.0}, ["a"], 0, False)
    @example({"a": {"b": [0]}}, ["a", "b", "0"], -0.0, False)
    @example({"a": 1e16}, ["a"], 10**16, False)
    @example({"a": 10**16}, ["a"], 1e16, False)
    @example({"a": {"b": [1]}}, ["a", "b"], [1.0], False)
    @example({"a": {"b": [1, 2]}}, ["a", "b"], [1], False)
    @example({"a": [{"b": "\u212a\u0130"}]}, ["a"], [{}], False)
    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_conditions(
        self, query: EventLogQuery, body: Any, path: list[str], value: Any, is_there: bool
    ) -> None:
        """
        What is asked of a database means the same, however it gets there.
        """
        if is_there:
            value = at(body, path)
        part = functools.reduce(lambda inner, key: {key: inner}, reversed(path), value)
        equal, contained = (
            matching.equals(query._reader.engine.dialect, [path], value),
            matching.contains(query._reader.engine.dialect, part),
        )
        with query._reader.engine.connect() as connection:  # which commits nothing by itself
            connection.execute(update(event_logs).values(body=body))
            found = connection.execute(select(equal, contained).limit(1)).one()

        assert (is_at(body, path, value), is_contained(part, body)) == tuple(map(bool, found))

    @given(_VALUES, _VALUES, st.lists(st.sampled_from(["a", "b", "0", "-1"]), max_size=3))
    @example({"a": [[[1]], "x"]}, {"a": ["x", [[]]]}, [])
    def test_pieces(self, body: Any, other: Any, path: list[str]) -> None:
        """
        What is large, and decoded piece by piece, is found as all else is.
        """
        text = json.dumps(body, separators=(",", ":"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sqlite_functions, "_WHOLE", 0)
            patch.setattr(sqlite_functions, "_size", lambda text: int(not is_leaf(text)))
            contained = sqlite_functions._contains(other, text, lambda: None)
            is_there = sqlite_functions._is_at(text, [path], at(body, path), lambda: None)

        assert is_contained(other, body) == contained
        if not isinstance(at(body, path), (dict, list)):
            assert is_at(body, path, at(body, path)) == is_there

    @ON_ONE_DATABASE
    @given(st.text(_LETTERS, max_size=8), st.integers(0, 7), st.integers(1, 8), st.booleans())
    @pytest.mark.parametrize("database", ["sqlite"], indirect=True)
    def test_text(
        self, query: EventLogQuery, text: str, begin: int, length: int, is_there: bool
    ) -> None:
        """
        What stands in a body is found in any case of it: as Python has it, on SQLite.
        """
        wanted = text[begin : begin + length].swapcase() if is_there else text[::-1]
        body = {"a": f"{text}!"}
        with query._reader.engine.connect() as connection:  # which commits nothing by itself
            connection.execute(update(event_logs).values(body=body))
            condition = matching.has_text(query._reader.engine.dialect, wanted)
            found = connection.execute(select(condition).limit(1)).scalar_one()

        assert is_in(needle_of(wanted), body) == bool(found)

    @pytest.mark.parametrize("table", ["C", "C.UTF-8"], indirect=True)
    @ON_ONE_DATABASE
    @given(
        st.text(f"{_LETTERS}bcd", max_size=12),
        st.integers(0, 7),
        st.integers(1, 8),
        st.booleans(),
    )
    @example("\u212aabcd", 0, 5, True)
    @example("\u0130BCD", 0, 4, True)
    @example("\u03a3\u03c3\u03c2", 0, 3, True)
    def test_text_on_postgresql(
        self, table: Any, text: str, begin: int, length: int, is_there: bool
    ) -> None:
        """
        What stands in a body is found in any case of it: as on SQLite, whatever the locale.
        """
        wanted = text[begin : begin + length].swapcase() if is_there else text[::-1]
        with table.connect() as connection:  # which commits nothing by itself
            connection.execute(update(event_logs).values(body={"a": f"{text}!"}))
            found = connection.execute(select(matching.has_text(table.dialect, wanted))).scalar()

        assert found is is_in(needle_of(wanted), {"a": f"{text}!"})

    @pytest.fixture
    def table(self, postgresql: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
        """
        A connection to a database with that locale, and a body in it.
        """
        postgresql.start()
        engine = open_engine(postgresql.create_database(request.param))
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TEMPORARY TABLE event_logs AS SELECT '{}'::jsonb AS body"
            )
        yield engine
        engine.dispose()

    @pytest.fixture
    def engine(self, postgresql: Any) -> Iterator[Any]:
        """
        A connection to PostgreSQL.
        """
        postgresql.start()
        engine = open_engine(postgresql.create_database())
        yield engine
        engine.dispose()
