"""
JSON text: as the store writes it, and as PostgreSQL returns it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from nameko_eventlog.amqp.decoding import decode_json


_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG = b"0" * 19  # digits of an integer that may need more than 64 bits


def encode(value: Any) -> str:
    """
    Return *value* as the JSON that is stored.
    """
    return msgspec.json.encode(value).decode()


def decode_from_postgresql(text: str) -> Any:
    """
    Decode JSON; an integer beyond 64 bits becomes a float again.

    PostgreSQL writes the float ``1e22``, for example, as an integer. It cannot have been an
    integer, because the store keeps integers beyond 64 bits as text.
    """
    value = decode_json(text)
    return _with_floats(value) if may_exceed_64_bits(text.encode()) else value


def may_exceed_64_bits(text: bytes) -> bool:
    """
    Tell whether JSON may have an integer beyond 64 bits: rare, and faster than testing each value.
    """
    return _LONG in text.translate(_DIGITS_AS_ZEROS)


def _with_floats(value: Any) -> Any:
    if type(value) is dict:
        return {key: _with_floats(one) for key, one in value.items()}
    if type(value) is list:
        return [_with_floats(one) for one in value]
    if type(value) is int and not -(2**63) <= value < 2**63:
        return float(value)
    return value
