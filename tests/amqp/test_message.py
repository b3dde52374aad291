"""
What is delivered, and how it is written down when it is not.
"""

import base64
import dataclasses
import json
import math
from typing import Any

import pytest

from nameko_eventlog.amqp.message import as_json, properties, shortstr
from tests.delivery.conftest import SETTINGS, make_message


def written(message: Any, **settings: Any) -> dict[str, Any]:
    """
    Return what `as_json` writes, read again by a strict reader.
    """
    line = as_json(
        message, dataclasses.replace(SETTINGS, **settings), "foo", "foo.events", "log", "why"
    )
    assert "\n" not in line

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return found


class Unprintable:
    """
    An object that cannot be shown.
    """

    def __repr__(self) -> str:
        raise RuntimeError


class TestShortstr:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("paid", "paid"),
            ("x" * 255, "x" * 255),
            ("x" * 300, "x" * 255),
            ("ä" * 128, "ä" * 127),
            ("\N{GRINNING FACE}" * 100, "\N{GRINNING FACE}" * 63),
            ("a\ud800b", "a?b"),
        ],
    )
    def test_cut(self, text: str, expected: str) -> None:
        """
        A short string is at most 255 bytes of UTF-8, without lone surrogates.
        """
        assert expected == shortstr(text)


class TestProperties:
    def test_all(self) -> None:
        """
        The properties are those of the design, and those that the publisher was given.
        """
        message = make_message(event_type="x" * 300)
        message.message_id = "id"
        settings = dataclasses.replace(SETTINGS, priority=0, expiration=1.5)

        assert {
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "message_id": "id",
            "timestamp": 1_700_000_000,
            "type": "x" * 255,
            "app_id": "foo",
            "priority": 0,
            "expiration": "1500",
        } == properties(message, settings, "foo")

    @pytest.mark.parametrize(
        ("seconds", "expected"), [(math.inf, 0), (math.nan, 0), (-1.0, 0), (1e300, 2**63 - 1)]
    )
    def test_timestamp_out_of_range(self, seconds: float, expected: int) -> None:
        """
        A time that AMQP cannot tell does not keep the message from being sent.
        """
        message = make_message(timestamp=seconds)

        assert expected == properties(message, SETTINGS, "foo")["timestamp"]


class TestAsJson:
    def test_whole(self) -> None:
        """
        The line holds body, properties, headers and routing.
        """
        message = make_message(7)
        message.message_id = "id"
        found = written(message, headers={"team": "a"}, priority=3)

        assert "foo.events" == found["exchange"]
        assert "log" == found["routing_key"]
        assert '{"number": 7}' == found["body"]
        assert "utf-8" == found["body_encoding"]
        assert "why" == found["reason"]
        assert 3 == found["properties"]["priority"]
        assert {"team": "a", "nameko.call_id_stack": ["foo.bar.1"]} == (
            found["properties"]["headers"]
        )

    def test_binary_body(self) -> None:
        """
        A body that is no text is written in base64.
        """
        found = written(make_message(body=b"\xff\x00"))

        assert "base64" == found["body_encoding"]
        assert b"\xff\x00" == base64.b64decode(found["body"])

    @pytest.mark.parametrize(
        ("value", "expected"),
        [(math.nan, "nan"), (Unprintable(), "<Unprintable>"), ({1}, "{1}"), (b"x", "b'x'")],
    )
    def test_headers_unknown_to_json(self, value: object, expected: str) -> None:
        """
        A header that JSON does not know is there as text.
        """
        found = written(make_message(headers={"a": value, "b": "c"}))

        assert {"a": expected, "b": "c"} == found["properties"]["headers"]

    def test_cyclic_headers_and_odd_keys(self) -> None:
        """
        Headers with a cycle, or with keys that are no strings, do not raise.
        """
        cycle: list[Any] = []
        cycle.append(cycle)
        found = written(make_message(headers={(1, 2): 3, "cycle": cycle, "a\ud800": "b\ud800"}))

        assert {"(1, 2)": "3", "cycle": "[[...]]", "a\ud800": "b\ud800"} == (
            found["properties"]["headers"]
        )
