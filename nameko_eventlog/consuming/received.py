"""
A message as it was received, and how to read it.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from kombu.compression import decompress
from kombu.message import Message
from kombu.serialization import loads, prepare_accept_content

from nameko_eventlog import limits


ATTEMPTS = "x-delivery-count"
"""The header in which a quorum queue says how often a message was delivered before."""

# kombu's own methods, by their names and content types
_DECOMPRESSORS: dict[str, Any] = {
    **dict.fromkeys(("gzip", "zlib", "application/x-gzip"), zlib.decompressobj),
    **dict.fromkeys(("bzip2", "bzip", "application/x-bz2"), bz2.BZ2Decompressor),
    **dict.fromkeys(("lzma", "xz", "application/x-lzma"), lzma.LZMADecompressor),
}


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """
    What the broker has delivered.

    Args:
        body: As it was sent: encoded, and maybe compressed.
        content_type: What it is encoded as.
        content_encoding: The character set of text.
        headers: Nameko's context among them, each prefixed with ``nameko.``.
        properties: AMQP's basic properties, without the headers: ``message_id``, ``type``,
            ``app_id``, ``timestamp``.
        exchange: Where it was published to.
        routing_key: The Nameko event type.
        redelivered: Whether somebody may have had it before.
        delivery_tag: What it is acknowledged by.
        nonce: What tells it from all others, if it bears no message id.
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

    @classmethod
    def read(cls, message: Any) -> ReceivedMessage:
        """
        Take what is needed from a message of py-amqp's, or of one of kombu's transports.
        """
        properties = dict(message.properties)
        headers = (
            properties.pop("application_headers", None) or _attribute(message, "headers") or {}
        )
        if isinstance(message, Message) and not message.errors:
            # kombu has decompressed it
            headers = {name: value for name, value in headers.items() if name != "compression"}
        info = message.delivery_info
        body = message.body
        return cls(
            body=body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body),
            content_type=properties.pop("content_type", None)
            or _attribute(message, "content_type"),
            content_encoding=properties.pop("content_encoding", None)
            or _attribute(message, "content_encoding"),
            headers=headers,
            properties=properties,
            exchange=info.get("exchange") or "",
            routing_key=info.get("routing_key") or "",
            redelivered=bool(info.get("redelivered")),
            delivery_tag=message.delivery_tag,
        )

    @property
    def attempts_before(self) -> int:
        """
        How often a consumer had it and did not acknowledge it; quorum queues count that.
        """
        count = self.headers.get(ATTEMPTS)
        return count if type(count) is int and count > 0 else 0

    def decode(self, accept: Collection[str]) -> Any:
        """
        Return the body, decoded.

        Args:
            accept: The content types, or the names of kombu's serializers, that may be decoded.

        Raises:
            Exception: What decompressing and decoding raise: it came from outside.
        """
        compression = self.headers.get("compression")
        body = _decompressed(self.body, compression) if compression else self.body
        return loads(
            body,
            self.content_type,
            self.content_encoding or "utf-8",
            accept=prepare_accept_content(accept),
        )


def _decompressed(body: bytes, method: str) -> Any:
    make = _DECOMPRESSORS.get(method)
    if make is None:  # one that somebody has registered with kombu
        return decompress(body, method)
    decompressor = make()
    found = decompressor.decompress(body, limits.BODY_BYTES + 1)
    if len(found) > limits.BODY_BYTES:
        raise ValueError(f"decompressed, the body has more than {limits.BODY_BYTES} bytes")
    if not decompressor.eof:
        raise ValueError("the compressed body ends too early")
    return found


def _attribute(message: Any, name: str) -> Any:
    # kombu's messages have them all, py-amqp's those that were sent
    return getattr(message, name, None)
