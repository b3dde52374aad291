"""
Describe received values, and exceptions about them, in a bounded number of characters.

``repr`` would make the whole text before it is cut: 128 MiB for a body of 32 MiB.
"""

from __future__ import annotations

import reprlib
from typing import Any


MAX_REASON = 1000
"""The longest reason, in characters."""

_MOST_BITS = 1024


class _Short(reprlib.Repr):
    """
    A `reprlib.Repr` that cuts values before it renders them.

    Args:
        most: The longest text of one value, in characters.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.maxstring = self.maxother = most

    def repr_int(self, x: int, level: int) -> str:
        """
        Return an integer's text, if it is short: Python makes it in quadratic time.
        """
        if x.bit_length() > _MOST_BITS:
            return f"<int of {x.bit_length()} bits>"
        return repr(x)

    def repr_bytes(self, x: bytes, level: int) -> str:
        """
        Return the text of bytes.
        """
        return repr(x) if len(x) <= self.maxstring else f"{x[: self.maxstring]!r}..."

    repr_bytearray = repr_bytes

    def repr_instance(self, x: Any, level: int) -> str:
        """
        Return the text of anything else, whatever its ``__repr__`` does.
        """
        try:
            if isinstance(x, BaseException) and type(x).__repr__ is BaseException.__repr__:
                arguments = ", ".join(self.repr1(one, level - 1) for one in x.args)
                return f"{type(x).__name__}({arguments})"
        except Exception:
            return f"<{type(x).__name__}>"
        return super().repr_instance(x, level)


_reason = _Short(MAX_REASON)
_value = _Short(100)


def describe_error(exc: BaseException) -> str:
    """
    Return an exception as text, whatever its ``__repr__`` does.
    """
    return _reason.repr(exc)[:MAX_REASON]


def describe_value(value: Any) -> str:
    """
    Return *value* as short text, for a message.
    """
    return shortened(_value.repr(value), 100)


def shortened(text: str, most: int) -> str:
    """
    Return *text*, or its beginning and an ellipsis: *most* characters at most.
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"
