"""
What a consumer's worker continues of the sender's context.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqp.serialization import dumps
from nameko.constants import HEADER_PREFIX

from nameko_eventlog import limits
from nameko_eventlog.amqp.tables import is_table


_PREFIX = f"{HEADER_PREFIX}."
_CALL_STACK = "call_id_stack"


def context_data(headers: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read from message headers what a consumer's worker continues.

    Args:
        headers: As others have sent them.

    Returns:
        What of it has the types that Nameko expects and can be sent again, within
        `limits.CONTEXT_BYTES`.
    """
    data: dict[str, Any] = {}
    weight = 0
    is_simple = True
    for name, value in headers.items():
        if not isinstance(name, str) or not name.startswith(_PREFIX):
            continue
        name = name.removeprefix(_PREFIX)
        weight += len(name) + 8
        if name == _CALL_STACK:
            # anybody can send such a header, and Nameko believes it
            if not isinstance(value, list) or {*map(type, value)} - {str}:
                continue
            weight += sum(map(len, value)) + 8 * len(value)
        elif isinstance(value, str):
            weight += len(value)
        else:
            is_simple = False
        data[name] = value
    if weight > limits.CONTEXT_BYTES:
        return {}
    if is_simple or _can_be_continued(data):
        return data
    return {name: value for name, value in data.items() if _can_be_continued({name: value})}


def _can_be_continued(data: Mapping[str, Any]) -> bool:
    # what a worker's own events and calls cannot be sent with would make all of them fail
    return is_table(data) and len(dumps("F", (data,))) <= limits.CONTEXT_BYTES
