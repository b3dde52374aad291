"""
Packing: a body without what the tables hold elsewhere, and back.

Event logs share their names with others of their series, and their ids with others of their call.
What is taken out of a body is exactly what `unpack` puts back: a value that would not be the same
stays in the body, and so does a large call stack.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from functools import lru_cache
from typing import Any, NamedTuple

from nameko_eventlog.store.dating import claimed_time
from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.store.positions import digest
from nameko_eventlog.store.times import format_time, parse_time


STACK_IDS = 100
"""How many ids a call stack may have that is stored with the call."""

STACK_CHARACTERS = 10_000
"""How many characters they may have."""

_FARTHEST = 2**31 - 1  # milliseconds between the times of a body and its position


class Packed(IntFlag):
    """
    The keys of a body that were taken out of it.
    """

    SERVICE_NAME = 1
    ENTRYPOINT_PROTOCOL = 2
    ENTRYPOINT_NAME = 4
    EVENT_TYPE = 8
    LEVEL = 16
    CALL_ID = 32
    CALL_STACK = 64
    SECONDS = 128
    """The timestamp: UTC, in seconds."""

    MILLISECONDS = 256
    """The timestamp: UTC, in milliseconds."""

    NO_DATA = 512
    """The data, which is an empty mapping."""


NAMES = {
    "service_name": Packed.SERVICE_NAME,
    "entrypoint_protocol": Packed.ENTRYPOINT_PROTOCOL,
    "entrypoint_name": Packed.ENTRYPOINT_NAME,
    "event_type": Packed.EVENT_TYPE,
    "level": Packed.LEVEL,
}
"""The keys whose values are a series'."""

PACKED_KEYS = frozenset({*NAMES, "call_id", "call_stack", "timestamp", "data"})
"""The keys that may be missing in a packed body."""

_TIMESPECS = {"seconds": Packed.SECONDS, "milliseconds": Packed.MILLISECONDS}
_NAMES = [(name, int(bit)) for name, bit in NAMES.items()]
_CONTEXT = [(name, bit) for name, bit in _NAMES if name not in ("event_type", "level")]
_EVENT_TYPE, _LEVEL = int(Packed.EVENT_TYPE), int(Packed.LEVEL)
_CALL_ID, _CALL_STACK = int(Packed.CALL_ID), int(Packed.CALL_STACK)
_NO_DATA = int(Packed.NO_DATA)
_TIMES = {int(bit): spec for spec, bit in _TIMESPECS.items()}
_SPECS = int(Packed.SECONDS | Packed.MILLISECONDS)
_UNSET = object()


class CallContext(NamedTuple):
    """
    What the event logs of a call share.

    Args:
        call_id: The id, if there is one.
        call_stack: The call stack; of one that is too large only the ends.
        is_complete: Whether it is the whole call stack.
    """

    call_id: str | None
    call_stack: list[str]
    is_complete: bool = True

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> CallContext | None:
        """
        Read it from a body, which `rows.make_row` has accepted; None outside calls.
        """
        call_id, stack = body.get("call_id"), body.get("call_stack") or []
        if call_id is None and not stack:
            return None
        if len(stack) <= STACK_IDS and sum(map(len, stack)) <= STACK_CHARACTERS:
            return cls(call_id, stack)
        ends = [stack[0], *stack[-2:-1], *([] if call_id is None else [call_id])]
        return cls(call_id, list(dict.fromkeys(ends)), False)

    @classmethod
    def read(cls, stored: Any) -> CallContext:
        """
        Read what `stored` returned.
        """
        if isinstance(stored, list):
            return cls(stored[-1], stored)
        return cls(**stored)

    @property
    def stored(self) -> Any:
        """
        As it is in the table of calls: usually the call stack, which ends with the call's id.
        """
        if self.is_complete and self.call_stack and self.call_stack[-1] == self.call_id:
            return self.call_stack
        return self._asdict()

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """
        Two digests that stand for it: of the call id, and of the call stack.
        """
        return call_key(self.call_id), stack_key(self.call_stack)

    @property
    def origin(self) -> str | None:
        """
        The first id of the call stack.
        """
        return self.call_stack[0] if self.call_stack else None


_NO_CALL = CallContext(None, [])


def call_key(call_id: str | None) -> bytes:
    """
    Return sixteen bytes that stand for a call id.
    """
    return digest("" if call_id is None else call_id)


def stack_key(call_stack: list[str]) -> bytes:
    """
    Return sixteen bytes that stand for a call stack.
    """
    return digest(encode(call_stack))


@lru_cache(1024)  # many event logs share a second
def canonical(text: str) -> tuple[int, int] | None:
    """
    Return the milliseconds since 1970 of a timestamp, and the bit of its form, if that is usual.
    """
    try:
        milliseconds = parse_time(text)
        for spec, bit in _TIMESPECS.items():
            if format_time(milliseconds, spec) == text:
                return milliseconds, int(bit)
    except (ValueError, OverflowError):  # it is no time, or not one in UTC
        pass
    return None


def pack(row: dict[str, Any]) -> tuple[int, int | None, dict[str, Any]]:
    """
    Take out of a body what is stored elsewhere.

    Args:
        row: As `rows.make_row` makes it, with ``context``, the body's `CallContext`.

    Returns:
        The taken keys (`Packed`), the time of the body less that of the row, in milliseconds, and
        the rest of the body.
    """
    rest = dict(row["body"])
    packed = 0
    for name, bit in _NAMES:
        value, known = rest.get(name, _UNSET), row[name]
        if value is known or (value == known and type(value) is type(known)):
            del rest[name]
            packed |= bit
    call_id, call_stack, is_complete = row["context"] or _NO_CALL
    if rest.get("call_id", _UNSET) == call_id:
        del rest["call_id"]
        packed |= _CALL_ID
    if is_complete and rest.get("call_stack", _UNSET) == call_stack:
        del rest["call_stack"]
        packed |= _CALL_STACK
    offset = None
    timestamp = rest.get("timestamp")
    time = canonical(timestamp) if type(timestamp) is str and len(timestamp) <= 40 else None
    if time is not None and abs(time[0] - row["time_ms"]) <= _FARTHEST:
        del rest["timestamp"]
        offset, bit = time[0] - row["time_ms"], time[1]
        packed |= bit
    if rest.get("data", _UNSET) == {}:
        del rest["data"]
        packed |= _NO_DATA
    return packed, offset, rest


def unpack(
    packed: int,
    time_ms: int | None,
    rest: dict[str, Any],
    names: Mapping[str, Any],
    context: CallContext | None,
) -> dict[str, Any]:
    """
    Return the body as it was, in the order in which our dispatcher writes it.

    Args:
        packed: The taken keys.
        time_ms: The body's time, in milliseconds since 1970, if the timestamp is one of them.
        rest: The rest of the body.
        names: The names of its series, by column.
        context: That of its call.
    """
    body: dict[str, Any] = {name: names[name] for name, bit in _CONTEXT if packed & bit}
    if packed & _CALL_ID:
        body["call_id"] = None if context is None else context.call_id
    if packed & _CALL_STACK:
        body["call_stack"] = [] if context is None else list(context.call_stack)
    if packed & _LEVEL:
        body["level"] = names["level"]
    body.update(rest)
    if packed & _SPECS and time_ms is not None:
        body["timestamp"] = format_time(time_ms, _TIMES[packed & _SPECS])
    if packed & _EVENT_TYPE:
        body["event_type"] = names["event_type"]
    data = {} if packed & _NO_DATA else body.pop("data", _UNSET)
    if data is not _UNSET:
        body["data"] = data
    return body


def summary_of(
    names: Mapping[str, Any], context: CallContext | None, time_ms: int
) -> dict[str, Any]:
    """
    Return what is known of a body that is too large for a list.

    Args:
        names: The names of its series, by column.
        context: That of its call.
        time_ms: Its time, in milliseconds since 1970.
    """
    body = {
        "service_name": names["service_name"],
        "entrypoint_protocol": names["entrypoint_protocol"],
        "entrypoint_name": names["entrypoint_name"],
        "call_id": None if context is None else context.call_id,
        "call_stack": [] if context is None else list(context.call_stack),
        "event_type": names["event_type"],
        "timestamp": format_time(time_ms),
        "data": {},
    }
    return body if names["level"] is None else {**body, "level": names["level"]}


def searched_part(body: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the part of a body in which texts are searched, beside its event type.

    Args:
        body: Any; what is not valid in it is searched, too.
    """
    stack = body.get("call_stack") or []
    ids = [*(stack if isinstance(stack, list) else [None]), body.get("call_id") or ""]
    row = {
        **{name: body.get(name) for name in NAMES},
        "body": body,
        "level": normal_level(body.get("level")),
        "time_ms": claimed_time(body.get("timestamp")) or 0,
        "context": CallContext.of(body) if all(isinstance(one, str) for one in ids) else None,
    }
    return pack(row)[2]
