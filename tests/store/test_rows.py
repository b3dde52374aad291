"""
From messages to rows and rejects, whatever they hold.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import kombu.serialization
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.store.databases import open_engine
from nameko_eventlog.store.rows import Unstorable, make_row
from nameko_eventlog.store.schema import event_logs, rejects
from nameko_eventlog.store.times import now_ms
from nameko_eventlog.store.writing import EventLogWriter, content_types
from tests.examples import examples
from tests.store.conftest import Make, body
from tests.store.hostile import HOSTILE_MESSAGES


ACCEPT = content_types(["json"])


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
        sent = message(body(), message_id="0192a3b4-c5d6-7abc-8def-0123456789ab")

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
            (b"[]", "no mapping but \\[\\]"),
            (body(service_name=None), "service_name is no text but None"),
            (body(event_type=5), "event_type is no text but 5"),
            (body(event_type="x" * 501), "event_type has 501 characters, of 500"),
            (body(call_stack="abc"), "call_stack is no list"),
            (body(call_stack=[1]), "call_stack is no list"),
            (body(timestamp="yesterday"), "timestamp is no ISO 8601 time but 'yesterday'"),
            (body(timestamp="1970-01-01T00:00:00Z"), "before the year 2000"),
            (body(timestamp="9999-01-01T00:00:00Z"), "more than a day ahead"),
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

    def test_future(self, message: Make) -> None:
        """
        A clock may be ahead by a day.
        """
        soon = datetime.now(timezone.utc) + timedelta(hours=23)

        assert make_row(message(body(timestamp=soon.isoformat())), ACCEPT, now_ms())


class TestHostile:
    @pytest.mark.timeout(600)
    def test_row_or_reject(self, database: str) -> None:
        """
        A thousand hostile messages into each database: every one is a row or a reject.
        """
        writer = EventLogWriter(database, ["json"])
        writer.prepare()
        engine = open_engine(database)
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
            with engine.begin() as connection:
                return sum(
                    connection.scalar(select(func.count()).select_from(table)) or 0
                    for table in (event_logs, rejects)
                )

        try:
            write()
            assert total() > 0
        finally:
            writer.close()
            engine.dispose()
