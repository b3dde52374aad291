"""
From a received message to a row, or to the reason why it cannot be stored.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Collection, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from nameko_eventlog import limits
from nameko_eventlog.amqp.decoding import JSON, decode_json, load, load_untagged, weight_of
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.describing import describe_error, describe_value
from nameko_eventlog.store.call_ids import names_of
from nameko_eventlog.store.dating import claimed_time, decide_time
from nameko_eventlog.store.json_text import may_exceed_64_bits
from nameko_eventlog.store.levels import normal_level


MAX_TEXT = 500
"""The longest text of a column, in characters: an index row of PostgreSQL holds 2,700 bytes."""

MAX_DEPTH = limits.BODY_DEPTH
"""How deeply a body may be nested."""

NONCE_BYTES = 10
"""As many random bytes as a UUIDv7 has beside its time."""

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.I)
_SURROGATES_AND_NUL = re.compile("[\x00\ud800-\udfff]")
_ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")  # NUL, and surrogates, lone or paired
# PostgreSQL keeps numbers as decimals and writes all their digits: 1e308 has 309
_EXPONENT = re.compile(rb"[\[:,]\s*-?\d+(?:\.\d+)?[eE][+-]?\d\d")
_DIGITS_WRITTEN = 330  # of a number with an exponent, at most
_SMALL = limits.BODY_BYTES // _DIGITS_WRITTEN * len(b"1e99,")  # has no room for too many of them
_LATEST_OF_ID = 2**48 - 1  # milliseconds


class Unstorable(Exception):
    """
    A message cannot become a row; the text says why.
    """


def make_row(message: ReceivedMessage, accept: Collection[str], now: int) -> dict[str, Any]:
    """
    Make a row for the table of event logs.

    Args:
        message: As received.
        accept: The content types that may be decoded.
        now: The time, in milliseconds since 1970.

    Raises:
        Unstorable: It is not an event log.
    """
    body = decode_body(message, accept)
    columns = columns_of(body)
    body_ms = claimed_time(body.get("timestamp"))
    message_id = message.properties.get("message_id")
    id_ms = time_of_id(message_id)
    if message_id is None or message_id == "":
        message_id = _own_id(body_ms, message.nonce)
    time_ms, time_note = decide_time(body_ms, id_ms, now)
    return {
        "message_id": storable_id(message_id),
        "time_ms": time_ms,
        "time_note": time_note,
        **columns,
    }


def columns_of(body: Any) -> dict[str, Any]:
    """
    Return the columns of a row that come from its body, and the body.

    Args:
        body: The decoded body, which has only JSON's types.

    Raises:
        Unstorable: It is not the body of an event log.
    """
    if type(body) is not dict:
        raise Unstorable(f"the body must be a mapping, not {_shown(body)}")
    call_stack = body.get("call_stack")
    if call_stack is None:
        call_stack = []
    if type(call_stack) is not list or not all(type(one) is str for one in call_stack):
        raise Unstorable(f"call_stack must be a list of call ids, not {_shown(call_stack)}")
    level = normal_level(body.get("level"))
    parent = _bounded("call_stack[-2]", call_stack[-2]) if len(call_stack) > 1 else None
    return {
        "service_name": _text(body, "service_name"),
        "event_type": _text(body, "event_type"),
        "entrypoint_protocol": _text_or_none(body, "entrypoint_protocol"),
        "entrypoint_name": _text_or_none(body, "entrypoint_name"),
        "level": None if level is None or len(level) > MAX_TEXT else level,
        "call_id": _text_or_none(body, "call_id"),
        "origin_call_id": _bounded("call_stack[0]", call_stack[0]) if call_stack else None,
        "parent_call_id": parent,
        "caller": None if parent is None else names_of(parent)[0],
        "body": body,
    }


def storable_id(message_id: Any) -> str:
    """
    Return a message id as it is stored.

    Raises:
        Unstorable: It is too long.
    """
    return _bounded("message_id", escape_unstorable(str(message_id)))


def time_of_id(message_id: Any) -> int | None:
    """
    Return the milliseconds since 1970 in a message id, if it is a UUIDv7.
    """
    text = str(message_id)
    return int(text[:8] + text[9:13], 16) if _UUID7.fullmatch(text) else None


def escape_unstorable(text: str) -> str:
    r"""
    Write NUL and lone surrogates, which no database accepts as text, as JSON does: ``\u0000``.
    """
    return _SURROGATES_AND_NUL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def make_plain(value: Any) -> Any:
    """
    Return a copy of *value* that has only JSON's types.

    NaN, infinities, integers beyond 64 bits, times, decimals and UUIDs become text; bytes become
    base64.

    Raises:
        Unstorable: It is nested too deeply, or has too many values or too much text. A value that
            occurs in several places, as a YAML alias may, counts in each of them.
    """
    return _PlainCopier().copy(value, 0)


class _PlainCopier:
    """
    Copies one value, and counts what it contains.
    """

    __slots__ = ("_left", "_left_bytes")

    def __init__(self) -> None:
        self._left = limits.BODY_VALUES
        self._left_bytes = limits.BODY_BYTES

    def copy(self, value: Any, depth: int) -> Any:
        """
        Return a copy of *value*, which is nested at *depth*.
        """
        if depth > limits.BODY_DEPTH:
            raise Unstorable(_TOO_DEEP)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return value if -(2**63) <= value < 2**63 else self._text(_digits(value))
        if isinstance(value, float):
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        if isinstance(value, Mapping):
            self._count(len(value))
            return {self._text(str(k)): self.copy(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            self._count(len(value))
            return [self.copy(one, depth + 1) for one in value]
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        if isinstance(value, (Decimal, UUID)):
            return str(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            self._count_bytes((len(value) + 2) // 3 * 4)
            return base64.b64encode(value).decode()
        return escape_unstorable(describe_value(value))

    def _text(self, value: str) -> str:
        self._count_bytes(len(value))
        escaped = escape_unstorable(value)
        self._count_bytes(len(escaped) - len(value))
        return escaped

    def _count_bytes(self, size: int) -> None:
        self._left_bytes -= size
        if self._left_bytes < 0:
            raise Unstorable(f"the body has more than {limits.BODY_BYTES} bytes of text")

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise Unstorable(f"the body has more than {limits.BODY_VALUES} values")


_TOO_DEEP = f"the body is nested deeper than {limits.BODY_DEPTH} levels"


def _digits(value: int) -> str:
    if value.bit_length() > limits.INTEGER_DIGITS * 3:  # at least three bits to a digit
        raise Unstorable(f"a number has more than {limits.INTEGER_DIGITS} digits")
    return str(value)


def decode_body(message: ReceivedMessage, accept: Collection[str]) -> Any:
    """
    Return the decoded body of *message*, which has only JSON's types.

    Args:
        message: As received.
        accept: The content types that may be decoded.

    Raises:
        Unstorable: It cannot be decoded.
    """
    try:
        payload = message.payload(accept)
        content_type = message.content_type or ""
        message.decoded_weight = weight_of(payload, content_type)
        if len(payload) > _SMALL and content_type == JSON:
            _check_exponents(payload, len(payload))
        if content_type == JSON and is_directly_decodable(payload):
            try:
                return _decode_directly(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                pass  # NaN, which kombu accepts, or invalid JSON
        return make_plain(load(payload, content_type, message.content_encoding))
    except Unstorable:
        raise
    except RecursionError:
        raise Unstorable(f"the body cannot be decoded: {_TOO_DEEP}") from None
    except Exception as exc:
        raise Unstorable(f"the body cannot be decoded: {describe_error(exc)}") from exc


def decode_stored(payload: bytes) -> Any:
    """
    Return a body that a store has written as JSON, within the limits of received bodies.

    It has no tags of kombu's that remain to be interpreted. Its JSON may be longer than what was
    received, because NUL is stored as an escape, for example; so its text is counted instead.

    Raises:
        Unstorable: It cannot be decoded, or it exceeds a limit.
    """
    try:
        if len(payload) > _SMALL:
            _check_exponents(payload, 0)
        if len(payload) <= limits.BODY_VALUES and is_directly_decodable(payload):
            return _decode_directly(payload)
        return make_plain(load_untagged(payload))
    except Unstorable:
        raise
    except RecursionError:
        raise Unstorable(f"the body cannot be decoded: {_TOO_DEEP}") from None
    except ValueError as exc:
        raise Unstorable(f"the body cannot be decoded: {describe_error(exc)}") from exc


def _decode_directly(payload: bytes) -> Any:
    body = decode_json(payload)
    if payload.count(b"[") + payload.count(b"{") > limits.BODY_DEPTH:
        _check_depth(body)
    return body


def _check_exponents(payload: bytes, size: int) -> None:
    size += _DIGITS_WRITTEN * sum(1 for _ in _EXPONENT.finditer(payload))
    if size > limits.BODY_BYTES:
        raise Unstorable(
            f"the body has up to {size} bytes when its numbers are written out, more than"
            f" {limits.BODY_BYTES}"
        )


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(limits.BODY_DEPTH + 1):
        inner: list[Any] = []
        for one in level:
            if type(one) is dict:
                inner += one.values()
            elif type(one) is list:
                inner += one
        if not inner:
            return
        level = inner
    raise Unstorable(_TOO_DEEP)


def is_directly_decodable(body: bytes) -> bool:
    """
    Tell whether *body*, if it is JSON, can be stored as decoded, without `make_plain` and kombu.

    One regular expression for all three tests takes seven times as long.
    """
    return not (b'"__type__"' in body or _ESCAPED.search(body) or may_exceed_64_bits(body))


def _own_id(body_ms: int | None, nonce: bytes | None) -> str:
    """
    Make a message id with the body's time, for senders that give none.

    It is the same each time the message is written, so it does not depend on the clock.
    """
    random = int.from_bytes(os.urandom(NONCE_BYTES) if nonce is None else nonce, "big")
    number = min(max(body_ms or 0, 0), _LATEST_OF_ID) << 80 | random
    number = number & ~(0xF << 76) | 0x7 << 76
    return str(UUID(int=number & ~(0x3 << 62) | 0x2 << 62))


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if type(value) is not str or not value:
        raise Unstorable(f"{name} must be a non-empty string, not {_shown(value)}")
    return _bounded(name, value)


def _text_or_none(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if type(value) is not str:
        raise Unstorable(f"{name} must be a string, not {_shown(value)}")
    return _bounded(name, value)


def _bounded(name: str, value: str) -> str:
    if len(value) > MAX_TEXT:
        raise Unstorable(f"{name} has {len(value)} characters, more than {MAX_TEXT}")
    return value


def _shown(value: Any) -> str:
    return escape_unstorable(describe_value(value))
