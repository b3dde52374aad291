"""
Searching bodies by an index: it finds what reading every row finds, and keeps nothing of what was
deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.clickhouse import finding
from nameko_eventlog.store.clickhouse.matching import BodyConditions
from nameko_eventlog.store.comparing import fold, is_at, is_contained, is_in, needle_of
from nameko_eventlog.store.packing import searched_part
from nameko_eventlog.store.parameters import ORDERS, Filters
from nameko_eventlog.store.probing import try_tables
from nameko_eventlog.store.retention import purge
from nameko_eventlog.store.sql import full_text, full_text_search, matching, searching
from nameko_eventlog.store.sql.engines import close_engine, open_engine
from nameko_eventlog.store.sql.trigrams import rarest, trigrams_of
from nameko_eventlog.store.times import format_time
from nameko_eventlog.store.writing import EventLogWriter
from tests.examples import examples
from tests.postgresql import PostgreSQL
from tests.store.conftest import body, make_message
from tests.store.tables import SQL, is_clickhouse
from tests.store.test_queries import plans_of


BASE = 1_600_000_000_000  # milliseconds: some time of a clock that is right
LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)

_LETTERS = 'abAikIK\u212a\u0130\u0131\u03a3\u03c3\u03c2%."\\\n\u00e9\u00c9\U0001f600'
_NUMBERS = [0, 1.0, -0.0, 1.5, 4711, 10**16, 1e16, 1e22, 2.5e-7, True, None]

_texts = st.text(_LETTERS, max_size=8)
_values = st.one_of(_texts, st.sampled_from(_NUMBERS))
_datas = st.dictionaries(
    st.sampled_from(["a", "order", "a.b"]),
    st.one_of(
        _values,
        st.lists(_values, max_size=2),
        st.dictionaries(st.sampled_from(["b", "c"]), _values, max_size=2),
    ),
    max_size=3,
)
_bodies = st.fixed_dictionaries(
    {"data": _datas, "event_type": st.sampled_from(["paid", "abab", "\u212aiK"])},
    optional={"note": _values, "level": st.sampled_from(["info", "error"])},
)
_paths = st.dictionaries(
    st.sampled_from(["a", "a.b", "order", "order.b", "a.0"]), _values, min_size=1, max_size=2
)
_filters = st.one_of(
    st.fixed_dictionaries({"data": _paths}),
    st.fixed_dictionaries({"data_contains": _datas.filter(bool)}),
    st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"note": _values})}),
    st.fixed_dictionaries({"metadata_contains": _bodies}),
    st.fixed_dictionaries({"metadata": st.fixed_dictionaries({"level": st.just("info")})}),
    st.fixed_dictionaries({"text": st.text(_LETTERS, min_size=1, max_size=5)}),
    st.fixed_dictionaries({"text": st.sampled_from(["order", "bab", '":1', "4711", "e22"])}),
    st.fixed_dictionaries({"text": st.just("bab"), "data": _paths}),
    st.fixed_dictionaries({"text": st.just("order"), "event_type": st.just("abab")}),
)


def write(database: str, bodies: list[tuple[int, dict[str, Any]]]) -> None:
    """
    Store bodies, each with its seconds after `BASE`, one after the other.
    """
    writer = EventLogWriter(database, ["json"])
    for number, (seconds, content) in enumerate(bodies):
        time_ms = BASE + seconds * 1000
        tail = f"{number % 7:020x}"  # so that some come twice
        writer.write(
            [
                make_message(
                    body(timestamp=format_time(time_ms), **content),
                    message_id=str(UUID(f"{time_ms:012x}{tail}")),
                )
            ]
        )
    writer.close()


def all_ids(query: EventLogQuery, **options: Any) -> list[str]:
    """
    Return the message ids of all pages.
    """
    found: list[str] = []
    cursor = None
    while True:
        page = query.query(cursor=cursor, **options)
        found += [row["message_id"] for row in page["event_logs"]]
        cursor = page["cursor"]
        if cursor is None:
            return found


@contextmanager
def read_through() -> Iterator[None]:
    """
    Search without an index; on ClickHouse, by Python alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "_search", lambda *_: None)
        patch.setattr(finding, "body_conditions", in_python)
        yield


def in_python(filters: Filters) -> BodyConditions:
    """
    Leave all that filters ask of bodies to Python.
    """
    tests: list[Callable[[dict[str, Any]], bool]] = [
        lambda body, ways=ways, value=value: any(is_at(body, keys, value) for keys in ways)
        for ways, value in filters.equalities
    ]
    tests += [lambda body, part=part: is_contained(part, body) for part in filters.containments]
    if filters.text:
        needle = needle_of(filters.text)
        tests.append(
            lambda body: needle in fold(body["event_type"]) or is_in(needle, searched_part(body))
        )
    return BodyConditions([], tests)


@contextmanager
def replacing(name: str, by: str) -> Iterator[None]:
    """
    Replace a name in all statements, so that a database misses what has it.
    """

    def replace(conn: Any, cursor: Any, statement: str, *rest: Any) -> tuple[str, Any]:
        return statement.replace(name, by), rest[0]

    event.listen(Engine, "before_cursor_execute", replace, retval=True)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", replace)


def terms(database: str) -> list[str]:
    """
    Return the trigrams that the index on SQLite has.
    """
    engine = open_engine(database, writes=True)
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, event_logs_text, row)"
        )
        found = list(connection.exec_driver_sql("SELECT term FROM temp.terms").scalars())
        connection.rollback()
    close_engine(engine)
    return found


@pytest.fixture
def tables(database: str) -> str:
    """
    The address of a database with tables.
    """
    write(database, [])
    writer = EventLogWriter(database, ["json"])
    writer.prepare()
    writer.close()
    return database


@pytest.fixture
def without_index(database: str) -> str:
    """
    The address of a database whose tables were created where an index of texts was not possible.
    """
    name = "trigram" if database.startswith("sqlite") else "pg_trgm"
    with replacing(name, "missing"):
        writer = EventLogWriter(database, ["json"])
        writer.prepare()
        writer.close()
    return database


class TestSearch:
    def test_as_read_through(self, tables: str) -> None:
        """
        Each filter finds what reading every row finds, in the same order, page by page, and counts
        the same: whenever the event logs came, and however large they are.
        """

        @settings(max_examples=examples(30 if is_clickhouse(tables) else 150))
        @given(
            st.lists(st.tuples(st.integers(-300, 300), _bodies), max_size=12),
            st.lists(_filters, min_size=1, max_size=5),
            st.sampled_from(ORDERS),
            st.integers(1, 4),
            st.integers(-300, 300),
            st.integers(0, 300),
            st.sampled_from([20, 16_384]),
        )
        @example(
            [(0, {"data": {"a": "\u212a\u0130\u03a3"}, "event_type": "paid"})] * 4,
            [{"text": "ki\u03c3"}, {"text": "KI\u03c2"}, {"data": {"a": "\u212a\u0130\u03a3"}}],
            "newest",
            1,
            -1,
            9,
            16_384,
        )
        @example(
            [(at, {"data": {"order": 4711}, "event_type": "abab"}) for at in (0, 70, -70, 1)],
            [{"data": {"order": 4711.0}}, {"text": "bab"}, {"text": "4711"}],
            "oldest",
            2,
            -80,
            300,
            20,
        )
        def check(
            bodies: list[tuple[int, dict[str, Any]]],
            filters: list[dict[str, Any]],
            order: str,
            limit: int,
            since: int,
            length: int,
            largest: int,
        ) -> None:
            until = since + length + 1
            options: dict[str, Any] = {
                "since": format_time(BASE + since * 1000),
                "until": format_time(BASE + until * 1000),
            }
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(searching, "_TESTED", 1)
                patch.setattr(searching, "_MOST_TESTED", 3)
                patch.setattr(full_text_search, "_SAMPLE", 2)
                patch.setattr(full_text, "_LARGEST", largest)
                write(tables, bodies)
                with EventLogQuery(tables) as query:
                    prefer_indexes(query)
                    for one in filters:
                        found = all_ids(query, order=order, limit=limit, **one, **options)
                        counts = query.count(group_by="event_type", **one, **options)
                        with read_through():
                            assert (one, all_ids(query, order=order, **one, **options)) == (
                                one,
                                found,
                            )
                            assert query.count(group_by="event_type", **one, **options) == counts
                assert sum(purge(tables, LATER)) <= len(bodies)
            if tables.startswith("sqlite"):
                assert [] == terms(tables)

        check()

    @pytest.mark.parametrize("order", ORDERS)
    def test_late(self, tables: str, monkeypatch: pytest.MonkeyPatch, order: str) -> None:
        """
        What came late, or hours ahead, is in its place.
        """
        monkeypatch.setattr(searching, "_TESTED", 2)
        hours = [5, 0, 9, 3, 1, 8, 2, 7, 4, 6]
        write(
            tables,
            [(hour * 3600, body_with(hour, "wanted" if hour % 3 else "other")) for hour in hours],
        )
        expected = [hour for hour in range(10) if hour % 3]
        if order == "newest":
            expected.reverse()
        with EventLogQuery(tables) as query:
            for filters in ({"text": "WANTED"}, {"data": {"kind": "wanted"}}):
                page = query.query(
                    order=order, limit=4, since=format_time(BASE), until=LATER, **filters
                )
                found = [one["body"]["data"]["hour"] for one in page["event_logs"]]
                assert expected[:4] == found

    def test_many_of_a_minute(self, tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A page ends within a minute, and the next begins there.
        """
        monkeypatch.setattr(searching, "_TESTED", 3)
        write(tables, [(at % 50, body_with(at, "wanted")) for at in range(60)])
        with EventLogQuery(tables) as query:
            options = {"text": "wanted", "since": format_time(BASE), "until": LATER}
            found = all_ids(query, limit=7, **options)

        assert sorted(found, reverse=True) == found
        assert 60 == len(found) == len(set(found))

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_frequent(self, tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A page that the first rows fill needs no index.
        """
        write(tables, [(at, body_with(at, "wanted")) for at in range(9)])
        monkeypatch.setattr(searching, "_TESTED", 5)
        with EventLogQuery(tables) as query:
            plans = plans_of_bodies(query)
            query.query(text="wanted", limit=4, since=format_time(BASE), until=LATER)

        assert not any(map(is_by_index, plans))

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_rare(self, tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What the first rows do not have is found by the index.
        """
        write(tables, [(at, body_with(at, "wanted" if at == 1 else "else")) for at in range(9)])
        monkeypatch.setattr(searching, "_TESTED", 2)
        monkeypatch.setattr(searching, "_MOST_TESTED", 0)
        with EventLogQuery(tables) as query:
            prefer_indexes(query)
            for filters in (
                {"text": "wanted"},
                {"text": "nowhere"},
                {"data": {"kind": "wanted"}},
                {"data_contains": {"kind": "wanted"}},
                {"metadata": {"data": {"kind": "wanted", "hour": 1}}},
                {"metadata_contains": {"data": {"kind": "wanted"}}},
            ):
                plans = plans_of_bodies(query)
                found = query.query(since=format_time(BASE), until=LATER, **filters)["event_logs"]
                assert (filters, len(found)) == (filters, filters != {"text": "nowhere"})
                if "metadata" not in filters:
                    assert any(map(is_by_index, plans)), filters

    def test_duplicates(self, tables: str) -> None:
        """
        An event log that comes again is not in the index again.
        """
        one = make_message(body(timestamp=format_time(BASE), data={"kind": "wanted"}))
        for _ in range(2):
            writer = EventLogWriter(tables, ["json"])
            writer.write([one, one])
            writer.close()
        assert [1] == list(purge(tables, LATER))
        if tables.startswith("sqlite"):
            assert [] == terms(tables)

    @pytest.mark.parametrize("database", ["sqlite"], indirect=True)
    def test_large(self, tables: str) -> None:
        """
        A large body is not indexed, but found.
        """
        content = body_with(1, "-" * 20_000 + "wanted")
        write(tables, [(0, content), (60, body_with(2, "other"))])

        assert not any("wan" in term for term in terms(tables))
        with EventLogQuery(tables) as query, pytest.MonkeyPatch.context() as patch:
            patch.setattr(searching, "_TESTED", 1)
            options = {"since": format_time(BASE), "until": LATER}
            assert 1 == len(all_ids(query, text="WANTED", **options))
            assert [] == all_ids(query, text="nowhere", **options)


class TestTrigrams:
    def test_rarest(self) -> None:
        """
        The rarest trigrams of a sample are looked up; 0 and numbers' ends in each of their forms.
        """
        ends = {matching.ZERO: "0-", matching.NUMBER_END: ",}]."}
        sample = ["abcd", "abc", "bcd", "abc"]

        assert [["xyz"], ["bcd"], ["abc"]] == rarest({"abc", "bcd", "xyz"}, sample)
        for mark, every in ends.items():
            assert [[f"a:{one}" for one in every]] == rarest({f"a:{mark}"}, sample)

    def test_long(self) -> None:
        """
        Of a long text not all trigrams are compared with the sample.
        """
        content = "".join(map(chr, range(200, 800)))
        many = trigrams_of([content])
        chosen = [one for some in rarest(many, [content]) for one in some]
        assert 4 == len(chosen)
        assert many.issuperset(chosen)


class TestWithoutIndex:
    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_searches(self, without_index: str) -> None:
        """
        Without an index everything is written, found and deleted, and `check` says that it is
        missing.
        """
        write(without_index, [(at, body_with(at, "wanted")) for at in range(5)])
        with EventLogQuery(without_index) as query, pytest.MonkeyPatch.context() as patch:
            patch.setattr(searching, "_TESTED", 1)
            options = {"since": format_time(BASE), "until": LATER}
            assert 5 == len(all_ids(query, text="wanted", **options))
            assert 1 == len(all_ids(query, data={"hour": 3}, **options))
            assert 5 == query.count(text="wanted", **options)[0]["count"]
        said = try_tables(without_index)
        assert said.startswith("current and writable; texts are searched without an index, ")
        assert [5] == list(purge(without_index, LATER))

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_said_before(self, database: str) -> None:
        """
        `check` says so before the tables are created, too.
        """
        name = "trigram" if database.startswith("sqlite") else "pg_trgm"
        with replacing(name, "missing"):
            assert "texts are searched without an index" in try_tables(database)
        assert "index" not in try_tables(database)

    @pytest.mark.parametrize("database", ["sqlite"], indirect=True)
    def test_another_sqlite(self, tables: str) -> None:
        """
        Where this SQLite cannot use the index that there is, all is found, but nothing is written,
        because the index would lack it. `check` says so.
        """
        write(tables, [(at, body_with(at, "wanted")) for at in range(5)])
        options = {"since": format_time(BASE), "until": LATER}
        with replacing("event_logs_text", "missing"), EventLogQuery(tables) as query:
            assert 5 == len(all_ids(query, text="wanted", **options))
        with (
            replacing(f"INTO {full_text.NAME}", "INTO missing"),
            pytest.raises(DatabaseError),
        ):
            write(tables, [(at, body_with(at, "more")) for at in range(8, 10)])
        with (
            replacing(f"INTO {full_text.NAME}", "INTO missing"),
            pytest.raises(DatabaseError, match="cannot be used"),
        ):
            try_tables(tables)
        with EventLogQuery(tables) as query:
            assert 5 == len(all_ids(query, **options))


class TestLocales:
    @pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
    def test_any_case(
        self, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch, locale: str
    ) -> None:
        """
        PostgreSQL's index finds letters in any case, whatever the locale.
        """
        postgresql.start()
        database = postgresql.create_database(locale)
        monkeypatch.setattr(searching, "_TESTED", 1)
        monkeypatch.setattr(searching, "_MOST_TESTED", 0)
        texts = ["kilo \u0130ndex", "\u212aILO index", "Kilo INDEX", "\u0391\u03a3 \u03b1\u03c2"]
        write(database, [(at, body_with(at, text)) for at, text in enumerate(texts)])
        options = {"since": format_time(BASE), "until": LATER}
        with EventLogQuery(database) as query:
            prefer_indexes(query)
            assert 3 == len(all_ids(query, text="KILO \u0130NDEX", **options))
            assert 3 == len(all_ids(query, text="kilo index", **options))
            assert 1 == len(all_ids(query, text="\u03b1\u03c3 \u03b1", **options))

    @pytest.mark.parametrize(
        ("unlike", "has"), [("", True), ("i", True), ("k", False), ("ik", False)]
    )
    def test_unlike(self, unlike: str, has: bool) -> None:
        """
        A letter that the index does not find in any case is none of a word.
        """
        assert has == matching.has_trigrams("make it", unlike)
        assert not matching.has_trigrams("a \u00e9\u00e9\u00e9 b", unlike)


def body_with(hour: int, kind: str) -> dict[str, Any]:
    """
    Make the content of a body.
    """
    return {"data": {"hour": hour, "kind": kind}}


def prefer_indexes(query: EventLogQuery) -> None:
    """
    Read no table through: of so few rows PostgreSQL would.
    """
    engine = getattr(query._reader, "engine", None)
    if engine is not None and engine.dialect.name == "postgresql":
        with query._reader.engine.connect() as connection:
            connection.exec_driver_sql("SET enable_seqscan = off; SET enable_indexscan = off")
            connection.commit()


def plans_of_bodies(query: EventLogQuery) -> list[str]:
    """
    Return a list into which the plan of every statement goes from now on: of so few rows
    PostgreSQL would not use the indexes of bodies, if it had others.
    """
    is_postgresql = query._reader.engine.dialect.name == "postgresql"
    return plans_of(query, ("event_logs_pkey", "event_logs_series") if is_postgresql else ())


def is_by_index(plan: str) -> bool:
    """
    Tell whether a plan uses an index of bodies.
    """
    if "event_logs_text VIRTUAL TABLE INDEX" in plan and "event_logs " in plan:
        assert plan.startswith("SCAN event_logs_text ")
        assert "SEARCH event_logs USING INTEGER PRIMARY KEY (rowid=?)" in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan
        return True
    return "Bitmap Index Scan on event_logs_default_body" in plan
