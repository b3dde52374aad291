"""
Write AMQP frames with fewer system calls and less encoding than py-amqp.

py-amqp encodes every frame and every property of every message. Here, parts that do not change
are encoded once, and the frames of many messages are written together. Like `frame_reading` this
uses undocumented parts of py-amqp, which the tests pin.
"""

from __future__ import annotations

import functools
import struct
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from amqp import Message as AMQPMessage
from amqp import spec
from amqp.exceptions import RecoverableConnectionError
from amqp.method_framing import frame_writer
from amqp.serialization import dumps

from nameko_eventlog.amqp import frame_reading
from nameko_eventlog.amqp.frame_reading import FRAME_END, FRAME_OVERHEAD
from nameko_eventlog.amqp.message import (
    Message,
    properties,
    sent_headers,
    shortstr,
    whole_seconds,
)
from nameko_eventlog.amqp.settings import ConnectionSettings, PublisherSettings


_MOST_KEPT = 1_000
"""The most entries of each cache."""
_MOST_KEPT_BYTES = 1 << 20
"""The most bytes of cached properties, which contain workers' context data."""

# The beginnings of frames: type, channel, size of the payload (AMQP 0-9-1, 4.2.3), and the first
# fields of the payload. `_BODY` begins with the end of the previous frame.
_METHOD = struct.Struct(">BHIHH")  # class, method
_HEADER = struct.Struct(">BHIHHQ")  # class, weight, size of the body (4.2.6.1)
_BODY = struct.Struct(">BBHI")
_HEADER_BEGIN = 12
_BASIC, _PUBLISH = 60, 40
_END = bytes([FRAME_END])


@functools.cache
def works() -> bool:
    """
    Tell whether this module works with the installed py-amqp.

    If not, py-amqp's documented methods are used, with twice the CPU time.
    """
    try:
        message = Message(b"{}", "application/json", "utf-8", {"a": ["b"]}, "paid", 1.0)
        settings = PublisherSettings(ConnectionSettings(""))
        encoded = PropertiesEncoder(settings, "foo").encode(message)
        gatherer, transport = FrameGatherer(), _Frames()
        connection = types.SimpleNamespace(frame_max=4096, bytes_sent=0)
        connection.frame_writer = gatherer.make(connection, transport)
        channel = types.SimpleNamespace(connection=connection, channel_id=1)
        publisher = Publisher(channel, "foo", "paid", gatherer)
        for body in (b"", message.body, b"a" * 10_000):
            theirs = AMQPMessage(
                body,
                application_headers=sent_headers(message, settings),
                **properties(message, settings, "foo"),
            )
            arguments = dumps("Bssbb", (0, "foo", "paid", False, False))
            with gatherer.batch():
                connection.frame_writer(1, 1, spec.Basic.Publish, arguments, theirs)
            with gatherer.batch():
                publisher.publish(body, encoded, False)
        written = transport.written
        is_same = written[::2] == written[1::2] and len(written) == connection.bytes_sent == 6
        return is_same and frame_reading.works()
    except Exception:
        return False


class _Frames:
    """
    A transport that records what is written.
    """

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, frames: Any) -> None:
        self.written.append(bytes(frames))


class FrameGatherer:
    """
    Write the frames of a batch with one system call.

    `make` is passed to `amqp.Connection` as ``frame_writer``.
    """

    def __init__(self) -> None:
        self._write: Callable[[Any], object] | None = None
        self._frames: list[bytes] | None = None

    def make(self, connection: Any, transport: Any) -> Any:
        """
        Return py-amqp's frame writer, which writes to this object.
        """
        self._frames = None  # not reset if a signal handler raised at the end of a batch
        self._write = transport.write
        return frame_writer(connection, self)

    def write(self, frames: Any) -> None:
        """
        Write *frames*, or collect them if a batch is open.

        Args:
            frames: Bytes, or a view of a buffer that py-amqp will overwrite.
        """
        if self._frames is not None:
            self._frames.append(bytes(frames))
        elif self._write is not None:
            self._write(frames)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """
        Collect the frames written in the ``with`` block, and write them at its end.
        """
        self._frames = []
        try:
            yield
        finally:
            gathered, self._frames = b"".join(self._frames), None
            if gathered and self._write is not None:
                self._write(gathered)


class PropertiesEncoder:
    """
    Encode the properties of messages. The part that a worker's messages share is encoded once.

    Args:
        settings: How to publish.
        service: The service's name.
    """

    def __init__(self, settings: PublisherSettings, service: str) -> None:
        self._settings = settings
        self._service = service
        # by the id of the headers, which are stored with it so that the id is not reused
        self._common: dict[tuple[int, str, str], tuple[Mapping[str, Any], bytes]] = {}
        self._common_bytes = 0
        self._tails: dict[tuple[int, str], bytes] = {}

    def encode(self, message: Message) -> bytes:
        """
        Encode the properties of *message*, including the headers.

        Raises:
            Exception: AMQP or RabbitMQ cannot represent a header's value.
        """
        timestamp, event_type = whole_seconds(message), message.event_type
        tail = self._tails.get((timestamp, event_type))
        if tail is None:
            if len(self._tails) >= _MOST_KEPT:
                self._tails.clear()
            tail = dumps("Lss", (timestamp, shortstr(event_type), shortstr(self._service)))
            self._tails[timestamp, event_type] = tail
        message_id = (message.message_id or "").encode()
        own: bytes = bytes((len(message_id),)) + message_id + tail
        key = (id(message.headers), message.content_type, message.content_encoding)
        known = self._common.get(key)
        if known is None:
            if len(self._common) >= _MOST_KEPT or self._common_bytes > _MOST_KEPT_BYTES:
                self._common.clear()
                self._common_bytes = 0
            whole = AMQPMessage(
                application_headers=sent_headers(message, self._settings),
                **properties(message, self._settings, self._service),
            )._serialize_properties()
            known = self._common[key] = message.headers, whole[: -len(own)]
            self._common_bytes += len(known[1])
        return known[1] + own


class Publisher:
    """
    Publish on a channel. The frame of the publish method is encoded once.

    Args:
        channel: A channel of py-amqp.
        exchange: The exchange's name.
        routing_key: The routing key.
        gatherer: Writes the frames.
    """

    def __init__(
        self, channel: Any, exchange: str, routing_key: str, gatherer: FrameGatherer
    ) -> None:
        self._channel = channel
        self._write = gatherer.write
        self._methods = [
            _publish_frame(channel.channel_id, exchange, routing_key, mandatory)
            for mandatory in (False, True)
        ]

    def publish(self, body: bytes, encoded_properties: bytes, mandatory: bool) -> None:
        """
        Send a message.

        Args:
            body: Its body.
            encoded_properties: Its properties, encoded by `PropertiesEncoder`.
            mandatory: Whether the broker returns it if no queue receives it.

        Raises:
            Exception: One of the connection's errors.
        """
        connection = self._channel.connection
        if connection is None:
            raise RecoverableConnectionError("the channel is closed")
        channel_id, size = self._channel.channel_id, len(body)
        payload = _HEADER_BEGIN + len(encoded_properties)
        pieces = [
            self._methods[mandatory],
            _HEADER.pack(2, channel_id, payload, _BASIC, 0, size),
            encoded_properties,
        ]
        most = connection.frame_max - FRAME_OVERHEAD
        for first in range(0, size, most):
            part = body[first : first + most]
            pieces += (_BODY.pack(FRAME_END, 3, channel_id, len(part)), part)
        pieces.append(_END)
        self._write(b"".join(pieces))
        connection.bytes_sent += 1  # else py-amqp sends unnecessary heartbeats


def _publish_frame(channel_id: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    arguments: bytes = dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
    size = 4 + len(arguments)
    return _METHOD.pack(1, channel_id, size, _BASIC, _PUBLISH) + arguments + _END
