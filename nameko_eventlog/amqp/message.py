"""
The message that carries an event log: its body and its AMQP properties.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from kombu.compression import get_encoder

from nameko_eventlog.amqp.settings import PublisherSettings
from nameko_eventlog.amqp.tables import check_finite


class Message(msgspec.Struct, gc=False, eq=False):
    """
    A serialised event log with its AMQP properties.

    Args:
        body: The body's bytes.
        content_type: The body's content type.
        content_encoding: The body's content encoding.
        headers: The message's headers: Nameko's context.
        event_type: The event type, for AMQP's ``type``.
        timestamp: When it happened, in seconds since the epoch.
        message_id: Its id, set before it is first published or stored.
    """

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, Any]
    event_type: str
    timestamp: float
    message_id: str | None = None


def shortstr(text: str) -> str:
    """
    Return *text* as an AMQP short string: at most 255 bytes of UTF-8, without lone surrogates.
    """
    if text.isascii() and len(text) <= 255:
        return text
    return text.encode("utf-8", "replace")[:255].decode("utf-8", "ignore")


def headers(message: Message, settings: PublisherSettings) -> dict[str, Any]:
    """
    Return the headers of *message*.
    """
    return {**settings.headers, **message.headers}


def sent_headers(message: Message, settings: PublisherSettings) -> dict[str, Any]:
    """
    Return the headers with which *message* is published, including that of the compression.

    Raises:
        ValueError: RabbitMQ cannot read one of them.
    """
    sent = headers(message, settings)
    check_finite(sent)
    if settings.compression is not None:
        sent["compression"] = get_encoder(settings.compression)[1]
    return sent


def whole_seconds(message: Message) -> int:
    """
    Return the timestamp of *message* as AMQP represents it, or 0 if it cannot.
    """
    try:
        seconds = int(message.timestamp)
    except (OverflowError, ValueError):  # an infinity or NaN in ``record.created``
        return 0
    return min(seconds, 2**63 - 1) if seconds > 0 else 0


def properties(message: Message, settings: PublisherSettings, service: str) -> dict[str, Any]:
    """
    Return the AMQP properties of *message*, without the headers.
    """
    found: dict[str, Any] = {
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "delivery_mode": 2,
        "message_id": message.message_id or "",
        "timestamp": whole_seconds(message),
        "type": shortstr(message.event_type),
        "app_id": shortstr(service),
    }
    if settings.priority is not None:
        found["priority"] = settings.priority
    if settings.expiration is not None:
        found["expiration"] = str(int(settings.expiration * 1000))
    return found


def as_mapping(
    message: Message,
    settings: PublisherSettings,
    service: str,
    exchange: str,
    routing_key: str,
) -> dict[str, Any]:
    """
    Return the whole of *message* as a mapping from which it can be published again.

    ``body`` is the body's text, or its base64 if ``body_encoding`` is ``base64``.
    """
    try:
        body, body_encoding = message.body.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        body, body_encoding = base64.b64encode(message.body).decode("ascii"), "base64"
    return {
        "exchange": exchange,
        "routing_key": routing_key,
        "properties": {
            **properties(message, settings, service),
            "headers": headers(message, settings),
        },
        "body": body,
        "body_encoding": body_encoding,
    }


def as_json(
    message: Message,
    settings: PublisherSettings,
    service: str,
    exchange: str,
    routing_key: str,
    reason: str,
    mark: Callable[[str], str] | None = None,
) -> str:
    """
    Return `as_mapping` and the reason as one line of JSON.

    Header values that JSON cannot represent become text; AMQP cannot represent most of them
    either.
    """
    whole = {**as_mapping(message, settings, service, exchange, routing_key), "reason": reason}
    try:
        line = json.dumps(whole, allow_nan=False)
    except Exception:
        whole["properties"]["headers"] = {
            _as_text(name): value if isinstance(value, str) else _as_text(value)
            for name, value in headers(message, settings).items()
        }
        line = json.dumps(whole, default=_as_text)
    if mark is None:
        return line
    try:
        return mark(line)
    except Exception:  # such as an OpenSSL without scrypt: better no mark than no line
        return line


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return repr(value)
    except Exception:
        return f"<{type(value).__name__}>"
