"""
Deliveries out of frames.
"""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp.serialization import dumps
from kombu import Connection

from nameko_eventlog.amqp.decoding import UNREADABLE
from nameko_eventlog.amqp.deliveries import DeliveryAssembler
from nameko_eventlog.consuming import ReceivedMessage


def frames_of(
    body: bytes, pieces: int = 1, header: bytes | None = None, **properties: Any
) -> list[tuple[int, int, bytes]]:
    """
    Make the frames of a delivery on channel 1.
    """
    method = b"\x00\x3c\x00\x3c" + dumps("sLbss", ("tag", 7, True, "shop.events", "log_event"))
    if header is None:
        header = amqp.Message("", **properties)._serialize_properties()
    parts = [(1, 1, method), (2, 1, struct.pack(">HHQ", 60, 0, len(body)) + header)]
    size = -(-len(body) // pieces) or 1
    return parts + [(3, 1, body[at : at + size]) for at in range(0, len(body), size)]


class TestDeliveryAssembler:
    @pytest.fixture
    def received(self) -> list[ReceivedMessage]:
        """
        What was delivered.
        """
        return []

    @pytest.fixture
    def passed_on(self) -> list[Any]:
        """
        The frames that py-amqp got.
        """
        return []

    @pytest.fixture
    def assembler(self, received: Any, passed_on: Any) -> DeliveryAssembler:
        """
        One for channel 1.
        """
        connection = SimpleNamespace(bytes_recv=0, on_inbound_frame=passed_on.append)
        return DeliveryAssembler(connection, 1, received.append)

    @pytest.mark.parametrize("pieces", [1, 3])
    def test_delivery(self, assembler: Any, received: Any, passed_on: Any, pieces: int) -> None:
        """
        Method, header and bodies make a message.
        """
        for frame in frames_of(
            b"abcdefg",
            pieces,
            message_id="4711",
            content_type="text/plain",
            application_headers={"a": ["b"]},
        ):
            assembler.handle(frame)

        expected = ReceivedMessage(
            body=b"abcdefg",
            content_type="text/plain",
            content_encoding=None,
            headers={"a": ["b"]},
            properties={"message_id": "4711"},
            exchange="shop.events",
            routing_key="log_event",
            redelivered=True,
            delivery_tag=7,
        )
        assert [expected] == received
        assert [] == passed_on

    def test_no_body(self, assembler: Any, received: Any) -> None:
        """
        A message without a body is one; the next begins anew.
        """
        for frame in frames_of(b"") + frames_of(b"x"):
            assembler.handle(frame)

        assert [b"", b"x"] == [one.body for one in received]

    def test_other_frames(self, assembler: Any, received: Any, passed_on: Any) -> None:
        """
        Heartbeats, other methods and other channels are py-amqp's, in between as well.
        """
        others = [(8, 0, b""), (1, 1, b"\x00\x3c\x00\x50"), (1, 2, b"\x00\x3c\x00\x3c")]
        first, *rest = frames_of(b"x")
        for frame in [*others, first, others[0], others[2], *rest, others[1]]:
            assembler.handle(frame)

        assert [*others, others[0], others[2], others[1]] == passed_on
        assert 1 == len(received)

    def test_unreadable_properties(self, assembler: Any, received: Any) -> None:
        """
        What py-amqp cannot read is kept as it was sent.
        """
        header = struct.pack(">H", 0x8000) + b"\x02\xff\xfe"  # a content type that is no UTF-8
        for frame in frames_of(b"x", header=header):
            assembler.handle(frame)

        (message,) = received
        assert b"x" == message.body
        assert message.headers[UNREADABLE].endswith(header.hex())
        assert message.content_type is None


class TestReceivedMessage:
    def test_without_properties(self, rabbit_config: dict[str, Any]) -> None:
        """
        A message of py-amqp's that says nothing of itself can be read, too.
        """
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            channel = connection.connection.channel()
            queue = channel.queue_declare(exclusive=True).queue
            channel.basic_publish(amqp.Message("x"), routing_key=queue)
            message = None
            while message is None:
                message = channel.basic_get(queue)

        received = ReceivedMessage.read(message)
        assert (b"x", {}) == (received.body, received.headers)
