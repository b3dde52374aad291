"""
Dead letters: messages that could not be handled, published again with the reason.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from nameko_eventlog.amqp.received import ATTEMPTS, ReceivedMessage
from nameko_eventlog.amqp.tables import check_finite, encode_table
from nameko_eventlog.describing import MAX_REASON


LEFT_OUT = "x-eventlog-left-out"
"""The header that lists the parts of the message that could not be sent again."""

MAX_HEADERS = 100_000
"""Bytes: all properties of a message must fit into one frame of at most 128 KiB."""

_TEXTS = ("message_id", "type", "app_id", "correlation_id")


def make_dead_letter(message: ReceivedMessage, reason: str) -> dict[str, Any]:
    """
    Make the dead letter for *message*.

    Returns:
        The arguments of kombu's ``publish``, except the destination.
    """
    added = _added(message, reason)
    headers, left_out = dict(message.headers), []
    headers.pop(ATTEMPTS, None)  # counted by the old queue: moved back, it starts again
    if not _can_be_sent(headers):
        left_out = [name for name in headers if not _can_be_sent({name: headers[name]})]
        for name in left_out:
            del headers[name]
    if not _can_be_sent({**headers, **added}, MAX_HEADERS):
        left_out += headers
        headers.clear()
        compression = message.headers.get("compression")
        if isinstance(compression, str) and len(compression) < 100:  # needed to read the body
            headers["compression"] = compression
    headers.update(added)
    if left_out:
        headers[LEFT_OUT] = _utf8(", ".join(map(str, left_out))[:MAX_REASON])
    letter = {
        "body": message.body,
        "content_type": _short(message.content_type) or "application/octet-stream",
        "content_encoding": _short(message.content_encoding) or "binary",
        "headers": headers,
        "delivery_mode": 2,
    }
    for name in _TEXTS:
        text = _short(message.properties.get(name))
        if text is not None:
            letter[name] = text
    timestamp = message.properties.get("timestamp")
    if isinstance(timestamp, datetime) or (type(timestamp) is int and 0 <= timestamp < 2**63):
        letter["timestamp"] = timestamp
    return letter


def make_least_dead_letter(message: ReceivedMessage, reason: str) -> dict[str, Any]:
    """
    Make the dead letter for a message of which only the body can be sent.

    Returns:
        The arguments of kombu's ``publish``, except the destination.
    """
    return {
        "body": message.body,
        "content_type": "application/octet-stream",
        "content_encoding": "binary",
        "headers": {**_added(message, reason), LEFT_OUT: "the headers and the properties"},
        "delivery_mode": 2,
    }


def _added(message: ReceivedMessage, reason: str) -> dict[str, Any]:
    return {
        "x-eventlog-reason": _utf8(reason[:MAX_REASON]),
        "x-eventlog-exchange": _utf8(message.exchange[:MAX_REASON]),
        "x-eventlog-routing-key": _utf8(message.routing_key[:MAX_REASON]),
    }


def _utf8(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _short(value: Any) -> str | None:
    """
    Return *value* if it is a short string of AMQP's, or None.
    """
    if isinstance(value, str) and len(value.encode(errors="surrogatepass")) <= 255:
        return value
    return None


def _can_be_sent(headers: dict[Any, Any], most: int | None = None) -> bool:
    try:
        check_finite(headers)
        size = len(encode_table(headers))
    except Exception:  # py-amqp cannot write everything that it can read
        return False
    return most is None or size <= most
