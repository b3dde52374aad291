"""
AMQP tables, such as message headers: checking, copying and weighing them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from sys import getsizeof
from typing import Any

from amqp.serialization import dumps, loads

from nameko_eventlog.limits import TABLE_VALUES
from nameko_eventlog.plain_json import CUT, MAX_DEPTH


UNCHANGING = frozenset({str, int, float, bool, bytes, type(None)})
"""Immutable types of values that contain no other values."""


class SharedTable(dict[str, Any]):
    """
    An unchanging table that many messages share.
    """

    __slots__ = ("holders", "weight")

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__(table)
        self.weight = weigh(self)
        """About how many bytes it takes in memory."""
        self.holders = 0
        """How many messages with this table an outbox holds."""


def weigh(value: Any) -> int:
    """
    Return about how many bytes *value*, a table or one of its values, takes in memory.
    """
    return getsizeof(value) + _weigh_inside(value)


def _weigh_inside(value: Any) -> int:
    parts: list[Any] | tuple[Any, ...]
    if isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        return 0
    size = sum(map(getsizeof, parts))
    for part in parts:
        if type(part) not in UNCHANGING:
            size += _weigh_inside(part)
    return size


def check_finite(table: Mapping[str, Any]) -> None:
    """
    Check that *table* contains no NaN and no infinity, at any depth.

    py-amqp encodes them, but RabbitMQ cannot read them, because Erlang has no such floats. It
    closes the connection with an internal error (541).

    Raises:
        ValueError: It contains one. The message names the header.
    """
    for name, value in table.items():
        if not _is_finite(value):
            raise ValueError(
                f"the header {name!r} contains NaN or an infinity, which RabbitMQ cannot read:"
                f" {value!r}"
            )


def encode_table(table: Mapping[Any, Any]) -> bytes:
    """
    Encode *table* as AMQP does.

    Raises:
        Exception: AMQP does not know one of its values.
    """
    encoded: bytes = dumps("F", [dict(table)])
    return encoded


def decode_table(encoded: bytes) -> dict[str, Any]:
    """
    Decode what `encode_table` returned.

    Raises:
        Exception: It is not a table.
    """
    (table,), _ = loads("F", encoded, 0)
    return dict(table)


def is_table(value: Any) -> bool:
    """
    Tell whether *value* is a mapping that can be sent as headers.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    try:
        check_finite(value)
        encode_table(value)
    except Exception:  # py-amqp raises many types: struct.error, OverflowError, its own
        return False
    return True


def copied(value: Mapping[str, Any]) -> dict[str, Any]:
    """
    Copy the mappings and lists in *value*. Other values in a table are immutable.

    Args:
        value: A table.

    Raises:
        ValueError: It has more than `TABLE_VALUES` values.
    """
    copy: dict[str, Any] = _copied(value, 0, [TABLE_VALUES])
    return copy


def _copied(value: Any, depth: int, left: list[int]) -> Any:
    kind = type(value)
    if kind in UNCHANGING:
        return value
    is_mapping = kind is dict or (kind is not list and isinstance(value, Mapping))
    if not is_mapping and not isinstance(value, (list, tuple)):
        return value
    if depth == MAX_DEPTH:
        return CUT
    left[0] -= len(value)
    if left[0] < 0:  # shared lists that contain each other twice grow exponentially
        raise ValueError(f"a table has more than {TABLE_VALUES} values")
    if is_mapping:
        return {key: _copied(element, depth + 1, left) for key, element in value.items()}
    elements = [_copied(element, depth + 1, left) for element in value]
    return tuple(elements) if isinstance(value, tuple) else elements


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return True
