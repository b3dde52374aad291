"""
Exceptions as structured data, without their local variables.
"""

from __future__ import annotations

import sys
from typing import Any

from structlog.tracebacks import ExceptionDictTransformer

from logging_ext.rendering import safe_repr, safe_text


_transform_exception = ExceptionDictTransformer(show_locals=False)


def exception_as_data(exc_info: Any) -> list[dict[str, Any]] | None:
    """
    Return an exception's type, message and stack, and those of its causes, without locals.

    Args:
        exc_info: What ``exc_info`` of a log call may be: a true value for the current
            exception, an exception, or a triple.

    Returns:
        A list with a dictionary for the exception and for each of its causes, as made by
        structlog's ``ExceptionDictTransformer``; None if there is no exception.
    """
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    elif not isinstance(exc_info, tuple):
        exc_info = sys.exc_info() if exc_info else None
    if not exc_info or exc_info[0] is None:
        return None
    try:
        return _transform_exception(exc_info)
    except Exception as exc:
        kind, value = (*exc_info, None)[:2]
        return [
            {
                "exc_type": kind.__name__ if isinstance(kind, type) else safe_repr(kind),
                "exc_value": safe_text(value),
                "frames": [],
                "exc_notes": [f"its stack could not be read: {safe_repr(exc)}"],
            }
        ]


def without_locals(exception: Any) -> Any:
    """
    Return an exception that a structlog processor rendered, or None if it is something else.
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
