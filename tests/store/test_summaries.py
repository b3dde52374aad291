"""
Summaries: always what could be computed from the event logs, and what calls and latencies show.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nameko_eventlog.store import EventLogQuery, InvalidQuery
from nameko_eventlog.store.packing import CallContext, pack, unpack
from nameko_eventlog.store.retention import purge
from nameko_eventlog.store.rows import make_row
from nameko_eventlog.store.summaries import bucket_of, duration_in
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import EventLogWriter
from tests.examples import examples
from tests.store.conftest import body, make_message
from tests.store.recomputed import check_summaries
from tests.store.tables import Tables, is_clickhouse


BEGIN = 1_790_000_000_000  # milliseconds: on a whole hour
BEGIN -= BEGIN % 3_600_000


def logged(call: int, at: int, kind: str, **more: Any) -> dict[str, Any]:
    """
    Make the body of an event log of a call, *at* milliseconds after the beginning.
    """
    return body(
        service_name=f"shop_{call % 2}",
        entrypoint_name=f"pay_{call % 3}",
        call_id=f"shop.pay.{call}",
        call_stack=["web.get.1", f"shop.pay.{call}"],
        event_type=kind,
        timestamp=format_time(BEGIN + at),
        **more,
    )


EVENT_LOGS = st.lists(
    st.builds(
        logged,
        st.integers(0, 5),
        st.integers(0, 10_000_000),
        st.sampled_from(["entrypoint_fired", "paid"]),
        level=st.sampled_from(["info", "error", "WARN", None]),
    )
    | st.builds(
        logged,
        st.integers(0, 5),
        st.integers(0, 10_000_000),
        st.sampled_from(["entrypoint_completed", "entrypoint_failed", "over"]),
        duration=st.floats(0, 1e6) | st.integers(0, 5) | st.sampled_from([True, -1, "5"]),
        expected=st.booleans(),
    )
    | st.builds(
        logged, st.integers(0, 5), st.integers(0, 9), st.just("over"), duration=st.just(0.5),
        exception=st.just([]),
    )
    | st.builds(lambda at: body(call_id=None, call_stack=[], timestamp=at), st.just("never")),
    max_size=30,
)  # fmt: skip


class TestAlwaysEqual:
    def test_any_order(self, database: str) -> None:
        """
        However the event logs come, twice, and in whichever batches, and however many are deleted.
        """

        @settings(max_examples=examples(40), deadline=None)
        @given(EVENT_LOGS, st.randoms(use_true_random=False), st.integers(1, 9))
        def check(bodies: list[dict[str, Any]], draw: Random, size: int) -> None:
            writer = EventLogWriter(database, ["json"])
            writer.prepare()
            with Tables(database) as tables:
                tables.empty()
            messages = [
                make_message(one, message_id=f"{at:03}") for at, one in enumerate(bodies)
            ] * 2
            draw.shuffle(messages)
            for at in range(0, len(messages), size):
                assert [] == writer.write(messages[at : at + size])
            writer.close()

            check_summaries(database)

            until = datetime.fromtimestamp((BEGIN + 1_000_000) / 1000, timezone.utc)
            for _ in purge(database, until, step=size):
                check_summaries(database)

        check()


NAMES = ["service_name", "entrypoint_name", "entrypoint_protocol", "level", "timestamp", "data"]
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


class TestPacking:
    @settings(max_examples=examples(300), deadline=None)
    @given(
        st.dictionaries(
            st.sampled_from([*NAMES, "call_id", "call_stack", "meta"]),
            VALUES
            | st.sampled_from(["info", "WARN", "2026-11-30T08:00:00+00:00", {}, [], "a.b.c"])
            | st.lists(st.sampled_from(["a.b.c", "d.e.f"]), max_size=150),
        ),
        st.sets(st.sampled_from([*NAMES, "call_id", "call_stack"])),
    )
    def test_round_trip(self, changes: dict[str, Any], without: set[str]) -> None:
        """
        Whatever a body has, it is the same after it was packed and unpacked.
        """
        told = {key: value for key, value in body(**changes).items() if key not in without}
        try:
            row = make_row(make_message(told), ["application/json"], BEGIN)
        except Exception:  # it is no event log
            return
        original = dict(row["body"])
        row["context"] = CallContext.of(row["body"])
        packed, offset, rest = pack(row)
        time_ms = None if offset is None else row["time_ms"] + offset
        context = row["context"] and CallContext.read(row["context"].stored)

        assert original == row["body"]
        assert original == unpack(packed, time_ms, rest, row, context)

    def test_usual(self) -> None:
        """
        Of what auto capture sends nothing is left.
        """
        row = make_row(make_message(body()), ["application/json"], now_ms())
        row["context"] = CallContext.of(row["body"])

        assert {} == pack(row)[2]


def call(number: int, at: int, took: float | None, **end: Any) -> list[dict[str, Any]]:
    """
    Make the bodies of a call's event logs.
    """
    found = [logged(number, at, "entrypoint_fired")]
    if took is not None:
        kind = end.pop("kind", "entrypoint_completed")
        found.append(logged(number, at + round(took * 1000), kind, duration=took, **end))
    return found


@pytest.fixture
def query(database: str) -> Iterator[EventLogQuery]:
    """
    Queries of sixty calls, one every ten seconds: call 7 runs, 8 failed, 9 failed as expected.
    """
    writer = EventLogWriter(database, ["json"])
    bodies = []
    for number in range(60):
        took, end = 0.1 + number / 100, {}
        if number == 7:
            took = None
        elif number in (8, 9):
            end = {"kind": "entrypoint_failed", "expected": number == 9, "exception": []}
        bodies += call(number, number * 10_000, took, **end)
    writer.write([make_message(one, message_id=f"{at:04}") for at, one in enumerate(bodies)])
    writer.close()
    with EventLogQuery(database) as query:
        yield query


def found(query: EventLogQuery, **options: Any) -> list[int]:
    """
    Return the numbers of the calls on all pages.
    """
    numbers: list[int] = []
    cursor = None
    while True:
        page = query.calls(cursor=cursor, **options)
        numbers += [int(one["call_id"].rpartition(".")[2]) for one in page["calls"]]
        cursor = page["cursor"]
        if cursor is None:
            return numbers


RANGE = {"since": format_time(BEGIN), "until": format_time(BEGIN + 86_400_000)}

EVERY_CALL = list(range(60))
TIMED = [number for number in EVERY_CALL if number != 7]

FOUND: list[tuple[dict[str, Any], list[int]]] = [
    ({}, EVERY_CALL),
    ({"service": "shop_1"}, EVERY_CALL[1::2]),
    ({"entrypoint": ["pay_0", "pay_2"]}, [one for one in EVERY_CALL if one % 3 != 1]),
    ({"service": "shop_0", "entrypoint": "pay_1"}, EVERY_CALL[4::6]),
    ({"caller": "web"}, EVERY_CALL),
    ({"caller": "nobody"}, []),
    ({"outcome": "running"}, [7]),
    ({"outcome": ["failed", "failed as expected"]}, [8, 9]),
    ({"outcome": "failed", "service": "shop_1"}, []),
    ({"outcome": "completed"}, [one for one in TIMED if one not in (8, 9)]),
    ({"min_duration": 0.5}, EVERY_CALL[40:]),
    ({"min_duration": 0.3, "max_duration": 0.4, "service": "shop_0"}, EVERY_CALL[20:31:2]),
    ({"since": format_time(BEGIN + 100_000)}, EVERY_CALL[10:]),
    ({"until": format_time(BEGIN + 100_000)}, EVERY_CALL[:10]),
]
"""Filters, and the numbers of the calls that they select."""


def check_pages(query: EventLogQuery, expected: list[int], **filters: Any) -> None:
    """
    Assert that these calls are found, in each order.
    """
    options = {**RANGE, **filters}
    assert expected == found(query, order="oldest", **options), filters
    assert expected[::-1] == found(query, order="newest", **options), filters
    longest = [one for one in expected if one != 7][::-1]
    assert longest == found(query, order="longest", **options), filters


class TestCalls:
    @pytest.mark.parametrize("limit", [1, 7, 1000])
    def test_pages(self, database: str, query: EventLogQuery, limit: int) -> None:
        """
        All calls are found once, in each order, and by each filter.
        """
        filters_of = FOUND
        if limit == 1 and is_clickhouse(database):  # where a page takes a twentieth of a second
            filters_of = filters_of[::7]
        for filters, expected in filters_of:
            check_pages(query, expected, limit=limit, **filters)

    @pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
    @pytest.mark.parametrize(
        ("few", "few_lasted"), [(0, 0), (0, 60), (30, 30)], ids=["many", "timed", "some"]
    )
    def test_many(
        self, query: EventLogQuery, monkeypatch: pytest.MonkeyPatch, few: int, few_lasted: int
    ) -> None:
        """
        It does not matter which index they are found by.
        """
        monkeypatch.setattr("nameko_eventlog.store.sql.finding_calls._FEW", few)
        monkeypatch.setattr("nameko_eventlog.store.sql.finding_calls._FEW_LASTED", few_lasted)
        for filters, expected in FOUND:
            check_pages(query, expected, limit=7, **filters)

    @pytest.mark.parametrize("few", [0, 60])
    def test_equal_durations(
        self, database: str, monkeypatch: pytest.MonkeyPatch, few: int
    ) -> None:
        """
        Of calls that took equally long, the newest is first, on all pages.
        """
        monkeypatch.setattr("nameko_eventlog.store.sql.finding_calls._FEW", few)
        writer = EventLogWriter(database, ["json"])
        bodies = [
            one
            for number in range(20)
            for one in call(number, number * 10_000, 0.5 if number % 5 else 0.7)
        ]
        writer.write([make_message(one, message_id=f"{at:04}") for at, one in enumerate(bodies)])
        writer.close()

        with EventLogQuery(database) as query:
            for limit in (1, 3, 100):
                numbers = found(query, order="longest", limit=limit, **RANGE)
                longest = [number for number in range(19, -1, -1) if number % 5 == 0]
                assert longest == numbers[:4]
                assert [one for one in range(19, -1, -1) if one % 5] == numbers[4:]

    def test_answer(self, query: EventLogQuery) -> None:
        """
        A call's summary tells all of it.
        """
        (one,) = query.calls(outcome="failed")["calls"]

        assert {
            "call_id": "shop.pay.8",
            "origin_call_id": "web.get.1",
            "parent_call_id": "web.get.1",
            "service_name": "shop_0",
            "entrypoint_name": "pay_2",
            "entrypoint_protocol": "Rpc",
            "caller": "web",
            "started": format_time(BEGIN + 80_000),
            "duration": 0.18,
            "outcome": "failed",
            "level": None,
            "event_logs": 2,
        } == one

    @pytest.mark.parametrize(
        ("parameters", "said"),
        [
            ({"outcome": "ended"}, "outcome='ended': pass one of running, completed, failed"),
            ({"outcome": []}, r"outcome=\[\]: pass one of"),
            ({"min_duration": -1}, "min_duration=-1: pass a number of seconds, 0 or more"),
            ({"max_duration": True}, "max_duration=True: pass a number of seconds"),
            ({"level": "error"}, "level='error': unknown filter; pass one of service, entrypoint"),
            ({"order": "slowest"}, "order='slowest': pass one of newest, oldest, longest"),
            ({"cursor": "x"}, "cursor='x': pass the cursor of a page, unchanged"),
        ],
    )
    def test_invalid(self, query: EventLogQuery, parameters: Any, said: str) -> None:
        """
        A wrong parameter is named, with what to pass.
        """
        with pytest.raises(InvalidQuery, match=said):
            query.calls(**parameters)

    def test_foreign_cursor(self, query: EventLogQuery) -> None:
        """
        A cursor belongs to its query.
        """
        cursor = query.calls(limit=1)["cursor"]
        for other in ({"service": "shop_0"}, {"order": "oldest"}, {"order": "longest"}):
            with pytest.raises(InvalidQuery, match="it belongs to another query"):
                query.calls(cursor=cursor, **other)


class TestLatencies:
    @pytest.mark.parametrize("shift", [0, 1_000, 599_000])
    def test_whole(self, query: EventLogQuery, shift: int) -> None:
        """
        Of each entrypoint the calls, failures and percentiles, wherever the range is cut.
        """
        since, until = BEGIN - 600_000 + shift, BEGIN + 600_000 + shift
        of = query.latencies(since=format_time(since), until=format_time(until))
        first = -(-max(0, since - BEGIN) // 10_000)

        assert 6 == len(of)
        for one in of:
            numbers = [
                number
                for number in range(first, 60)
                if (one["service_name"], one["entrypoint_name"])
                == (f"shop_{number % 2}", f"pay_{number % 3}")
            ]
            took = sorted(0.1 + number / 100 for number in numbers if number != 7)
            assert len(numbers) == one["calls"]
            assert len(numbers) / 1200 == pytest.approx(one["rate"])
            assert (8 in numbers, 9 in numbers) == (one["failures"], one["expected"])
            assert one["time"] is None
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
                exact = took[max(0, -(-len(took) * int(share * 100) // 100) - 1)]
                assert one[name] == pytest.approx(exact, rel=0.05)  # type: ignore[literal-required]

    @pytest.mark.parametrize("bucket", [1, 60, 600, 7_200])
    def test_by_time(self, query: EventLogQuery, bucket: int) -> None:
        """
        By spans of time, whether there are counts of these or not.
        """
        found = query.latencies(bucket=bucket, service="shop_0", **RANGE)
        of_span: dict[str | None, int] = {}
        for one in found:
            of_span[one["time"]] = of_span.get(one["time"], 0) + one["calls"]
        expected: dict[str, int] = {}
        for number in range(0, 60, 2):
            at = BEGIN + number * 10_000
            span = format_time(at - at % (bucket * 1000))
            expected[span] = expected.get(span, 0) + 1

        assert expected == of_span

    def test_limit(self, query: EventLogQuery) -> None:
        """
        The limit is one of entrypoints.
        """
        found = query.latencies(bucket=60, limit=2, **RANGE)

        assert 2 == len({(one["service_name"], one["entrypoint_name"]) for one in found})

    def test_none(self, query: EventLogQuery) -> None:
        """
        Without calls there is nothing.
        """
        assert [] == query.latencies(service="nobody", **RANGE)
        assert [] == query.latencies(since="2020-01-01", until="2020-01-02")

    @given(st.floats(1e-6, 1e8))
    def test_buckets(self, duration: float) -> None:
        """
        The middle of a bucket is within 5 % of what is in it.
        """
        assert duration_in(bucket_of(duration)) == pytest.approx(duration, rel=0.05)
