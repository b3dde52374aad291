"""
Conditions on the part of a body that `packing` takes out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_, select

from nameko_eventlog.store.packing import (
    NAMES,
    PACKED_KEYS,
    Packed,
    call_key,
    canonical,
    stack_key,
)
from nameko_eventlog.store.sql.functions import TimeOf
from nameko_eventlog.store.sql.schema import calls, event_logs, series


def is_packed(keys: Sequence[str]) -> bool:
    """
    Tell whether the value at the path *keys* may be elsewhere than in the stored body.
    """
    return keys[0] in PACKED_KEYS and (keys[0] == "call_stack" or len(keys) == 1)


def equals(keys: Sequence[str], value: Any) -> ColumnElement[bool] | None:
    """
    Make the condition that the value at *keys* was taken out of the body, and equals *value*.

    Returns:
        The condition; None if it cannot be met, or if `in_call_stack` decides.
    """
    if not is_packed(keys) or len(keys) > 1:
        return None
    name = keys[0]
    if name == "data":
        return _is_taken(Packed.NO_DATA) if value == {} else None
    if name == "call_stack":
        return _is_call_stack(value) if isinstance(value, list) else None
    if value is not None and not isinstance(value, str):
        return None
    if name in NAMES:
        return and_(_is_taken(NAMES[name]), _in_series(series.c[name] == value))
    if name == "call_id":
        is_it = _in_calls(calls.c.call_key == call_key(value))
        if value is None:
            is_it = _in_series(series.c.in_call.is_(False))
        return and_(_is_taken(Packed.CALL_ID), is_it)
    return None if value is None else _is_time(value)


def _is_taken(key: Packed) -> ColumnElement[bool]:
    return event_logs.c.packed.bitwise_and(int(key)) != 0


def _in_series(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return event_logs.c.series_id.in_(select(series.c.id).where(*conditions))


def _in_calls(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    some: Select[Any] = select(calls.c.id).where(*conditions)
    return event_logs.c.call.in_(some)


def _is_call_stack(value: list[Any]) -> ColumnElement[bool]:
    is_it = _in_calls(calls.c.stack_key == stack_key(value))
    if not value:
        is_it = or_(is_it, event_logs.c.call.is_(None))
    return and_(_is_taken(Packed.CALL_STACK), is_it)


def call_stack_meets(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """
    Make the condition that the call stack was taken out of the body, and that its call meets
    *condition*.
    """
    own = select(calls.c.id).where(calls.c.id == event_logs.c.call, condition)
    return and_(_is_taken(Packed.CALL_STACK), own.exists())


def _is_time(text: str) -> ColumnElement[bool] | None:
    known = canonical(text)
    if known is None:
        return None
    milliseconds, form = known
    of_body = TimeOf(event_logs.c.position) + event_logs.c.time_offset
    return and_(_is_taken(Packed(form)), of_body == milliseconds)
