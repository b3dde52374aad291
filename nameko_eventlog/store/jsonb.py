"""
JSON as PostgreSQL returns it, with the numbers that were stored.
"""

from __future__ import annotations

from typing import Any

from nameko_eventlog.amqp.decoding import decode_json


_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 19  # digits of an integer that may need more than 64 bits


def decode(text: str) -> Any:
    """
    Decode JSON; an integer beyond 64 bits becomes a float again.

    PostgreSQL writes the float ``1e22``, for example, as an integer. It cannot have been an
    integer, because the store keeps integers beyond 64 bits as text.
    """
    value = decode_json(text)
    # rare, and much faster to rule out than to test each value
    return _restored(value) if _LONG in text.encode().translate(_DIGITS_AS_ZEROS) else value


def _restored(value: Any) -> Any:
    if type(value) is dict:
        return {key: _restored(one) for key, one in value.items()}
    if type(value) is list:
        return [_restored(one) for one in value]
    if type(value) is int and not -(2**63) <= value < 2**63:
        return float(value)
    return value
