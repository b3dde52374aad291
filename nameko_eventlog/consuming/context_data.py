"""
The sender's context, which a consumer's worker continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nameko.constants import HEADER_PREFIX

from nameko_eventlog import limits
from nameko_eventlog.amqp.tables import encode_table, is_table


_PREFIX = f"{HEADER_PREFIX}."
_CALL_STACK = "call_id_stack"


def context_data(headers: Mapping[str, Any]) -> dict[str, Any]:
    """
    Read the context for a consumer's worker from message headers.

    Args:
        headers: As received.

    Returns:
        The context data that have the types that Nameko expects and can be sent again; nothing, if
        they are larger than `limits.CONTEXT_BYTES`.
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
            # Nameko trusts this header, and anyone can send it
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
    # a worker sends its context data with each event and call, which would fail
    return is_table(data) and len(encode_table(data)) <= limits.CONTEXT_BYTES
