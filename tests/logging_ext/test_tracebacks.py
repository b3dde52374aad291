"""
Exceptions as structured data.
"""

import json
import re
import sys
from traceback import format_exception

import eventlet
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_ext.tracebacks import (
    MAX_CHAIN,
    MAX_EXCEPTIONS,
    exception_as_data,
    without_locals,
)
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
        ],
    )
    def test_unreadable(self, exc_info, kind, value):
        """
        What is no exception is told as far as it goes.
        """
        [stack] = exception_as_data(exc_info)

        assert (kind, value, []) == (stack["exc_type"], stack["exc_value"], stack["frames"])
        assert stack["exc_notes"][0].startswith("the stack could not be read: ")

    def test_silent(self):
        """
        An exception without any text has a stack all the same.
        """
        [stack] = exception_as_data(raised(Silent()))

        assert "<Silent object whose repr raised Mute>" == stack["exc_value"]
        assert 1 == len(stack["frames"])

    def test_circle(self):
        """
        Exceptions that are each other's cause end.
        """
        first, second = raised(KeyError("a")), raised(ValueError("b"))
        first.__cause__, second.__cause__ = second, first

        assert 2 == len(exception_as_data(first))


def chained(length):
    """
    Return an exception with so many causes.
    """
    last = None
    for number in range(length + 1):
        exc = ValueError(number)
        exc.__cause__ = last
        last = exc
    return last


class Endless(Exception):
    """
    An exception whose cause is made when it is asked for.
    """

    @property
    def __cause__(self):
        return Endless()


class Raising(Exception):
    """
    An exception whose properties raise.
    """

    @property
    def __cause__(self):
        raise RuntimeError("no cause")

    __context__ = __suppress_context__ = __traceback__ = __notes__ = __class__ = __cause__


class Recurring(Exception):
    """
    An exception whose text never ends.
    """

    def __str__(self):
        return f"{self}"


def values(stacks):
    """
    Return the texts of exceptions.
    """
    return [stack["exc_value"] for stack in stacks]


class TestChains:
    """
    Everything that Python's own traceback prints is there, and it ends.
    """

    def test_cause_of_itself(self):
        """
        ``raise e from e`` is told once.
        """
        exc = raised(ValueError("boom"))
        exc.__cause__ = exc

        assert ["boom"] == values(exception_as_data(exc))

    @pytest.mark.parametrize("attribute", ["__cause__", "__context__"])
    @pytest.mark.parametrize("length", [1, 2, 3, 40])
    def test_circles(self, attribute, length):
        """
        A circle of any length is told once around, through causes or contexts.
        """
        many = [ValueError(number) for number in range(length)]
        for exc, following in zip(many, [*many[1:], many[0]], strict=True):
            if attribute == "__context__" and exc is not following:
                BaseException.__context__.__set__(exc, following)
            elif attribute == "__cause__":
                exc.__cause__ = following

        expected = 1 if attribute == "__context__" and length == 1 else length
        assert list(map(str, range(expected))) == values(exception_as_data(many[0]))

    def test_never_raised(self):
        """
        A cause that was never raised itself, which has no traceback, is told.
        """
        try:
            raise RuntimeError("charge failed") from ValueError("card expired")
        except RuntimeError as exc:
            stacks = exception_as_data(exc)

        assert ["charge failed", "card expired"] == values(stacks)
        assert (1, [], True) == (len(stacks[0]["frames"]), stacks[1]["frames"], True)

    def test_suppressed_context(self):
        """
        ``raise ... from None`` hides what it was raised in.
        """

        def hide():
            try:
                raise KeyError("inner")
            except KeyError:
                raise ValueError("outer") from None

        with pytest.raises(ValueError) as info:
            hide()

        assert ["outer"] == values(exception_as_data(info.value))

    def test_falsy_cause(self):
        """
        A cause that counts as false is one.
        """

        class Falsy(Exception):
            def __bool__(self):
                return False

        exc = ValueError("outer")
        exc.__cause__ = Falsy("inner")

        assert ["outer", "inner"] == values(exception_as_data(exc))

    def test_remote(self):
        """
        The traceback's text of another process, multiprocessing's cause, is told whole.
        """
        from multiprocessing.pool import ExceptionWithTraceback

        exc = raised(ValueError("boom"))
        make, arguments = ExceptionWithTraceback(exc, exc.__traceback__).__reduce__()

        remote = exception_as_data(make(*arguments))[1]
        assert ("RemoteTraceback", True) == (remote["exc_type"], remote["is_cause"])
        assert "ValueError: boom" in remote["exc_value"]
        assert "in raised" in remote["exc_value"]

    def test_notes(self):
        """
        Notes are told, of any kind.
        """
        exc = ValueError("x")
        exc.__notes__ = ["at order 5", 6, Unprintable()]
        other = ValueError("y")
        other.__notes__ = 5

        assert ["at order 5", "6"] == exception_as_data(exc)[0]["exc_notes"][:2]
        assert ["5"] == exception_as_data(other)[0]["exc_notes"]

    def test_syntax_error(self):
        """
        A SyntaxError brings its place, whatever that is.
        """
        with pytest.raises(SyntaxError) as info:
            compile("a b", "card.py", "exec")
        [stack] = exception_as_data(info.value)

        assert ("card.py", 1, "a b\n") == tuple(
            stack["syntax_error"][name] for name in ("filename", "lineno", "line")
        )
        odd = SyntaxError("odd", (Unprintable(), "one", None, object()))
        assert 0 == exception_as_data(odd)[0]["syntax_error"]["lineno"]

    def test_long_chain(self):
        """
        Of a long chain the beginning and the end are told, and how many lie between.
        """
        stacks = exception_as_data(chained(500))

        assert [*map(str, range(500, 475, -1)), *map(str, range(24, -1, -1))] == values(stacks)
        assert ["[451 causes are left out here]"] == stacks[24]["exc_notes"]

    @pytest.mark.parametrize("exc", [chained(10**5), Endless("x")], ids=["long", "endless"])
    def test_bounded_chain(self, exc):
        """
        A chain without an end is followed so far and no further.
        """
        assert MAX_CHAIN == len(exception_as_data(exc))

    def test_properties_that_raise(self):
        """
        Where a property of the exception's class raises, the built-in attribute counts.
        """
        exc = Raising("boom")
        BaseException.__cause__.__set__(exc, ValueError("why"))

        assert ["boom", "why"] == values(exception_as_data((Raising, exc, None)))

    def test_endless_text(self):
        """
        A text that recurs without an end is told as far as it goes.
        """
        [stack] = exception_as_data(Recurring("boom"))

        assert "Recurring('boom')" == stack["exc_value"]

    def test_many_frames(self):
        """
        Of many frames the outermost and the innermost ones are told.
        """

        def dive(depth):
            if not depth:
                raise ValueError("deep")
            dive(depth - 1)

        with pytest.raises(ValueError) as info:
            dive(200)
        frames = exception_as_data(info.value)[0]["frames"]

        assert 51 == len(frames)
        assert ("Skipped frames: 152", -1) == (frames[25]["name"], frames[25]["lineno"])

    def test_size(self):
        """
        However much there is to tell, it stays below what a body may have.
        """
        exc = None
        for _ in range(200):
            following = raised(ValueError("😀" * 10**5))
            following.__notes__ = ["😀" * 10**5] * 1000
            following.__cause__ = exc
            exc = following

        assert len(json.dumps(exception_as_data(exc))) < 1_100_000

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
    @pytest.mark.parametrize("kind", ["wide", "deep", "doubling", "itself", "member's cause"])
    def test_groups(self, kind):
        """
        Groups that are wide, deep, or contain themselves end, and say what is left out.
        """

        class Own(ExceptionGroup):  # noqa: F821
            @property
            def exceptions(self):
                return [self, ValueError("x")]

        if kind == "wide":
            exc = ExceptionGroup("g", [ValueError(n) for n in range(5000)])  # noqa: F821
        elif kind == "itself":
            exc = Own("g", [ValueError("y")])
        elif kind == "member's cause":
            member = ValueError("m")
            exc = ExceptionGroup("g", [member])  # noqa: F821
            member.__cause__ = exc
        else:
            exc = ValueError("leaf")
            for _ in range(60):
                members = [exc, exc] if kind == "doubling" else [exc]
                exc = ExceptionGroup("g", members)  # noqa: F821

        text = json.dumps(exception_as_data(exc))

        assert 1 <= text.count('"exc_type"') <= MAX_EXCEPTIONS
        notes = {"itself": "it contains itself", "member's cause": '"m"'}
        assert notes.get(kind, "of its exceptions are left out") in text

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
    def test_group_whose_exceptions_raise(self):
        """
        Where a group's property raises its own exceptions are told, and how many are not.
        """

        class Own(ExceptionGroup):  # noqa: F821
            @property
            def exceptions(self):
                raise RuntimeError("no exceptions")

        [stack] = exception_as_data(Own("g", [ValueError(n) for n in range(5000)]))

        assert "0" == stack["exceptions"][0][0]["exc_value"]
        told = len(stack["exceptions"])
        assert [f"[{5000 - told} of its exceptions are left out]"] == stack["exc_notes"]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="groups came with Python 3.11")
    def test_member_that_is_the_cause(self):
        """
        A group that was raised from one of its members tells that in both places, as Python does.
        """
        member = raised(ValueError("m"))
        group = ExceptionGroup("g", [member, KeyError("k")])  # noqa: F821
        group.__cause__ = member

        first, cause = exception_as_data(group)

        assert ("g (2 sub-exceptions)", "m") == (first["exc_value"], cause["exc_value"])
        assert ["m", "'k'"] == [one[0]["exc_value"] for one in first["exceptions"]]

    @settings(max_examples=50, deadline=None)
    @given(st.data())
    def test_as_python_prints(self, data):
        """
        The exceptions are those that Python's traceback prints, in the opposite order.
        """
        many = [ValueError(str(number)) for number in range(5)]
        for exc in many:
            for attribute in ("__cause__", "__context__"):
                setattr(exc, attribute, data.draw(st.sampled_from([None, *many])))
            exc.__suppress_context__ = data.draw(st.booleans())

        printed = re.findall(r"^ValueError: (\d)$", "".join(format_exception(many[0])), re.M)
        assert printed[::-1] == values(exception_as_data(many[0]))


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
