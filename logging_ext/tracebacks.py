"""
Exceptions as structured data, without their local variables.

The data have the shape of structlog's ``ExceptionDictTransformer`` since 25.4, and the content of
Python's own tracebacks: causes that were never raised, members of groups, notes. structlog leaves
some of these out, and before 25.5 loops forever on circular causes (structlog#739). Here the
number of exceptions, frames, characters and links is bounded.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from logging_ext.rendering import safe_repr, safe_text


MAX_CHAIN = 50
"""Exceptions of one chain of causes: half from its beginning, half from its end."""

MAX_EXCEPTIONS = 100
"""Exceptions in total, including causes and members of groups."""

MAX_GROUPS = 20
"""How deep groups may be nested: each takes three levels of nesting in a body."""

MAX_FRAMES = 50
"""Frames of one exception, as in structlog: half of them from each end."""

MAX_NOTES = 50
"""Notes of one exception."""

MAX_TEXT = 20_000
"""Characters of an exception's text, or of a note."""

MAX_CHARACTERS = 80_000
"""Characters of all texts and frames: in any encoding, less than the default largest body."""

MAX_LINKS = 1_000
"""How far a chain of causes is followed: a property can make it endless."""

MAX_TRACEBACK = 100_000
"""How far a traceback is followed."""

_FRAME = 60
"""Characters that a frame takes in addition to its names."""

_STACK = 150
"""Characters that an exception takes in addition to its texts."""

_Stacks = list[dict[str, Any]]

if sys.version_info >= (3, 11):
    _GROUPS: tuple[type[BaseException], ...] = (BaseExceptionGroup,)  # noqa: F821
else:
    _GROUPS = ()


def exception_as_data(exc_info: Any) -> _Stacks | None:
    """
    Return the type, message and stack of an exception and of its causes, without locals.

    Args:
        exc_info: Any ``exc_info`` of a log call: a true value for the current exception, an
            exception, or a triple.

    Returns:
        A list with a dictionary for the exception and for each of its causes, in the shape of
        structlog's ``ExceptionDictTransformer``; None if there is no exception.
    """
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif not isinstance(exc_info, tuple):
        exc_info = sys.exc_info() if exc_info else None
    if not exc_info or exc_info[0] is None:
        return None
    kind, value, traceback = (*exc_info, None, None)[:3]
    try:
        if not isinstance(value, BaseException):
            raise TypeError(f"exc_info contains {safe_repr(value)}, which is not an exception")
        return _Reading().chain(value, traceback, 0)
    except Exception as exc:
        stack = _stack(_type_name(kind), safe_text(value)[:MAX_TEXT])
        stack["exc_notes"].append(f"the stack could not be read: {safe_repr(exc)}"[:MAX_TEXT])
        return [stack]


def _stack(exc_type: str, exc_value: str) -> dict[str, Any]:
    return {
        "exc_type": exc_type,
        "exc_value": exc_value,
        "exc_notes": [],
        "syntax_error": None,
        "is_cause": False,
        "frames": [],
        "is_group": False,
        "exceptions": [],
    }


class _Reading:
    """
    Reads one exception with its causes and the members of its groups.
    """

    def __init__(self) -> None:
        self._exceptions = MAX_EXCEPTIONS
        self._characters = MAX_CHARACTERS
        # holds the exceptions, so that the id of one that a property makes is not reused
        self._seen: dict[int, BaseException] = {}

    def chain(self, first: BaseException, traceback: Any, depth: int) -> _Stacks:
        """
        Return the stacks of an exception and of its causes, within the bounds.

        Args:
            first: The exception.
            traceback: Its traceback.
            depth: How many groups contain it.
        """
        links = list(self._links(first))
        kept = links
        if len(links) > MAX_CHAIN:
            kept = links[: MAX_CHAIN // 2] + links[-MAX_CHAIN // 2 :]
        stacks: _Stacks = []
        for number, (exc, is_cause) in enumerate(kept):
            if number and not self._has_room():
                _note(stacks[-1], f"[{len(kept) - number} more causes are left out]")
                break
            if number:
                traceback = _attribute(exc, "__traceback__")
            stacks.append(self._read(exc, traceback, is_cause, depth))
            if number == MAX_CHAIN // 2 - 1 and kept is not links:
                _note(stacks[-1], f"[{len(links) - len(kept)} causes are left out here]")
        return stacks

    def _links(self, first: BaseException) -> Iterator[tuple[BaseException, bool]]:
        """
        Iterate over an exception and its causes; True for those set by ``raise ... from``.
        """
        exc, is_cause = first, False
        for _ in range(MAX_LINKS):
            self._seen[id(exc)] = exc
            yield exc, is_cause
            cause = _attribute(exc, "__cause__")
            is_cause = self._is_new(cause)
            if not is_cause:
                if _attribute(exc, "__suppress_context__"):
                    return
                cause = _attribute(exc, "__context__")
                if not self._is_new(cause):
                    return
            exc = cause

    def _is_new(self, exc: Any) -> bool:
        return isinstance(exc, BaseException) and id(exc) not in self._seen

    def _has_room(self) -> bool:
        return self._exceptions > 0 and self._characters > 0

    def _read(
        self, exc: BaseException, traceback: Any, is_cause: bool, depth: int
    ) -> dict[str, Any]:
        self._exceptions -= 1
        self._characters -= _STACK
        stack = _stack(self._text(_type_name(type(exc))), self._text(safe_text(exc)))
        stack["is_cause"] = is_cause
        stack["exc_notes"] = self._notes(exc)
        kind = type(exc)  # isinstance() would read ``__class__``, which may be a property
        if issubclass(kind, SyntaxError):
            stack["syntax_error"] = self._syntax_error(exc)
        stack["frames"] = self._frames(traceback)
        if issubclass(kind, _GROUPS):
            stack["is_group"] = True
            self._members(exc, stack, depth)
        return stack

    def _members(self, group: BaseException, stack: dict[str, Any], depth: int) -> None:
        try:
            given = _attribute(group, "exceptions")
            members: list[Any] = list(islice(given, MAX_LINKS))
            count = len(given)
        except Exception as exc:
            _note(stack, f"[its exceptions could not be read: {safe_repr(exc)[:200]}]")
            return
        for number, member in enumerate(members):
            if depth == MAX_GROUPS or not self._has_room():
                _note(stack, f"[{count - number} of its exceptions are left out]")
                return
            if not isinstance(member, BaseException):
                continue
            traceback = _attribute(member, "__traceback__")
            if id(member) not in self._seen:
                stack["exceptions"].append(self.chain(member, traceback, depth + 1))
            elif member is group:
                _note(stack, "[it contains itself]")
            else:  # appears elsewhere with its causes and members
                stack["exceptions"].append([self._read(member, traceback, False, MAX_GROUPS)])

    def _text(self, text: str, most: int = MAX_TEXT) -> str:
        most = min(most, max(self._characters, 100))
        if len(text) > most:
            text = f"{text[:most]}... [{len(text) - most} characters are left out]"
        self._characters -= len(text)
        return text

    def _notes(self, exc: BaseException) -> list[str]:
        notes = _attribute(exc, "__notes__")
        if notes is None:
            return []
        # like Python's traceback: a list or tuple of anything, or any other object
        if not isinstance(notes, (list, tuple)):
            return [self._text(safe_repr(notes))]
        texts = [self._text(safe_text(note)) for note in islice(notes, MAX_NOTES)]
        if len(notes) > MAX_NOTES:
            texts.append(f"[{len(notes) - MAX_NOTES} more notes are left out]")
        return texts

    def _syntax_error(self, exc: BaseException) -> dict[str, Any]:
        def text(value: Any, default: str) -> str:
            return self._text(safe_text(value), 1000) if value else default

        def number(value: Any) -> int:
            return int(value) if isinstance(value, int) and abs(value) < 2**63 else 0

        return {
            "offset": number(_attribute(exc, "offset")),
            "filename": text(_attribute(exc, "filename"), "?"),
            "line": text(_attribute(exc, "text"), ""),
            "lineno": number(_attribute(exc, "lineno")),
            "msg": text(_attribute(exc, "msg"), ""),
        }

    def _frames(self, traceback: Any) -> list[dict[str, Any]]:
        half = MAX_FRAMES // 2
        first: list[tuple[Any, Any]] = []
        last: deque[tuple[Any, Any]] = deque(maxlen=MAX_FRAMES - half)
        count = 0
        for place in _places(traceback):
            count += 1
            if count <= half:
                first.append(place)
            else:
                last.append(place)
        frames = [self._frame(*place) for place in first]
        skipped = count - len(first) - len(last)
        if skipped:
            frames.append({"filename": "", "lineno": -1, "name": f"Skipped frames: {skipped}"})
        frames.extend(self._frame(*place) for place in last)
        return frames

    def _frame(self, code: Any, lineno: Any) -> dict[str, Any]:
        filename = self._text(safe_text(getattr(code, "co_filename", "?")), 1000)
        if filename and not filename.startswith("<") and not os.path.isabs(filename):
            with suppress(OSError):  # the working directory is gone
                filename = os.path.abspath(filename)
        self._characters -= _FRAME
        return {
            "filename": filename or "?",
            "lineno": lineno,
            "name": self._text(safe_text(getattr(code, "co_name", "?")), 1000),
        }


def _places(traceback: Any) -> Iterator[tuple[Any, int]]:
    """
    Iterate over the code and line of each frame, the outermost first.
    """
    try:
        for _ in range(MAX_TRACEBACK):
            if traceback is None:
                return
            lineno = traceback.tb_lineno
            yield traceback.tb_frame.f_code, lineno if isinstance(lineno, int) else 0
            traceback = traceback.tb_next
    except Exception:  # an object that only looks like a traceback
        return


def _attribute(exc: BaseException, name: str) -> Any:
    """
    Return an attribute of an exception. If a property raises, use the built-in attribute.
    """
    try:
        return getattr(exc, name, None)
    except Exception:
        for base in type(exc).__mro__:
            if base.__module__ == "builtins" and name in vars(base):
                return vars(base)[name].__get__(exc)
        return None


def _type_name(kind: Any) -> str:
    try:
        return str(kind.__name__)
    except Exception:  # the metaclass has a property that raises
        return type.__repr__(kind) if isinstance(kind, type) else safe_repr(kind)


def _note(stack: dict[str, Any], note: str) -> None:
    stack["exc_notes"].append(note)


def without_locals(exception: Any) -> Any:
    """
    Return an exception that a structlog processor rendered, without locals.

    Returns:
        Text or data; None if *exception* is neither.
    """
    if isinstance(exception, str):
        return exception if "Traceback (most recent call last)" in exception[:80] else None
    try:
        return [
            {
                **stack,
                "frames": [
                    {key: value for key, value in frame.items() if key != "locals"}
                    for frame in stack["frames"]
                ],
                "exceptions": list(map(without_locals, stack.get("exceptions", ()))),
            }
            for stack in exception
        ]
    except Exception:
        return None
