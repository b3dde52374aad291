"""
The shorter way of usual records, beside the way of all records.
"""

from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logging_ext.claims import attached_names
from logging_ext.event import SharedMetadata
from logging_ext.events import DEFAULT_FIELDS, RECORD_ATTRIBUTES, event_from_record
from logging_ext.filters import attach_context
from logging_ext.forwarding import claim
from logging_ext.usual import UsualRecords


CONTEXT = {
    "service_name": "foo",
    "entrypoint_protocol": "Rpc",
    "entrypoint_name": "pay",
    "call_id": "foo.pay.1",
    "call_stack": ["foo.pay.1"],
}
DEFAULT = frozenset(DEFAULT_FIELDS)

names = st.text(min_size=1).filter(lambda name: name not in RECORD_ATTRIBUTES)
flat = st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False)
values = flat | st.lists(flat) | st.dictionaries(st.text(), flat) | st.binary()


def make_record(message: Any = "paid", /, **attributes: Any) -> logging.LogRecord:
    """
    Make a record as a logger makes it, with *attributes* behind the standard ones.
    """
    record = logging.LogRecord("shop", logging.INFO, "shop.py", 1, message, (), None, "pay")
    record.__dict__.update(attributes)
    return record


class OwnText(logging.LogRecord):
    """
    A record that renders itself.
    """

    def getMessage(self) -> str:  # noqa: N802
        """
        Return the message.
        """
        return "text"


class TestTake:
    @given(st.dictionaries(names, values))
    def test_same(self, extra: dict[str, Any]) -> None:
        """
        A record is read, claimed and given its context just as any record is.
        """
        record = make_record(**extra)
        other = copy.copy(record)

        event = UsualRecords(DEFAULT).take(record, CONTEXT)
        expected = event_from_record(other, CONTEXT, DEFAULT)

        if event is None:
            assert record.__dict__ == other.__dict__
            return
        assert (expected.event_type, expected.event_data) == (event.event_type, event.event_data)
        assert (expected.metadata, expected.timestamp) == (event.metadata, event.timestamp)
        assert list(extra) == list(event.event_data)
        claim(other)
        other.__dict__.update(CONTEXT)
        assert record.__dict__ == other.__dict__
        assert CONTEXT.keys() == attached_names(record)
        assert not claim(record)

    @pytest.mark.parametrize(
        ("extra", "expected"),
        [
            ({}, True),
            ({"a": "x", "b": 1, "c": 1.5, "d": True, "e": None}, True),
            ({"a": math.nan}, False),
            ({"a": -math.inf}, False),
            ({"a": []}, False),
            ({"a": {}}, False),
            ({"a": b"x"}, False),
            ({"a": type("Text", (str,), {})("x")}, False),
        ],
    )
    def test_flat(self, extra: dict[str, Any], expected: bool) -> None:
        """
        ``is_flat`` is set for event data whose values need no checking.
        """
        event = UsualRecords(DEFAULT).take(make_record(**extra), CONTEXT)

        assert event is not None
        assert expected is event.is_flat

    def test_keys_that_are_no_strings(self) -> None:
        """
        Event data with a key that is no string is not flat.
        """
        record = make_record()
        record.__dict__[1] = 2  # type: ignore[index]

        event = UsualRecords(DEFAULT).take(record, CONTEXT)

        assert event is not None
        assert ({1: 2}, False) == (event.event_data, event.is_flat)

    @pytest.mark.parametrize(
        "record",
        [
            make_record(""),
            make_record(5),
            make_record({"event": "paid"}),
            make_record(getMessage=lambda: "text"),
            OwnText("shop", logging.INFO, "shop.py", 1, "paid", (), None, "pay"),
            make_record(levelname=["INFO"]),
            make_record(levelname=5),
            make_record(name=["shop"]),
            make_record(name="kombu.connection"),
            make_record(args=("x",)),
            make_record(exc_info=(None, None, None)),
            make_record(exc_text="Traceback"),
            make_record(stack_info="Stack"),
            make_record(event_data={}),
            make_record(metadata={}),
            make_record(level="info"),
            make_record(call_id="foo.pay.2"),
            make_record(exception="boom"),
            make_record(message="set by a formatter"),
        ],
        ids=lambda record: f"{record.msg!r}, {list(record.__dict__.values())[-1]!r}",
    )
    def test_not_usual(self, record: logging.LogRecord) -> None:
        """
        What is not usual is left as it is.
        """
        before = dict(record.__dict__)

        assert UsualRecords(DEFAULT).take(record, CONTEXT) is None
        assert before == record.__dict__

    def test_derived(self) -> None:
        """
        A record of a class that adds to the standard one and renders nothing itself is usual.
        """

        class Record(logging.LogRecord):
            pass

        record = Record("shop", logging.INFO, "shop.py", 1, "paid", (), None, "pay")

        assert UsualRecords(DEFAULT).take(record, CONTEXT) is not None

    def test_own_making(self) -> None:
        """
        A record whose standard attributes stand elsewhere is not usual, or there are too few.
        """
        usual = UsualRecords(DEFAULT)
        assert usual.take(make_record(), CONTEXT) is not None
        moved = make_record()
        moved.process = moved.__dict__.pop("process")
        moved.lineno = moved.__dict__.pop("lineno")
        few = make_record()
        del few.process, few.processName, few.threadName

        assert usual.take(moved, CONTEXT) is None
        assert usual.take(few, CONTEXT) is None
        assert UsualRecords(DEFAULT).take(few, CONTEXT) is None

    def test_claimed(self) -> None:
        """
        A record that was forwarded, or has a context, is not usual any more.
        """
        usual = UsualRecords(DEFAULT)
        forwarded, attached = make_record(), make_record()
        assert claim(forwarded)
        attach_context(attached)

        assert usual.take(forwarded, CONTEXT) is None
        assert usual.take(attached, CONTEXT) is None

    def test_contexts(self) -> None:
        """
        A context of a sink's own making, with other attributes, is not attached here.
        """
        usual = UsualRecords(DEFAULT)

        assert usual.take(make_record(), {"service_name": "foo"}) is None
        assert usual.take(make_record(), {**CONTEXT, "more": 1}) is None
        assert usual.take(make_record(), CONTEXT) is not None


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            (DEFAULT_FIELDS, {"level": "info", "logger": "shop"}),
            (["logger"], {"logger": "shop"}),
            (["level", "stack"], {"level": "info"}),
            ([], {}),
        ],
    )
    def test_metadata(self, fields: list[str], expected: dict[str, str]) -> None:
        """
        The event logs of a logger and a level share the metadata that the fields ask for.
        """
        usual = UsualRecords(frozenset(fields))
        first = usual.take(make_record(), CONTEXT)
        second = usual.take(make_record("shipped"), CONTEXT)

        assert first is not None
        assert second is not None
        assert expected == first.metadata
        assert first.metadata is second.metadata
        assert SharedMetadata is type(first.metadata)

    def test_other_fields(self) -> None:
        """
        Fields that differ from record to record are read the long way.
        """
        usual = UsualRecords(frozenset({"level", "lineno"}))

        assert usual.take(make_record(), CONTEXT) is None

    def test_made_up(self) -> None:
        """
        Names of loggers, levels and modules made up at run time do not pile up.
        """
        usual = UsualRecords(DEFAULT)
        for number in range(1_100):
            for attributes in (
                {"name": f"shop.{number}"},
                {"levelname": f"L{number}"},
                {"module": f"m{number}"},
            ):
                record = make_record(**attributes)
                event = usual.take(record, CONTEXT)
                assert event is not None
                assert record.levelname.lower() == event.metadata["level"]
                assert record.name == event.metadata["logger"]

        assert 1_000 >= sum(map(len, usual._known.values()))
