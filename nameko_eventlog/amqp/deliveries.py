"""
Assemble deliveries from AMQP frames.

py-amqp takes four times as long. And if it cannot read a property, such as text that is not UTF-8,
its error ends the consumer, every time that the message is delivered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, ClassVar

from amqp import ChannelError
from amqp import Message as AMQPMessage
from kombu.transport.virtual import Message as VirtualMessage

from nameko_eventlog.amqp.decoding import UNREADABLE
from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.describing import describe_error


TABLE_WEIGHT = 32
"""Bytes of memory that a byte of a header table may take when it is decoded (27 measured)."""

_USUAL_PROPERTIES = 2048  # bytes: a call stack of eleven ids, and Nameko's other headers

_METHOD, _HEADER, _BODY = 1, 2, 3
_DELIVER = b"\x00\x3c\x00\x3c"
_content_header = struct.Struct(">HHQ")  # class, weight, size of the body (AMQP 0-9-1, 4.2.6.1)


class DeliveryAssembler:
    """
    Assemble the deliveries of one channel from the frames that a connection receives.

    Args:
        connection: The connection, whose own frame handler handles all other frames.
        channel: The number of the channel.
        on_delivery: Called with each delivery.
        on_refusal: Called with py-amqp's error when the broker closes another channel.
    """

    def __init__(
        self,
        connection: Any,
        channel: int,
        on_delivery: Callable[[ReceivedMessage], None],
        on_refusal: Callable[[ChannelError], None] | None = None,
    ) -> None:
        self._on_refusal = on_refusal
        self._connection = connection
        self._pass_on = connection.on_inbound_frame
        self._channel = channel
        self._on_delivery = on_delivery
        self._method: bytes | None = None
        self._header = b""
        self._missing = 0
        self._body: list[bytes] = []

    def handle(self, frame: tuple[int, int, bytes]) -> bool:
        """
        Handle a frame.

        Args:
            frame: Its type, its channel and its payload.

        Returns:
            Whether it completed a method or a delivery.

        Raises:
            Exception: py-amqp's error for the content of the frame.
        """
        kind, channel, payload = frame
        if channel != self._channel:
            return self._handle_other(frame)
        if kind == _METHOD and payload[:4] == _DELIVER:
            self._connection.bytes_recv += 1  # for the heartbeat check; py-amqp counts frames too
            self._method = payload
            return False
        if self._method is None:
            return bool(self._pass_on(frame))
        if kind == _HEADER:
            self._header = payload
            self._missing = _content_header.unpack_from(payload)[2]
        elif kind == _BODY:
            self._body.append(payload)
            self._missing -= len(payload)
        else:
            return bool(self._pass_on(frame))
        if self._missing > 0:
            return False
        self._deliver()
        return True

    def _handle_other(self, frame: tuple[int, int, bytes]) -> bool:
        try:
            return bool(self._pass_on(frame))
        except ChannelError as exc:
            if self._on_refusal is None:
                raise
            self._on_refusal(exc)
            return True

    def _deliver(self) -> None:
        method, body = self._method or b"", b"".join(self._body)
        self._method = None
        self._body.clear()
        _, at = _short_string(method, 4)  # the consumer's tag
        tag = int.from_bytes(method[at : at + 8], "big")
        redelivered = bool(method[at + 8] & 1)
        exchange, at = _short_string(method, at + 9)
        routing_key, at = _short_string(method, at)
        header = self._header
        properties = _read_properties(header)
        weight = len(body) + len(header)
        if len(header) > _USUAL_PROPERTIES:
            weight += TABLE_WEIGHT * len(header)
        self._on_delivery(
            ReceivedMessage(
                body=body,
                content_type=properties.pop("content_type", None),
                content_encoding=properties.pop("content_encoding", None),
                headers=properties.pop("application_headers", None) or {},
                properties=properties,
                exchange=exchange,
                routing_key=routing_key,
                redelivered=redelivered,
                delivery_tag=tag,
                weight=weight,
            )
        )


def _short_string(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode(errors="backslashreplace"), end


def _read_properties(header: bytes) -> dict[str, Any]:
    message = AMQPMessage()
    try:
        message.inbound_header(header)
    except Exception:  # py-amqp raises many types for malformed properties
        return {"application_headers": {UNREADABLE: header.hex()}}
    properties: dict[str, Any] = message.properties
    return properties


def takes_frames(connection: Any) -> bool:
    """
    Tell whether *connection* is py-amqp's. kombu's other transports have no frames.
    """
    return hasattr(connection, "on_inbound_frame")


def consume(
    channel: Any,
    queue: str,
    on_delivery: Callable[[ReceivedMessage], None],
    tag: str,
    *,
    no_ack: bool = False,
    on_refusal: Callable[[ChannelError], None] | None = None,
) -> None:
    """
    Begin to consume a queue.

    Args:
        channel: A channel of kombu's.
        queue: The queue's name.
        on_delivery: Called with each delivery; the body is as it was sent.
        tag: The consumer's tag.
        no_ack: Whether the broker expects no acknowledgements.
        on_refusal: Called with py-amqp's error when the broker closes another channel.

    Raises:
        Exception: The broker refused to let us consume.
    """
    _keep_compressed(channel)
    channel.basic_consume(
        queue=queue,
        no_ack=no_ack,
        callback=lambda message: on_delivery(ReceivedMessage.read(message)),
        consumer_tag=tag,
    )
    connection = channel.connection
    if takes_frames(connection):
        assembler = DeliveryAssembler(connection, channel.channel_id, on_delivery, on_refusal)
        # also handles frames that py-amqp reads while it waits for an answer
        connection.on_inbound_frame = assembler.handle


def _keep_compressed(channel: Any) -> None:
    """
    Leave messages of *channel* compressed, if its transport is one of kombu's own.

    kombu decompresses each message on arrival, however large it becomes.
    """
    message = getattr(channel, "Message", None)
    if isinstance(message, type) and issubclass(message, VirtualMessage):
        channel.Message = type("MessageAsSent", (_AsSent, message), {})


class _AsSent:
    """
    A mixin for kombu's message that keeps its body compressed, and accepts any headers.
    """

    errors: ClassVar[Any] = ("not decompressed",)  # kombu does not decompress if there are errors

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            dict(payload.get("headers") or ())
            super().__init__(payload, channel=channel, **kwargs)  # type: ignore[call-arg]
        except Exception as exc:
            readable = {**payload, "body": None, "headers": {UNREADABLE: describe_error(exc)}}
            super().__init__(readable, channel=channel, **kwargs)  # type: ignore[call-arg]
