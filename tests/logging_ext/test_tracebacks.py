"""
Exceptions as structured data.
"""

import sys

import eventlet
import pytest
import structlog

from logging_ext.tracebacks import exception_as_data, without_locals
from tests.logging_ext.recording import Unprintable


def raised(exception):
    """
    Return *exception*, with a traceback and a local variable in it.
    """
    secret = "hunter2"  # noqa: F841
    try:
        raise exception
    except BaseException as exc:
        return exc


class Mute(Exception):
    """
    An exception without a text.
    """

    def __str__(self):
        raise ValueError("no str")


class Silent(Exception):
    """
    An exception none of whose texts work, nor the texts of what they raise.
    """

    def __str__(self):
        raise Mute

    __repr__ = __str__


class TestExceptionAsData:
    def test_shape(self):
        """
        It has the type, the message and the frames with file, line and name.
        """
        [stack] = exception_as_data(raised(ValueError("no money")))

        assert ("ValueError", "no money") == (stack["exc_type"], stack["exc_value"])
        assert ["raised"] == [frame["name"] for frame in stack["frames"]]
        assert {"filename", "lineno", "name"} == stack["frames"][0].keys()

    def test_without_locals(self):
        """
        No local variable is in it.
        """
        assert "hunter2" not in repr(exception_as_data(raised(ValueError("x"))))

    @pytest.mark.parametrize("form", ["exception", "triple", "true"])
    def test_forms(self, form):
        """
        Whatever exc_info may be in a log call is read.
        """
        try:
            raise ValueError("x")
        except ValueError as exc:
            exc_info = {"exception": exc, "triple": sys.exc_info(), "true": 1}[form]
            [stack] = exception_as_data(exc_info)

        assert "ValueError" == stack["exc_type"]

    @pytest.mark.parametrize("exc_info", [None, False, True, (), (None, None, None), "yes", 0])
    def test_none(self, exc_info):
        """
        Where there is no exception there is no data.
        """
        assert None is exception_as_data(exc_info)

    def test_causes(self):
        """
        Causes follow, the exception itself comes first.
        """
        try:
            try:
                raise KeyError("inner")
            except KeyError as exc:
                raise ValueError("outer") from exc
        except ValueError as exc:
            stacks = exception_as_data(exc)

        assert ["ValueError", "KeyError"] == [stack["exc_type"] for stack in stacks]
        assert [False, True] == [stack["is_cause"] for stack in stacks]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
    def test_group(self):
        """
        A group bears its exceptions.
        """
        group = ExceptionGroup("both", [raised(KeyError("a")), raised(ValueError("b"))])  # noqa: F821

        [stack] = exception_as_data(raised(group))

        assert ["KeyError", "ValueError"] == [one[0]["exc_type"] for one in stack["exceptions"]]
        assert "hunter2" not in repr(stack)

    def test_base_exception(self):
        """
        An exception that is no Exception is data like any other.
        """
        timeout = eventlet.Timeout(5)
        timeout.cancel()

        assert "Timeout" == exception_as_data(raised(timeout))[0]["exc_type"]

    def test_falsy(self):
        """
        An exception that counts as false is one all the same.
        """

        class Empty(Exception):
            def __len__(self):
                return 0

        assert "Empty" == exception_as_data(raised(Empty()))[0]["exc_type"]

    def test_str_raises(self):
        """
        An exception without a text has a type and frames.
        """
        [stack] = exception_as_data(raised(Mute()))

        assert "Mute" == stack["exc_type"]
        assert ["raised"] == [frame["name"] for frame in stack["frames"]]

    @pytest.mark.parametrize(
        ("exc_info", "kind", "value"),
        [
            ((ValueError, None, None), "ValueError", "None"),
            ((ValueError,), "ValueError", "None"),
            ((Unprintable(), 5), "<Unprintable object whose repr raised ValueError>", "5"),
            (
                (Silent, Silent(), None),
                "Silent",
                "<Silent object whose repr raised Mute>",
            ),
        ],
    )
    def test_unreadable(self, exc_info, kind, value):
        """
        What structlog cannot read is told as far as it goes.
        """
        [stack] = exception_as_data(exc_info)

        assert (kind, value, []) == (stack["exc_type"], stack["exc_value"], stack["frames"])
        assert stack["exc_notes"][0].startswith("its stack could not be read: ")

    def test_circle(self):
        """
        Exceptions that are each other's cause end.
        """
        first, second = raised(KeyError("a")), raised(ValueError("b"))
        first.__cause__, second.__cause__ = second, first

        assert 2 == len(exception_as_data(first))


class TestWithoutLocals:
    def test_structlogs_own(self):
        """
        What dict_tracebacks rendered is exception_as_data's, its locals removed.
        """
        exc = raised(ValueError("x"))
        exc_info = (type(exc), exc, exc.__traceback__)
        rendered = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)(exc_info)
        assert "hunter2" in repr(rendered)

        assert exception_as_data(exc) == without_locals(rendered)

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
    def test_groups(self):
        """
        A group's exceptions lose their locals, too.
        """
        exc = raised(ExceptionGroup("one", [raised(ValueError("x"))]))  # noqa: F821
        exc_info = (type(exc), exc, exc.__traceback__)
        rendered = structlog.tracebacks.ExceptionDictTransformer(show_locals=True)(exc_info)

        assert exception_as_data(exc) == without_locals(rendered)

    def test_text(self):
        """
        A rendered traceback is text.
        """
        text = "Traceback (most recent call last):\n  ..."

        assert text == without_locals(text)

    @pytest.mark.parametrize("value", [None, "x", 5, {"a": 1}, [1], ["ab"], [{"frames": [5]}]])
    def test_others(self, value):
        """
        What no structlog processor made is nothing.
        """
        assert None is without_locals(value)
