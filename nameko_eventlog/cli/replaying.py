"""
Which lines of a file are event logs that may be published again, and why others are refused.

Outsiders can get text into logs: a user name with a line break, an extra of another logger, a JSON
object in a message. So only what our own logger has written is published, and only if it is an
event log: the exchange, the routing key and the properties must be those of an event log.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import IO, Any

import kombu.serialization
import msgspec

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.amqp.message import shortstr
from nameko_eventlog.amqp.tables import is_table
from nameko_eventlog.cli.settings import USAGE, Failure
from nameko_eventlog.delivery.marks import Marker
from nameko_eventlog.limits import (
    BODY_BYTES,
    REPLAY_LINE_BYTES,
    REPLAY_LINE_VALUES,
)


LOGGER = "nameko_eventlog.undelivered"

_SUFFIX = ".events"
_KEYS = frozenset({"exchange", "routing_key", "properties", "body", "body_encoding"})
_LOOKS_LIKE_ONE = re.compile(r'\{\s*\\*"exchange\\*"')
_BEGIN = re.compile(r'\{\s*"exchange"')
# the keys that formatters use for the logger's name, and for the message
_NAMES = ("logger", "name", "logger_name")
_MESSAGES = ("message", "msg", "event")
# before our logger's name only a time and the level: another word could belong to a message
_PREFIX = re.compile(
    rf"(?:[\W\d_]|(?<=\d)[TZ])*(?:ERROR)?[\W\d_]*{re.escape(LOGGER)}[^\w{{}}\"']*", re.I
)
_LONGEST_PREFIX = 500  # matching takes quadratic time
# RabbitMQ routes by the first two, and consumers decompress by the last
_ROUTING_HEADERS = frozenset({"cc", "bcc", "compression"})


class Refused(Exception):
    """
    A line looks like one of our event logs, and must not be published.
    """


@dataclass(frozen=True)
class Publication:
    """
    A message to publish.
    """

    body: bytes
    options: dict[str, Any]


class LineReader:
    """
    Reads lines of logs and of `spool export`.

    Args:
        marker: Verifies marks.
        routing_key: The configured routing key.
        serializer: The content type and the encoding of the configured serializer.
        unmarked: Whether to accept lines without a valid mark that have our logger's form.
    """

    def __init__(
        self, marker: Marker, routing_key: str, serializer: tuple[str, str], unmarked: bool
    ) -> None:
        self._marker = marker
        self._routing_key = routing_key
        self._content_types = {
            "application/json": {"utf-8"},
            serializer[0]: {serializer[1].lower(), "utf-8", "binary"},
        }
        self._unmarked = unmarked

    def read(self, line: str) -> Publication | None:
        """
        Return the message in *line*, or None if the line does not look like one.

        Raises:
            Refused: It looks like one, and must not be published; the text says why.
        """
        text = line.strip()
        if sum(map(text.count, ",[{")) > REPLAY_LINE_VALUES:
            if _LOOKS_LIKE_ONE.search(text) is None:
                return None
            raise Refused(f"it has more than REPLAY_LINE_VALUES ({REPLAY_LINE_VALUES}) values")
        try:
            found, doubt = _find(text)
            if found is None:
                return None
            if not self._marker.is_right(found):
                if doubt is not None:
                    raise Refused(doubt)
                if not self._unmarked:
                    raise Refused(
                        "it has no valid mark for this replay_key or, without a key, for this"
                        " broker password, so anyone may have written it; --unmarked publishes it"
                        " anyway"
                    )
            return self._checked(found)
        except Refused:
            raise
        except (ValueError, TypeError, RecursionError) as exc:
            if _LOOKS_LIKE_ONE.search(text) is None:
                return None
            raise Refused(f"it is not a complete JSON object ({exc})") from None

    def _checked(self, found: dict[str, Any]) -> Publication:
        missing, unknown = _KEYS - found.keys(), found.keys() - _KEYS - {"reason", "mark"}
        if missing or unknown:
            what = "lacks" if missing else "has unknown keys:"
            raise Refused(f"it {what} {', '.join(sorted(missing or unknown))}")
        exchange, properties = found["exchange"], found["properties"]
        if not isinstance(exchange, str) or not re.fullmatch(r"(?s).+\.events", exchange):
            raise Refused(f"the exchange {exchange!r} is not one of event logs: NAME{_SUFFIX}")
        if len(exchange.encode("utf-8", "replace")) > 255 or exchange.startswith("amq."):
            raise Refused(f"the exchange {exchange!r} is not one of event logs")
        if found["routing_key"] != self._routing_key:
            raise Refused(
                f"the routing key {found['routing_key']!r} is not the configured event_type,"
                f" {self._routing_key!r}"
            )
        if not isinstance(properties, dict):
            raise Refused("the properties are not an object")
        options = self._properties(properties, exchange)
        body = _body(found["body"], found["body_encoding"])
        if options["content_type"] == "application/json":
            _check_json(body)
        return Publication(
            body, {**options, "exchange": exchange, "routing_key": self._routing_key}
        )

    def _properties(self, given: dict[str, Any], exchange: str) -> dict[str, Any]:
        content_type, encoding = given.get("content_type"), given.get("content_encoding")
        encodings = self._content_types.get(str(content_type))
        if encodings is None or str(encoding).lower() not in encodings:
            raise Refused(
                f"the content type {content_type!r}, {encoding!r}, is not that of the configured"
                " serializer"
            )
        for name, value in given.items():
            is_allowed = _PROPERTIES.get(name)
            if is_allowed is None:
                raise Refused(f"event logs have no property {name}")
            if not is_allowed(value):
                raise Refused(f"event logs have no such value of the property {name}: {value!r}")
        app_id = given.get("app_id")
        if app_id != shortstr(exchange.removesuffix(_SUFFIX)):
            raise Refused(f"the app_id {app_id!r} is not the service of {exchange!r}")
        if not given.get("message_id"):
            raise Refused("it has no message_id")
        options = {name: value for name, value in given.items() if value is not None}
        options["headers"] = dict(given.get("headers") or {})
        if "expiration" in options:  # kombu expects seconds
            options["expiration"] = int(options["expiration"]) / 1000
        return options


def _shortstr(value: Any) -> bool:
    return isinstance(value, str) and value == shortstr(value)


def _headers(value: Any) -> bool:
    if value is None:
        return True
    return is_table(value) and not any(
        name.lower() in _ROUTING_HEADERS or name.lower().startswith("x-") for name in value
    )


_PROPERTIES = {
    "content_type": _shortstr,
    "content_encoding": _shortstr,
    "delivery_mode": lambda value: type(value) is int and value == 2,
    "message_id": _shortstr,
    "timestamp": lambda value: type(value) is int and 0 <= value < 2**63,
    "type": _shortstr,
    "app_id": _shortstr,
    "priority": lambda value: type(value) is int and 0 <= value <= 255,
    "expiration": lambda value: isinstance(value, str) and bool(re.fullmatch(r"\d{1,12}", value)),
    "headers": _headers,
}


def _body(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("utf-8", "base64"):
        raise Refused("the body is not text, or its encoding is unknown")
    try:
        body = text.encode()
        if encoding == "base64":
            body = base64.b64decode(body, validate=True)
    except ValueError as exc:
        raise Refused(f"the body cannot be read: {exc}") from None
    if len(body) > BODY_BYTES:
        raise Refused(f"the body has {len(body)} bytes, more than BODY_BYTES ({BODY_BYTES})")
    return body


def _check_json(body: bytes) -> None:
    try:
        value = decode_json(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise Refused(f"the body is not JSON: {exc}") from None
    if not isinstance(value, dict) or not isinstance(value.get("event_type"), str):
        raise Refused("the body is not an event log: it has no event_type")


def _find(text: str) -> tuple[dict[str, Any] | None, str | None]:
    """
    Find the message in a line.

    Returns:
        The message, or None; and why someone else may have written it, or None if the line has our
        logger's form.
    """
    if not text.startswith("{"):
        begin = _BEGIN.search(text)
        if begin is None:
            return None, None
        found, end = _decoder.raw_decode(text, begin.start())
        prefix = text[: begin.start()]
        if len(prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(prefix) or text[end:]:
            return found, f"it is part of another logger's line, or {LOGGER} is not before it"
        return found, None
    whole = _decoder.decode(text)
    if "exchange" in whole:
        return whole, None
    names = {str(whole[name]) for name in _NAMES if name in whole}
    if names != {LOGGER}:
        if _LOOKS_LIKE_ONE.search(text):
            raise Refused("it is part of another logger's line")
        return None, None
    messages = [whole[name] for name in _MESSAGES if isinstance(whole.get(name), str)]
    for message in messages:
        if _BEGIN.match(message):
            return _decoder.decode(message), None
    raise Refused(f"it is a line of {LOGGER} without a message")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_constant)


def numbered_lines(file: IO[bytes]) -> Iterator[tuple[int, str | None]]:
    """
    Yield lines with their numbers, and None for a line longer than `REPLAY_LINE_BYTES`.

    No more than that is kept in memory of such a line. Only a line feed ends a line.
    """
    for number in count(1):
        line = file.readline(REPLAY_LINE_BYTES)
        if not line:
            return
        is_whole = line.endswith(b"\n") or len(line) < REPLAY_LINE_BYTES
        yield number, line.decode("utf-8", "replace") if is_whole else None
        while line and not (is_whole or line.endswith(b"\n")):
            line = file.readline(REPLAY_LINE_BYTES)


def serializer_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return the content type and the content encoding of the configured serializer.

    Raises:
        Failure: There is no such serializer.
    """
    name = str(config.get("serializer", "json"))
    own = config.get("SERIALIZERS")
    if isinstance(own, Mapping) and isinstance(own.get(name), Mapping):
        return (
            str(own[name].get("content_type", f"application/x-{name}")),
            str(own[name].get("content_encoding", "utf-8")),
        )
    encoder = kombu.serialization.registry._encoders.get(name)
    if encoder is None:
        raise Failure(f"kombu has no serializer {name!r}", USAGE)
    return str(encoder.content_type), str(encoder.content_encoding)
