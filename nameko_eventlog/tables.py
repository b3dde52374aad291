"""
AMQP's tables, which message headers are: what a broker takes of what py-amqp encodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from amqp.serialization import dumps


def check_finite(table: Mapping[str, Any]) -> None:
    """
    Check that *table* holds no float that is NaN or an infinity, however deep.

    Of what py-amqp encodes, these alone RabbitMQ cannot read: its language has none. It ends the
    connection as if the fault were its own (541), for every message that has one.

    Raises:
        ValueError: It does; names the header.
    """
    for name, value in table.items():
        if not _is_finite(value):
            raise ValueError(
                f"the header {name!r} holds NaN or an infinity, unknown to RabbitMQ: {value!r}"
            )


def is_table(value: Any) -> bool:
    """
    Tell whether *value* is a mapping of strings to what can be sent as headers.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    try:
        check_finite(value)
        dumps("F", [dict(value)])
    except Exception:  # py-amqp's of many types: struct.error, OverflowError, its own
        return False
    return True


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return True
