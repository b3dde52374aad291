"""
Text out of any values.
"""

import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logging_ext.rendering import as_dict, render, safe_repr, safe_text
from tests.logging_ext.recording import Unprintable


class OnlyRepr:
    """
    ``str`` raises, ``repr`` works.
    """

    def __str__(self):
        raise ValueError("no str")

    def __repr__(self):
        return "<only repr>"


class TestSafeText:
    def test_repr_in_its_place(self):
        """
        A value whose str raises counts by its repr.
        """
        assert "<only repr>" == safe_text(OnlyRepr())

    def test_neither(self):
        """
        A value whose repr raises, too, counts by its type and the error's.
        """
        expected = "<Unprintable object whose repr raised ValueError>"

        assert expected == safe_text(Unprintable())
        assert expected == safe_repr(Unprintable())

    def test_nested_beyond_all_measure(self):
        """
        A list nested 100,000 levels deep has a text, too.
        """
        value = []
        for _ in range(100_000):
            value = [value]

        assert "<list object whose repr raised RecursionError>" == safe_repr(value)

    def test_escaping(self):
        """
        What is no Exception escapes.
        """

        class Quits:
            def __repr__(self):
                raise SystemExit

        with pytest.raises(SystemExit):
            safe_repr(Quits())


class TestAsDict:
    def test_mappings(self):
        """
        Any mapping is copied.
        """
        given_dict = {"a": 1}

        assert given_dict == as_dict(given_dict)
        assert given_dict is not as_dict(given_dict)
        assert given_dict == as_dict(types.MappingProxyType(given_dict))

    @pytest.mark.parametrize("value", [None, 1, "a", [("a", 1)]])
    def test_others(self, value):
        """
        What is no mapping gives None.
        """
        assert None is as_dict(value)


class TestRender:
    @pytest.mark.parametrize(
        ("template", "arguments", "expected"),
        [
            ("user %s paid", ("bob",), "user bob paid"),
            ("%(user)s paid", {"user": "bob"}, "bob paid"),
            ("user %s paid %s", ("bob",), "user %s paid %s ('bob',)"),
            ("paid", ("bob", 5), "paid ('bob', 5)"),
            ("%d", ("x",), "%d ('x',)"),
            ("100%", (5,), "100% (5,)"),
            ("%(a)s", {"b": 1}, "%(a)s {'b': 1}"),
            ("%s and %s", (Unprintable(), 5), f"{safe_repr(Unprintable())} and 5"),
            ("%s %r %.1f", (1, Unprintable(), 0.25), f"1 {safe_repr(Unprintable())} 0.2"),
            ("%(a)s%(b)d", {"a": Unprintable(), "b": 5}, f"{safe_repr(Unprintable())}5"),
            ("%d", Unprintable(), f"%d {safe_repr(Unprintable())}"),
            ("%d", (Unprintable(),), f"%d ({safe_repr(Unprintable())},)"),
        ],
    )
    def test_as_far_as_it_goes(self, template, arguments, expected):
        """
        Arguments are put where they fit; where they do not, they follow the template.
        """
        assert expected == render(template, arguments)

    @given(st.text(), st.lists(st.none() | st.integers() | st.text() | st.floats()).map(tuple))
    def test_anything(self, template, arguments):
        """
        Whatever the template and the arguments, there is a text.
        """
        assert str is type(render(template, arguments))
