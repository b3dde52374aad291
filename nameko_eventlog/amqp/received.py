"""
A received message, and decoding its body.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from kombu.message import Message
from kombu.serialization import prepare_accept_content

from nameko_eventlog import limits
from nameko_eventlog.amqp import decoding
from nameko_eventlog.amqp.decoding import UNREADABLE
from nameko_eventlog.describing import MAX_REASON, describe_value


ATTEMPTS = "x-delivery-count"
"""The header in which a quorum queue counts earlier deliveries of a message."""


@dataclass(slots=True)
class ReceivedMessage:
    """
    A message that the broker has delivered.

    Args:
        body: The body as it was sent: encoded, and possibly compressed.
        content_type: The content type.
        content_encoding: The character set of text.
        headers: The headers, including Nameko's context with the prefix ``nameko.``; names that
            are not UTF-8 are bytes.
        properties: AMQP's basic properties without the headers, such as ``message_id``, ``type``,
            ``app_id`` and ``timestamp``.
        exchange: The exchange that it was published to.
        routing_key: The routing key: the Nameko event type.
        redelivered: Whether it may have been delivered before.
        delivery_tag: The tag by which it is acknowledged.
        nonce: A unique value, if it has no message id.
        weight: About how many bytes it takes in memory.
        decoded_weight: About how many bytes the decoded body takes, once it was decoded.
    """

    body: bytes
    content_type: str | None
    content_encoding: str | None
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    exchange: str
    routing_key: str
    redelivered: bool
    delivery_tag: int
    nonce: bytes | None = None
    weight: int = field(default=0, compare=False)
    decoded_weight: int = field(default=0, compare=False)

    @classmethod
    def read(cls, message: Any) -> ReceivedMessage:
        """
        Read a message of py-amqp, or of one of kombu's transports.
        """
        try:
            return cls._read(message)
        except Exception as exc:  # any part may be malformed, or of the wrong type
            reason = f"{type(exc).__name__}: {exc}"[:MAX_REASON]
            return cls(
                body=b"",
                content_type=None,
                content_encoding=None,
                headers={UNREADABLE: reason},
                properties={},
                exchange="",
                routing_key="",
                redelivered=False,
                delivery_tag=message.delivery_tag,
            )

    @classmethod
    def _read(cls, message: Any) -> ReceivedMessage:
        properties = dict(message.properties)
        headers = dict(
            properties.pop("application_headers", None) or _attribute(message, "headers") or {}
        )
        if isinstance(message, Message) and not message.errors:
            headers.pop("compression", None)  # kombu has decompressed it
        info = message.delivery_info
        body = message.body
        if isinstance(body, str):
            body = body.encode("utf-8", "surrogatepass")
        elif not isinstance(body, (bytes, bytearray, memoryview)):
            raise TypeError(f"the body must be bytes, not {describe_value(body)}")
        return cls(
            body=bytes(body),
            content_type=properties.pop("content_type", None)
            or _attribute(message, "content_type"),
            content_encoding=properties.pop("content_encoding", None)
            or _attribute(message, "content_encoding"),
            headers=headers,
            properties=properties,
            exchange=_text(info.get("exchange")),
            routing_key=_text(info.get("routing_key")),
            redelivered=bool(info.get("redelivered")),
            delivery_tag=message.delivery_tag,
            weight=len(body),
        )

    @property
    def attempts_before(self) -> int:
        """
        How often it was delivered before and not acknowledged, as counted by a quorum queue.
        """
        count = self.headers.get(ATTEMPTS)
        return count if type(count) is int and 0 < count < 2**63 else 0

    def decode(self, accept: Collection[str]) -> Any:
        """
        Return the decoded body.

        Args:
            accept: The content types, or the names of kombu's serializers, that may be decoded.

        Raises:
            Exception: Any error of decompressing or decoding: the body came from outside.
        """
        payload = self.payload(_content_types(tuple(accept)))
        content_type = self.content_type or ""
        self.decoded_weight = decoding.weight_of(payload, content_type)
        return decoding.load(payload, content_type, self.content_encoding)

    def payload(self, accept: Collection[str]) -> bytes:
        """
        Return the decompressed body.

        Args:
            accept: The content types that may be decoded.

        Raises:
            Exception: Its content type is not accepted, or it exceeds the limits.
        """
        if (
            self.content_type == decoding.JSON
            and self.content_encoding == "utf-8"
            and decoding.JSON in accept
            and len(self.body) <= limits.BODY_VALUES
            and not self.headers.get("compression")
        ):  # the usual case
            return self.body
        return decoding.payload_of(
            self.body, self.content_type, self.content_encoding, self.headers, accept
        )


@lru_cache(maxsize=16)
def _content_types(accept: tuple[str, ...]) -> frozenset[str]:
    return frozenset(prepare_accept_content(accept))


def _attribute(message: Any, name: str) -> Any:
    # kombu's messages have all attributes, py-amqp's only those that were sent
    return getattr(message, name, None)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else describe_value(value)
