"""
Queries: what they find, on both databases, held to a plain search through all rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from time import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store import DatabaseError, EventLogQuery, InvalidQuery
from nameko_eventlog.store.databases import open_engine
from nameko_eventlog.store.matching import is_contained, is_equal
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body


SERVICES = ("shop", "billing", "web")
LEVELS = ("info", "error", None)
NUMBER = 240


@pytest.fixture
def bodies(database: str, message: Make) -> list[dict[str, Any]]:
    """
    What is stored, oldest first: one a minute, the last now.
    """
    ids = UUID7Generator()
    begin = time() - NUMBER * 60
    made = [
        body(
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


FILTERS: list[tuple[dict[str, Any], Any]] = [
    ({}, lambda b: True),
    ({"service": "shop"}, lambda b: b["service_name"] == "shop"),
    ({"service": ["shop", "web"]}, lambda b: b["service_name"] in ("shop", "web")),
    ({"entrypoint": "method_3"}, lambda b: b["entrypoint_name"] == "method_3"),
    ({"event_type": "order_3"}, lambda b: b["event_type"] == "order_3"),
    ({"event_type": "order_*"}, lambda b: b["event_type"].startswith("order_")),
    (
        {"event_type": ["*_1", "login_2"]},
        lambda b: b["event_type"] in ("login_1", "order_1", "login_2"),
    ),
    ({"event_type": "nothing*"}, lambda b: False),
    ({"caller": "web"}, lambda b: True),
    ({"caller": ["shop", "mail"]}, lambda b: False),
    ({"caller": "web", "service": "shop"}, lambda b: b["service_name"] == "shop"),
    ({"level": "error"}, lambda b: b["level"] == "error"),
    ({"call_id": "shop.pay.7"}, lambda b: b["call_id"] == "shop.pay.7"),
    ({"origin_call_id": "web.get.1"}, lambda b: True),
    ({"data": {"number": 77}}, lambda b: b["data"]["number"] == 77),
    ({"data": {"customer.id": 4}}, lambda b: b["data"]["customer"]["id"] == 4),
    ({"data": {"tags.1": "t2"}}, lambda b: b["data"]["tags"][1] == "t2"),
    ({"data": {"number": "77"}}, lambda b: False),
    ({"data": {"number": True}}, lambda b: False),
    ({"data_contains": {"tags": ["t1"]}}, lambda b: "t1" in b["data"]["tags"]),
    ({"metadata": {"meta": 1}}, lambda b: b["meta"] == 1),
    ({"metadata_contains": {"meta": 0}}, lambda b: b["meta"] == 0),
    ({"text": 'TAGS": ["A'}, lambda b: False),
    ({"text": "ORDER_3"}, lambda b: b["event_type"] == "order_3"),
    (
        {"service": "shop", "level": "info", "event_type": "order_*"},
        lambda b: b["service_name"] == "shop" and b["event_type"].startswith("order_"),
    ),
]  # fmt: skip


class TestQuery:
    def test_filters(self, query: EventLogQuery, bodies: list[dict[str, Any]]) -> None:
        """
        Every filter finds what a search through all finds, page by page, in both orders.
        """
        for filters, is_wanted in FILTERS:
            expected = [one for one in bodies if is_wanted(one)]
            found = all_pages(query, order="oldest", limit=7, **filters)
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
            ({"cursor": "x"}, "cursor='x': pass the cursor of a page, as it is"),
            ({"cursor": 5}, "cursor=5"),
            ({"data": "x"}, "data='x': pass a mapping"),
            ({"data_contains": {}}, "data_contains={}: pass a mapping"),
            ({"text": ""}, "text='': pass what is looked for"),
            ({"colour": "red"}, "colour='red': there is no such filter; there are service, "),
        ],
    )
    def test_invalid(self, query: EventLogQuery, parameters: dict[str, Any], said: str) -> None:
        """
        A wrong parameter is named, with its value and what to do.
        """
        with pytest.raises(InvalidQuery, match=said):
            query.query(**parameters)

    def test_foreign_cursor(self, query: EventLogQuery) -> None:
        """
        A cursor is for the query that it is of.
        """
        cursor = query.query(limit=1)["cursor"]

        with pytest.raises(InvalidQuery, match="it is another query's"):
            query.query(limit=1, cursor=cursor, service="shop")
        with pytest.raises(InvalidQuery, match="it is another query's"):
            query.query(limit=1, cursor=cursor, order="oldest")

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


def plans_of(query: EventLogQuery) -> list[str]:
    """
    Return a list into which the plan of every statement goes from now on.
    """
    plans: list[str] = []
    explain = "EXPLAIN QUERY PLAN " if query._dialect.name == "sqlite" else "EXPLAIN "

    @event.listens_for(query._engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, text: str, values: Any, *rest: Any) -> None:
        if text.startswith(("SELECT", "WITH")):
            own = cursor.connection.cursor()
            own.execute(explain + text, values)
            plans.append("\n".join(str(row[-1]) for row in own.fetchall()))
            own.close()

    return plans


def full_scans(plans: list[str]) -> list[str]:
    """
    Return the plans in which the whole table is read.
    """
    return [
        plan
        for plan in plans
        for line in plan.splitlines()
        if "event_logs" in line
        and ("Seq Scan" in line or (line.startswith("SCAN event_logs") and "INDEX" not in line))
    ]


class TestPlans:
    def test_indexes(self, database: str, query: EventLogQuery, bodies: Any) -> None:
        """
        Every filter is served by an index; data and text by that of the time.
        """
        plans = plans_of(query)
        if database.startswith("postgresql"):  # of so few rows it would read all
            with query._engine.connect() as connection:
                connection.exec_driver_sql("SET enable_seqscan = off")
                connection.commit()
        for filters, _ in FILTERS:
            query.query(**filters)
            query.query(order="oldest", **filters)
        query.count()
        query.service_map()
        query.services()
        query.get("x")
        query.trace("web.get.1")
        query.trace("nobody")

        assert len(plans) > 2 * len(FILTERS)
        assert [] == full_scans(plans)

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
            with query._engine.connect() as connection:
                connection.exec_driver_sql("ANALYZE")
                connection.commit()
            plans = plans_of(query)
            trace = query.trace("o.x.7")

        assert trace is not None
        assert 101 == len(trace["calls"])
        assert [] == full_scans(plans)


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
        with pytest.raises(InvalidQuery, match="bucket=0: pass an integer of seconds"):
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
            with EventLogQuery(database) as query, pytest.raises(DatabaseError, match="no file"):
                query.query()
            open_engine(database).connect().close()
        with (
            EventLogQuery(database) as query,
            pytest.raises(DatabaseError, match="start the store"),
        ):
            query.query()


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.just(1.0) | st.sampled_from(["a", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=6,
)


class TestMatching:
    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(_VALUES, _VALUES)
    def test_as_postgresql(self, engine: Any, one: Any, other: Any) -> None:
        """
        Equality and containment mean what PostgreSQL means by = and @>.
        """
        import json

        with engine.begin() as connection:
            equal, contained = connection.exec_driver_sql(
                "SELECT %s::jsonb = %s::jsonb, %s::jsonb @> %s::jsonb",
                tuple(map(json.dumps, (one, other, one, other))),
            ).one()

        assert equal == is_equal(one, other)
        if isinstance(one, dict) and isinstance(other, dict):
            assert contained == is_contained(other, one)

    @pytest.fixture
    def engine(self, postgresql: Any) -> Iterator[Any]:
        """
        A connection to PostgreSQL.
        """
        postgresql.start()
        engine = open_engine(postgresql.create_database())
        yield engine
        engine.dispose()
