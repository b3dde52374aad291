"""
Fewer system calls, and less encoding, for the frames that py-amqp writes.

It leans on more of py-amqp than that documents, as `nameko_eventlog.frames` does for reading; the
tests of both pin what that is. py-amqp encodes every frame and every property; here they are
gathered and kept.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from amqp import Message as AMQPMessage
from amqp import spec
from amqp.exceptions import RecoverableConnectionError
from amqp.method_framing import frame_writer
from amqp.serialization import dumps

from nameko_eventlog import frames
from nameko_eventlog.compat import Settings
from nameko_eventlog.delivery.message import (
    Message,
    own_properties,
    properties,
    sent_headers,
    shortstr,
)


_MOST_KEPT = 1_000
"""Of each thing that is encoded once and kept."""


@functools.cache
def works() -> bool:
    """
    Tell whether the installed py-amqp is one that this module gets along with.

    Otherwise what it documents does, with twice the CPU.
    """
    try:
        written: list[list[bytes]] = []
        message = Message(b"{}", "application/json", "utf-8", {"a": ["b"]}, "paid", 1.0)
        settings = Settings("", None, None, 60, {}, "json", {}, None, None, None)
        theirs = AMQPMessage(
            "{}",
            application_headers=sent_headers(message, settings),
            **properties(message, settings, "foo"),
        )
        ours = _Content(message.body, PropertiesEncoder(settings, "foo").encode(message))
        for content in (theirs, ours):
            transport = _Frames()
            connection = types.SimpleNamespace(frame_max=4096, bytes_sent=0)
            gatherer = FrameGatherer()
            write = gatherer.make(connection, transport)
            with gatherer.batch():
                write(1, 1, spec.Basic.Publish, dumps("Bssbb", (0, "", "", 0, 0)), content)
            written.append(transport.written)
        return frames.works() and len(written[1]) == 1 and written[0] == written[1]
    except Exception:
        return False


class _Frames:
    """
    A transport that keeps what is written.
    """

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, frames: Any) -> None:
        self.written.append(bytes(frames))


class FrameGatherer:
    """
    Write the frames of a batch with one system call.

    `make` is for the argument ``frame_writer`` of `amqp.Connection`.
    """

    def __init__(self) -> None:
        self._write: Callable[[Any], object] | None = None
        self._frames: list[bytes] | None = None

    def make(self, connection: Any, transport: Any) -> Any:
        """
        Return py-amqp's own writer of frames, which writes here.
        """
        self._write = transport.write
        return frame_writer(connection, self)

    def write(self, frames: Any) -> None:
        """
        Write *frames*, or, in a batch, keep them.

        Args:
            frames: Bytes, or a view of a buffer that is used again.
        """
        if self._frames is not None:
            self._frames.append(bytes(frames))
        elif self._write is not None:
            self._write(frames)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """
        Gather what is written in the block, and write it at its end.
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
    Encode the properties of messages, what a worker's have in common once.

    Args:
        settings: How to publish.
        service: The service's name.
    """

    def __init__(self, settings: Settings, service: str) -> None:
        self._settings = settings
        self._service = service
        # by the identity of the headers, which are kept with it
        self._common: dict[tuple[int, str, str], tuple[Mapping[str, Any], bytes]] = {}
        self._tails: dict[tuple[int, str], bytes] = {}

    def encode(self, message: Message) -> bytes:
        """
        Encode the properties of *message*, headers among them.

        Raises:
            Exception: If AMQP or RabbitMQ does not know a header's value.
        """
        message_id, timestamp, event_type = own_properties(message)
        tail = self._tails.get((timestamp, event_type))
        if tail is None:
            if len(self._tails) >= _MOST_KEPT:
                self._tails.clear()
            tail = dumps("Lss", (timestamp, event_type, shortstr(self._service)))
            self._tails[timestamp, event_type] = tail
        own: bytes = dumps("s", (message_id,)) + tail
        key = (id(message.headers), message.content_type, message.content_encoding)
        known = self._common.get(key)
        if known is None:
            if len(self._common) >= _MOST_KEPT:
                self._common.clear()
            whole = AMQPMessage(
                application_headers=sent_headers(message, self._settings),
                **properties(message, self._settings, self._service),
            )._serialize_properties()
            known = self._common[key] = message.headers, whole[: -len(own)]
        return known[1] + own


class Publisher:
    """
    Publish on a channel, with the arguments of the method encoded once.

    Args:
        channel: A channel of py-amqp's.
        exchange: The exchange's name.
        routing_key: The routing key.
    """

    def __init__(self, channel: Any, exchange: str, routing_key: str) -> None:
        self._channel = channel
        self._arguments = [
            dumps("Bssbb", (0, exchange, routing_key, mandatory, False))
            for mandatory in (False, True)
        ]

    def publish(self, body: bytes, encoded_properties: bytes, mandatory: bool) -> None:
        """
        Send a message.

        Args:
            body: Its body.
            encoded_properties: As of `PropertiesEncoder`.
            mandatory: Whether the broker returns it if no queue takes it.

        Raises:
            Exception: One of the connection's errors.
        """
        connection = self._channel.connection
        if connection is None:
            raise RecoverableConnectionError("the channel is closed")
        connection.frame_writer(
            1,  # a method's frame, the content's behind it
            self._channel.channel_id,
            spec.Basic.Publish,
            self._arguments[mandatory],
            _Content(body, encoded_properties),
        )


class _Content:
    """
    What py-amqp's writer of frames needs of a message.
    """

    __slots__ = ("_encoded_properties", "body")

    def __init__(self, body: bytes, encoded_properties: bytes) -> None:
        self.body = body
        self._encoded_properties = encoded_properties

    def _serialize_properties(self) -> bytes:
        return self._encoded_properties
