"""
Event types and the worker context: their kinds and lengths.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logging_ext.names import (
    MAX_NAME,
    bounded_context,
    is_short,
    settle_context,
    short_event_type,
    short_name,
)
from tests.logging_ext.recording import CONTEXT


TEXTS = st.builds(
    lambda text, times: text * times,
    st.text(st.sampled_from("ab\0\ud800é😀"), min_size=1, max_size=30),
    st.integers(1, 60),
)


def written(text):
    """
    Return *text* as the store writes it.
    """
    return "".join(f"\\u{ord(c):04x}" if c == "\0" or c == "\ud800" else c for c in text)


class TestCut:
    @given(TEXTS)
    def test_any(self, text):
        """
        Whatever the text, what is cut fits as the store writes it, and what fits is not cut.
        """
        fits = len(written(text)) <= MAX_NAME

        assert fits == is_short(text)
        for shorten in (short_event_type, short_name):
            assert len(written(shorten(text))) <= MAX_NAME
            assert fits == (shorten(text) == text)

    def test_event_type(self):
        """
        An event type keeps its beginning.
        """
        assert "x" * 499 + "…" == short_event_type("x" * 501)

    def test_call_id(self):
        """
        A call id keeps its end, too, which tells it from others, and is cut alike everywhere.
        """
        ids = [f"shop.{'m' * 600}.{number:036}" for number in range(2)]

        first, second = map(short_name, ids)

        assert first != second
        assert (500, ids[0][-100:]) == (len(first), first[-100:])
        assert first == short_name(first)


class TestContext:
    def test_usual(self):
        """
        A context that fits is as it was.
        """
        assert CONTEXT == bounded_context(CONTEXT)

    def test_call_stack_of_others(self):
        """
        A call stack out of a message's headers, which may hold anything, is texts.
        """
        context = {**CONTEXT, "call_stack": [1, None, "a" * 600], "entrypoint_name": 5}

        bounded = bounded_context(context)

        assert ["1", "None", short_name("a" * 600)] == bounded["call_stack"]
        assert "5" == bounded["entrypoint_name"]

    @pytest.mark.parametrize(
        ("metadata", "expected", "data"),
        [
            ({"a": 1}, {"a": 1}, {}),
            ({"call_id": "x", "service_name": "y"}, {"call_id": "x", "service_name": "y"}, {}),
            ({"call_id": None, "call_stack": None}, {"call_id": None, "call_stack": None}, {}),
            ({"call_id": 5, "a": 1}, {"a": 1}, {"call_id": 5}),
            ({"service_name": None}, {}, {"service_name": None}),
            ({"call_stack": ["a", 5]}, {}, {"call_stack": ["a", 5]}),
            ({"call_stack": ("a",)}, {"call_stack": ["a"]}, {}),
            ({"call_id": "x" * 600}, {"call_id": short_name("x" * 600)}, {}),
        ],
    )
    def test_metadata(self, metadata, expected, data):
        """
        Metadata that cannot be the context attribute of its name is data.
        """
        assert (expected, data) == settle_context(metadata, {})
        assert (expected, {**data, **dict.fromkeys(data, "mine")}) == settle_context(
            metadata, dict.fromkeys(data, "mine")
        )
