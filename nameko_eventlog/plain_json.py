"""
Values of plain JSON types. msgspec encodes them like kombu, in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import msgspec


MAX_DEPTH = 100
"""The deepest nesting that is encoded. Deeper values are cut."""

CUT = f"[nesting beyond {MAX_DEPTH} levels cut]"
"""Replaces a value that is cut."""

_SCALARS = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({float, list, tuple, dict})
_KEYS = {str}
_FAST_NODES = 10_000

encode_plain = msgspec.json.Encoder().encode


def looks_tagged(value: Mapping[Any, Any]) -> bool:
    """
    Tell whether kombu's JSON decoder would interpret *value* as a tagged value.

    For an unknown tag it raises in the consumer, before the consumer's own code runs.
    """
    return len(value) == 2 and "__type__" in value and "__value__" in value


def is_plain(value: dict[str, Any], redact: frozenset[str] = frozenset()) -> bool:
    """
    Tell whether msgspec and kombu encode *value* to the same JSON, and no key is redacted.
    """
    if redact or len(value) == 2:  # a dict of two keys may look tagged
        return _plain_nodes(value, redact, 1) < _FAST_NODES
    for key, element in value.items():  # most event data is flat
        kind = type(element)
        if type(key) is not str or (
            kind not in _SCALARS and not (kind is float and isfinite(element))
        ):
            return _plain_nodes(value, redact, 1) < _FAST_NODES
    return len(value) < _FAST_NODES


def _plain_nodes(value: Any, redact: frozenset[str], depth: int) -> int:
    """
    Count the elements of all containers in *value*.

    Returns:
        The count, or ``_FAST_NODES`` if *value* is not plain, or too large for the fast path.
    """
    if type(value) is dict:
        if (value and {*map(type, value)} != _KEYS) or looks_tagged(value):
            return _FAST_NODES
        if redact and not redact.isdisjoint(map(str.lower, value)):
            return _FAST_NODES
        values: Any = value.values()
    else:
        values = value
    kinds = {*map(type, values)} - _SCALARS
    nodes = len(value)
    if not kinds:
        return nodes
    if not kinds <= _CONTAINERS or depth == MAX_DEPTH:
        return _FAST_NODES
    for element in values:
        kind = type(element)
        if kind is float:
            if not isfinite(element):
                return _FAST_NODES
        elif kind in _CONTAINERS:
            nodes += _plain_nodes(element, redact, depth + 1)
        if nodes >= _FAST_NODES:
            return _FAST_NODES
    return nodes
