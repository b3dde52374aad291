"""
AMQP's tables, which message headers are: what a broker takes of what py-amqp encodes, and copies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from sys import getsizeof
from typing import Any

from amqp.serialization import dumps

from nameko_eventlog.limits import TABLE_VALUES
from nameko_eventlog.plain_json import CUT, MAX_DEPTH


UNCHANGING = frozenset({str, int, float, bool, bytes, type(None)})
"""Types of a table's values that cannot change and hold no others."""


class SharedTable(dict[str, Any]):
    """
    A table that does not change, and that many messages share.
    """

    __slots__ = ("holders", "weight")

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__(table)
        self.weight = weigh(self)
        """About how many bytes it takes in memory."""
        self.holders = 0
        """How many of those messages an outbox holds."""


def weigh(value: Any) -> int:
    """
    Return about how many bytes *value*, which a table may hold, takes in memory.
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


def copied(value: Mapping[str, Any]) -> dict[str, Any]:
    """
    Copy the mappings and lists in *value*, and nothing else: no other value in a table can change.

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
    if left[0] < 0:  # a list that is in another twice, which is in another twice, and so on
        raise ValueError(f"a table of more than {TABLE_VALUES} values")
    if is_mapping:
        return {key: _copied(one, depth + 1, left) for key, one in value.items()}
    elements = [_copied(one, depth + 1, left) for one in value]
    return tuple(elements) if isinstance(value, tuple) else elements


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return True
