"""
The body: what is in it, what wins, how large it may be.
"""

from __future__ import annotations

from datetime import datetime, timezone
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logging_ext import EventLog
from logging_ext.event import SharedMetadata
from nameko_eventlog import EventLogTypeError, EventLogValueError, OversizedEvent
from nameko_eventlog.dispatching.body import Head
from tests.dispatching.test_serialization import CONTEXT, decoded, encoder, logged


BODY = {
    **CONTEXT,
    "timestamp": "1970-01-01T00:00:00+00:00",
    "event_type": "paid",
    "data": {},
}


class TestContents:
    """
    What is in the body.
    """

    def test_nothing_else(self) -> None:
        """
        Context, timestamp, event type and data, which is {} when there is none.
        """
        assert BODY == logged(None)
        assert BODY == logged({})
        assert {**BODY, "data": {"a": 1}} == logged({"a": 1})

    def test_metadata_is_top_level(self) -> None:
        """
        Each element of the metadata is one of the body.
        """
        assert {**BODY, "m": 2, "n": [1]} == logged({}, metadata={"m": 2, "n": [1]})

    @given(
        st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(CONTEXT, st.text(min_size=1, max_size=9)),
                "call_stack": st.lists(st.text(max_size=9), max_size=2),
                **dict.fromkeys(
                    ("timestamp", "event_type", "data", "other"),
                    st.integers() | st.binary(max_size=1) | st.lists(st.integers(), max_size=2),
                ),
            },
        )
    )
    def test_precedence(self, metadata: dict[str, Any]) -> None:
        """
        Metadata wins over the context, and loses to timestamp, event type and data.
        """
        top = {name: BODY[name] for name in ("timestamp", "event_type", "data")}
        manual = encoder().encode_manual(Head(CONTEXT), "paid", {}, metadata)

        assert {**BODY, **metadata, **top} == logged({}, metadata=metadata)
        body = decoded(manual)
        assert {**BODY, **metadata, **top} == {**body, "timestamp": top["timestamp"]}
        assert body["timestamp"] > "2026"

    def test_data_at_the_time_of_the_call(self) -> None:
        """
        What the caller changes later changes nothing.
        """
        data = {"list": [1]}
        body = encoder().encode_manual(Head(CONTEXT), "paid", data, None)
        data["list"].append(2)

        assert {"list": [1]} == decoded(body)["data"]

    def test_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What another OS thread encodes for the same worker in the middle changes nothing.
        """
        encode, head = encoder(), Head(CONTEXT)
        events = {
            name: EventLog("paid", {}, SharedMetadata(logger=name), 0.0) for name in ("a", "b")
        }
        original = encode._renew

        def renew(*args: Any) -> bytes:
            renewed = original(*args)
            monkeypatch.setattr(encode, "_renew", original)
            assert "b" == decoded(encode.encode(head, events["b"]))["logger"]
            return renewed

        monkeypatch.setattr(encode, "_renew", renew)

        assert "a" == decoded(encode.encode(head, events["a"]))["logger"]

    def test_context_that_msgspec_does_not_take(self) -> None:
        """
        A context with lone surrogates takes the slow way.
        """
        context = {**CONTEXT, "call_stack": ["\ud800"]}
        body = encoder().encode(Head(context), EventLog("paid", None, None, 0.0))

        assert {**BODY, **context} == decoded(body)


class TestTimestamp:
    """
    UTC, ISO 8601, with its offset.
    """

    @pytest.mark.parametrize(
        ("timespec", "expected"),
        [
            ("seconds", "2017-06-12T13:48:16+00:00"),
            ("milliseconds", "2017-06-12T13:48:16.789+00:00"),
            ("microseconds", "2017-06-12T13:48:16.789123+00:00"),
        ],
    )
    def test_timespec(self, timespec: str, expected: str) -> None:
        """
        Seconds by default, cut and not rounded; or finer.
        """
        when = datetime(2017, 6, 12, 13, 48, 16, 789123, tzinfo=timezone.utc).timestamp()
        encode = encoder(timespec=timespec)

        bodies = [
            encode.encode(Head(CONTEXT), EventLog("paid", data, None, when))
            for data in ({}, {"slow": b"way"}, {})
        ]

        assert [expected] * 3 == [decoded(body)["timestamp"] for body in bodies]
        assert [when] * 3 == [body.timestamp for body in bodies]

    def test_seconds_change(self) -> None:
        """
        Each second is written as itself, before the epoch as well.
        """
        encode = encoder()
        times = [0.0, 0.9, 1.0, -0.5, 0.0]

        written = [
            decoded(encode.encode(Head(CONTEXT), EventLog("paid", None, None, when)))
            for when in times
        ]

        assert [
            "1970-01-01T00:00:00+00:00",
            "1970-01-01T00:00:00+00:00",
            "1970-01-01T00:00:01+00:00",
            "1969-12-31T23:59:59+00:00",
            "1970-01-01T00:00:00+00:00",
        ] == [body["timestamp"] for body in written]

    @pytest.mark.parametrize("when", [None, float("nan"), float("inf"), 1e300, "noon", [1]])
    @pytest.mark.parametrize("timespec", ["seconds", "microseconds"])
    def test_unreadable(self, when: Any, timespec: str) -> None:
        """
        A time that is none, on a record of somebody's own making, is now.
        """
        before = datetime.now(timezone.utc).replace(microsecond=0)
        body = encoder(timespec=timespec).encode(Head(CONTEXT), EventLog("paid", None, None, when))

        written = datetime.fromisoformat(decoded(body)["timestamp"])
        assert before <= written <= datetime.now(timezone.utc)
        assert abs(body.timestamp - written.timestamp()) < 2


class TestArguments:
    """
    What a manual call may pass.
    """

    @pytest.mark.parametrize("event_type", [None, 5, b"paid", ["paid"]])
    def test_event_type_of_the_wrong_type(self, event_type: Any) -> None:
        """
        An event type is a string.
        """
        with pytest.raises(EventLogTypeError) as raised:
            encoder().encode_manual(Head(CONTEXT), event_type, None, None)

        assert f"event_type must be a string, not {event_type!r}" == str(raised.value)

    def test_empty_event_type(self) -> None:
        """
        An event type is not empty.
        """
        with pytest.raises(EventLogValueError, match="event_type must not be empty; say what"):
            encoder().encode_manual(Head(CONTEXT), "", None, None)

    @pytest.mark.parametrize("value", ["text", [("a", 1)], 5, {1}, True])
    @pytest.mark.parametrize("argument", ["event_data", "metadata"])
    def test_no_mapping(self, argument: str, value: Any) -> None:
        """
        Event data and metadata are mappings.
        """
        arguments = {"event_data": None, "metadata": None, argument: value}
        with pytest.raises(EventLogTypeError) as raised:
            encoder().encode_manual(Head(CONTEXT), "paid", **arguments)

        assert f"{argument} must be a mapping or None, not {value!r}" == str(raised.value)

    def test_event_type_of_a_type_of_its_own(self) -> None:
        """
        An event type that is a string's subclass counts by its characters, whatever its text.
        """

        class Kind(str):
            def __str__(self) -> str:
                raise ValueError("no str")

        body = encoder().encode_manual(Head(CONTEXT), Kind("paid"), {"amount": 5}, None)

        assert ("paid", {"amount": 5}) == (decoded(body)["event_type"], decoded(body)["data"])

    def test_errors_are_the_standard_ones_too(self) -> None:
        """
        ``except TypeError`` and ``except ValueError`` catch them.
        """
        assert issubclass(EventLogTypeError, TypeError)
        assert issubclass(EventLogValueError, ValueError)
        assert issubclass(OversizedEvent, EventLogValueError)


class TestSize:
    """
    ``max_event_bytes``.
    """

    def test_marker(self) -> None:
        """
        The data of a log line that is too large becomes a marker that says how large it was.
        """
        body = logged({"a": "x" * 10_000_000}, metadata={"level": "info"})

        marker = body["data"].pop("oversized")
        assert {**BODY, "level": "info"} == body
        assert "the event log has 1000" in marker
        assert "more than max_event_bytes (1048576)" in marker

    @pytest.mark.parametrize("data", [{"a": "x" * 300}, {"a": b"x" * 300}])
    def test_limit(self, data: dict[str, Any]) -> None:
        """
        The limit is on the encoded body; one that just fits goes as it is.
        """
        event = EventLog("paid", data, None, 0.0)
        size = len(encoder().encode(Head(CONTEXT), event).payload)

        assert data == logged(data, encoder(max_event_bytes=size))["data"]
        assert {"oversized"} == set(logged(data, encoder(max_event_bytes=size - 1))["data"])

    def test_large_metadata(self) -> None:
        """
        Metadata that is too large is cut where it is large, and goes last.
        """
        small = encoder(max_event_bytes=2000)
        body = logged({"a": 1}, small, {"level": "info", "message": "x" * 3000})
        assert ("info", "[oversized: cut]") == (body["level"], body["message"])
        assert {"oversized"} == set(body["data"])

        body = logged({"a": 1}, small, {f"m{n}": "x" * 900 for n in range(9)})
        assert {"oversized"} == set(body.pop("data"))
        assert set(BODY) - {"data"} == set(body)

    def test_large_event_type(self) -> None:
        """
        An event type that is too long is cut, whatever else is.
        """
        event = EventLog("x" * 5000, {"a": 1}, None, 0.0)
        body = decoded(encoder(max_event_bytes=2000).encode(Head(CONTEXT), event))

        assert ("x" * 499 + "…", "[oversized: cut]") == (body["event_type"], body["message"])

    def test_manual(self) -> None:
        """
        A manual dispatch that is too large is refused, with the size and the limit.
        """
        with pytest.raises(OversizedEvent, match=r"has 30\d\d bytes.*\(2000\); pass less"):
            encoder(max_event_bytes=2000).encode_manual(
                Head(CONTEXT), "paid", {"a": "x" * 2800}, None
            )

    @pytest.mark.parametrize("leaf", [1, b"slow"])
    def test_exponential(self, leaf: Any) -> None:
        """
        A graph with 2^60 ways through it is found too large at once, logged or by hand.
        """
        graph: Any = [leaf]
        for _ in range(60):
            graph = [graph, graph]
        began = process_time()  # other processes have no say in it

        assert "event_data has more than" in logged({"a": graph})["data"]["oversized"]
        assert "has more than" in logged({}, metadata={"a": graph})["data"]["oversized"]
        with pytest.raises(OversizedEvent, match="event_data has more than"):
            encoder().encode_manual(Head(CONTEXT), "paid", {"a": graph}, None)
        assert process_time() - began < 1
