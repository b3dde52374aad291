"""
From messages to rows and rejects, whatever they hold.
"""

from __future__ import annotations

import math
import os
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from uuid import UUID

import kombu.serialization
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nameko_eventlog import limits
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.dating import EARLIEST_MS, NOTES
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.rows import Unstorable, make_row
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import EventLogWriter, content_types
from tests.examples import examples
from tests.store.conftest import Make, body, make_message
from tests.store.hostile import HOSTILE_MESSAGES
from tests.store.tables import Tables


ACCEPT = content_types(["json"])


NOW = now_ms()
DAY = 86_400


def uuid7(at_ms: int) -> str:
    """
    Make a message id that bears a time, in milliseconds since 1970.
    """
    return str(UUID(int=max(at_ms, 0) << 80 | 0x7 << 76 | 0x2 << 62 | 5))


ids = st.integers(0, 2**48 - 1).map(uuid7) | st.integers(NOW - 10**7, NOW + 10**7).map(uuid7)
timestamps = (
    st.none()
    | st.datetimes().map(str)
    | st.datetimes(timezones=st.timezones()).map(str)
    | st.integers(NOW - 10**7, NOW + 10**7).map(format_time)
    | st.text(max_size=30)
    | st.integers()
    | st.floats(allow_nan=False)
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "12:00", "2026"])
)


class TestMakeRow:
    def test_columns(self, message: Make) -> None:
        """
        What is asked for stands in columns, all of it in the body.
        """
        sent = body(level="info", timestamp="2026-01-02T03:04:05+01:00")
        row = make_row(message(sent, message_id="4711"), ACCEPT, now_ms())

        assert {
            "message_id": "4711",
            "time_ms": 1767319445000,
            "time_note": None,
            "service_name": "shop",
            "event_type": "order_paid",
            "entrypoint_protocol": "Rpc",
            "entrypoint_name": "pay",
            "level": "info",
            "call_id": "shop.pay.2",
            "origin_call_id": "web.get.1",
            "parent_call_id": "web.get.1",
            "caller": "web",
            "body": sent,
        } == row

    def test_time_of_message_id(self, message: Make) -> None:
        """
        A UUID of version 7 orders: the body's seconds cannot.
        """
        made = body(timestamp="2024-10-19T07:36:26Z")
        sent = message(made, message_id="0192a3b4-c5d6-7abc-8def-0123456789ab")

        assert 0x0192A3B4C5D6 == make_row(sent, ACCEPT, now_ms())["time_ms"]

    def test_no_message_id(self, message: Make) -> None:
        """
        Old senders give none: each message gets one of its own, which bears the body's time.
        """
        sent = message(body(timestamp="2026-01-02T03:04:05+00:00"), message_id=None)
        one, two = (make_row(sent, ACCEPT, now_ms()) for _ in range(2))

        assert one["message_id"] != two["message_id"]
        assert 7 == UUID(one["message_id"]).version
        assert one["time_ms"] == int(one["message_id"].replace("-", "")[:12], 16)

    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            (float("nan"), "NaN"),
            (-math.inf, "-Infinity"),
            ("a\0b", "a\\u0000b"),
            ("\ud800", "\\ud800"),
            (10**30, str(10**30)),
            (Decimal("1.50"), "1.50"),
            (UUID(int=1), str(UUID(int=1))),
            (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"),
        ],
    )
    def test_tellable(self, message: Make, value: Any, kept: str) -> None:
        """
        What JSONB does not take, and what kombu tags, is kept as text that says what it was.
        """
        content_type, encoding, encoded = kombu.serialization.dumps(
            body(data={"value": value}), "json"
        )
        sent = message(encoded.encode(), content_type=content_type, content_encoding=encoding)

        assert {"value": kept} == make_row(sent, ACCEPT, now_ms())["body"]["data"]

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            (b"{", "cannot be decoded"),
            (b"\xff\xfe", "cannot be decoded"),
            (b"[]", "the body must be a mapping, not \\[\\]"),
            (body(service_name=None), "service_name must be a non-empty string, not None"),
            (body(event_type=5), "event_type must be a non-empty string, not 5"),
            (body(event_type="x" * 501), "event_type has 501 characters, more than 500"),
            (body(call_stack="abc"), "call_stack must be a list of call ids, not 'abc'"),
            (body(call_stack=[1]), "call_stack must be a list of call ids, not \\[1\\]"),
            (b'{"data": ' + b"[" * 250 + b"]" * 250 + b"}", "deeper than 200 levels"),
            (b"[" * 100_000, "cannot be decoded"),
        ],
    )
    def test_unstorable(self, message: Make, sent: Any, said: str) -> None:
        """
        What is no event log is refused with its reason.
        """
        with pytest.raises(Unstorable, match=said):
            make_row(message(sent), ACCEPT, now_ms())

    def test_accept(self, message: Make) -> None:
        """
        Content types that the service does not accept are not decoded.
        """
        with pytest.raises(Unstorable, match="cannot be decoded: ContentDisallowed"):
            make_row(message(b"x", content_type="application/x-python-serialize"), ACCEPT, 0)

    @pytest.mark.parametrize(
        ("timestamp", "id_seconds", "row_seconds", "note"),
        [
            (0, None, 0, None),
            (-3 * DAY, None, -3 * DAY, None),
            (250, 250, 250, None),
            (3 * DAY, 3 * DAY, 0, "ahead"),
            (7200, None, 0, "ahead"),
            (3 * DAY, -5, -5, "ahead"),
            (0, 3 * DAY, 0, "differs"),
            (-5, 7200, -5, "differs"),
            (-7200, 0, -7200, "differs"),
            (-5, -3 * DAY, -5, "differs"),
            (295, 302, 295, None),
            ("1970-01-01T00:00:07Z", None, 0, "past"),
            ("1970-01-01T00:00:07Z", -5, -5, "past"),
            ("1970-01-01T00:00:07Z", -100 * 365 * DAY, 0, "past"),
            ("yesterday", None, 0, "unreadable"),
            ("yesterday", -5, -5, "unreadable"),
            ("yesterday", 3 * DAY, 0, "unreadable"),
            (None, -5, -5, "unreadable"),
            ({"at": [5]}, None, 0, "unreadable"),
            (1e300, None, 0, "unreadable"),
        ],
    )
    def test_clocks(
        self,
        message: Make,
        timestamp: Any,
        id_seconds: float | None,
        row_seconds: float,
        note: str | None,
    ) -> None:
        """
        The time of a row is the id's where it agrees with the body's, else the body's, the id's or
        the store's, the first that can be; and what is odd is noted. Numbers are seconds from now.
        """
        if type(timestamp) is int:
            timestamp = format_time(NOW + timestamp * 1000)
        message_id = "m" if id_seconds is None else uuid7(NOW + int(id_seconds * 1000))
        sent = body(timestamp=timestamp)
        row = make_row(message(sent, message_id=message_id), ACCEPT, NOW)

        assert (row_seconds, note, sent) == (
            (row["time_ms"] - NOW) / 1000,
            row["time_note"],
            row["body"],
        )

    def test_clock_of_the_store(self, message: Make) -> None:
        """
        A store whose clock has never been set keeps what arrives, from the year 2000.
        """
        row = make_row(message(body()), ACCEPT, 5_000)

        assert (EARLIEST_MS, "ahead") == (row["time_ms"], row["time_note"])

    @pytest.mark.parametrize("timestamp", ["9999-01-01T00:00:00Z", "yesterday", None])
    def test_same_row(self, message: Make, timestamp: str | None) -> None:
        """
        What has no id, and no time that can be, has the same id whenever it is written again.
        """
        sent = message(body(timestamp=timestamp), message_id=None, nonce=b"0123456789")

        assert 1 == len({make_row(sent, ACCEPT, NOW + n)["message_id"] for n in (0, 5, 10**13)})

    @given(timestamps, st.none() | st.text(max_size=3) | ids, st.sampled_from([NOW, 0, NOW * 2]))
    def test_any_time(self, timestamp: Any, message_id: str | None, now: int) -> None:
        """
        Whatever the body and the id say, the row's time is between 2000 and a little ahead of now.
        """
        sent = make_message(body(timestamp=timestamp), message_id=message_id)
        row = make_row(sent, ACCEPT, now)

        latest = max(now, EARLIEST_MS) + limits.AHEAD_SECONDS * 1000
        assert EARLIEST_MS <= row["time_ms"] <= latest
        assert row["time_note"] in (None, *NOTES)

    @given(st.lists(st.integers(NOW - 10**9, NOW + 10**5), max_size=30), st.booleans())
    def test_order(self, times: list[int], has_fraction: bool) -> None:
        """
        What one sender has sent whose clock is right is in the order of its ids, without a note.
        """
        generator = UUID7Generator()
        rows = []
        for at in sorted(times):
            with patch("nameko_eventlog.delivery.identifiers.time", lambda at=at: at / 1000 + 1):
                message_id = generator.make(at / 1000)
            text = format_time(at) if has_fraction else format_time(at // 1000 * 1000)
            sent = make_message(body(timestamp=text), message_id=message_id)
            rows.append(make_row(sent, ACCEPT, NOW))

        assert [row["message_id"] for row in rows] == [
            row["message_id"]
            for row in sorted(rows, key=lambda r: (r["time_ms"], r["message_id"]))
        ]
        assert {None} >= {row["time_note"] for row in rows}


class TestStoredOnce:
    def test_any_time(self, database: str) -> None:
        """
        Whatever bodies and ids say about times, each event log is one row however often it is
        written, and none is a reject.
        """
        writer = EventLogWriter(database, ["json"])
        writer.prepare()
        tables = Tables(database)

        @settings(max_examples=15, deadline=None)
        @given(st.lists(st.tuples(timestamps, st.none() | ids), max_size=30))
        def write(told: list[tuple[Any, str | None]]) -> None:
            tables.empty("event_logs", "message_ids")
            messages = [
                make_message(body(timestamp=one), message_id=message_id, nonce=os.urandom(10))
                for one, message_id in told
            ]
            assert [] == writer.write(messages) + writer.write(messages[::-1])
            latest = now_ms() + limits.AHEAD_SECONDS * 1000
            times = list(map(time_of, tables.positions()))
            given = [message_id for _, message_id in told]
            assert given.count(None) + len({*given} - {None}) == len(times)
            assert all(EARLIEST_MS <= one <= latest for one in times)

        try:
            write()
        finally:
            writer.close()
            tables.close()

    def test_same_position(self, database: str) -> None:
        """
        Event logs that would have the same position are stored beside each other, each once.
        """
        writer = EventLogWriter(database, ["json"])
        at = now_ms() // 1000 * 1000
        usual = str(UUID(int=at << 80 | 0x7 << 76 | 0x2 << 62 | 4711))
        ahead = str(UUID(int=(at + 86_400_000) << 80 | 0x7 << 76 | 0x2 << 62 | 4711))
        messages = [
            make_message(body(timestamp=format_time(at), data={"number": one}), message_id=one)
            for one in (ahead, usual)
        ]
        for some in (messages[:1], messages[1:], messages, messages[::-1]):
            assert [] == writer.write(some)
        writer.close()
        with EventLogQuery(database) as query:
            found = [one["message_id"] for one in query.query(since="2020-01-01")["event_logs"]]
            pages = [query.query(limit=1, order="oldest", since="2020-01-01")]
            pages.append(
                query.query(limit=1, order="oldest", since="2020-01-01", cursor=pages[0]["cursor"])
            )
            assert {usual, ahead} == {page["event_logs"][0]["message_id"] for page in pages}
            for one in (ahead, usual):
                kept = query.get(one)
                assert kept is not None
                assert {"number": one} == kept["body"]["data"]
            assert [2] == [one["count"] for one in query.count(since="2020-01-01")]

        assert sorted([usual, ahead]) == sorted(found)


class TestHostile:
    @pytest.mark.parametrize(
        "text", ['"', "\\", "\\n", "\n\t\x1f", "{a,b}", "NULL", " ", "\\u0041", "é☃🐍"]
    )
    def test_same(self, database: str, text: str) -> None:
        """
        Names, ids and bodies are stored as they were sent, whatever means something in arrays.
        """
        sent = body(
            service_name=text,
            entrypoint_name=text,
            call_id=text,
            call_stack=["web.get.1", text],
            data={text: [text]},
        )
        writer = EventLogWriter(database, ["json"])
        for _ in range(2):
            assert [] == writer.write([make_message(sent, message_id=text)])
        writer.close()
        with EventLogQuery(database) as query:
            (found,) = query.query(service=text)["event_logs"]
            assert text == found["message_id"]
            assert sent == found["body"]

    @pytest.mark.timeout(600)
    def test_row_or_reject(self, database: str) -> None:
        """
        A thousand hostile messages into each database: every one is a row or a reject.
        """
        writer = EventLogWriter(database, ["json"])
        writer.prepare()
        tables = Tables(database)
        sent: set[Any] = set()

        @settings(
            max_examples=examples(50),
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(HOSTILE_MESSAGES, min_size=20, max_size=20))
        def write(messages: list[ReceivedMessage]) -> None:
            before = total()
            reasons = writer.write(messages)
            new = [one for one in messages if key(one) not in sent]
            sent.update(map(key, messages))
            # one without an id is a row each time
            least = len({key(one) for one in new})
            assert least <= total() - before <= len(messages)
            assert len(reasons) <= len(messages)

        def key(one: ReceivedMessage) -> Any:
            message_id = one.properties.get("message_id")
            return message_id or (one.body, one.exchange, one.routing_key, one.content_type)

        def total() -> int:
            return tables.count("event_logs", "rejects")

        try:
            write()
            assert total() > 0
        finally:
            writer.close()
            tables.close()
