"""
A sender that writes AMQP's frames itself: py-amqp's own client refuses what others send.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

import amqp

from tests.security.messages import WireMessage, short


METHOD, HEADER, BODY = 1, 2, 3
_WINDOW = 50  # messages whose confirms are waited for together


class Sender:
    """
    A connection that publishes messages as they are, and is made anew when the broker ends it.

    Args:
        uri: The broker.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._options = {
            "host": f"{parts.hostname}:{parts.port}",
            "userid": parts.username,
            "password": parts.password,
            "virtual_host": unquote(parts.path[1:]),
        }
        self._connection: Any = None
        self.sent = 0
        """How many messages were written."""
        self.refused = 0
        """How often the broker has closed the channel or the connection for one."""

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection.
        """
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None

    def send(self, exchange: str, routing_key: str, *messages: WireMessage) -> bool:
        """
        Publish messages.

        Returns:
            Whether the broker has confirmed them all; if not, it has taken some at the most.
        """
        self.sent += len(messages)
        try:
            connection, channel = self._connect()
            waiting = set(range(self._next_tag, self._next_tag + len(messages)))
            self._next_tag += len(messages)

            def confirmed(tag: int, multiple: bool) -> None:
                waiting.difference_update(
                    {one for one in waiting if one <= tag} if multiple else {tag}
                )

            channel.events["basic_ack"].add(confirmed)
            connection.transport.write(
                b"".join(
                    frames(one, exchange, routing_key, connection.frame_max) for one in messages
                )
            )
            # of some that it does not finish, the broker waits for the rest
            timeout = 0.3 if any(one.is_refused for one in messages) else 20
            while waiting:
                connection.drain_events(timeout=timeout)
            channel.events["basic_ack"].remove(confirmed)
        except (amqp.AMQPError, OSError):
            self.refused += 1
            self.close()
            return False
        return True

    def send_all(self, exchange: str, routing_key: str, messages: Iterable[WireMessage]) -> None:
        """
        Publish many: what the broker refuses by itself, the others together.
        """
        window: list[WireMessage] = []
        for one in messages:
            if not one.is_refused:
                window.append(one)
            if window and (one.is_refused or len(window) >= _WINDOW):
                self.send(exchange, routing_key, *window)
                window = []
            if one.is_refused:
                self.send(exchange, routing_key, one)
        if window:
            self.send(exchange, routing_key, *window)

    def _connect(self) -> tuple[Any, Any]:
        if self._connection is None:
            self._connection = amqp.Connection(**self._options)
            self._connection.connect()
            self._channel = self._connection.channel()
            self._channel.confirm_select()
            self._next_tag = 1
        return self._connection, self._channel


def frames(message: WireMessage, exchange: str, routing_key: str, frame_max: int) -> bytes:
    """
    Return the frames that publish a message on channel 1.
    """
    size = len(message.body) if message.size is None else message.size
    made = [
        _frame(
            METHOD,
            struct.pack(">HHH", 60, 40, 0)
            + short(exchange.encode())
            + short(routing_key.encode())
            + b"\0",
        ),
        _frame(HEADER, struct.pack(">HHQ", 60, 0, size) + message.properties),
    ]
    at, largest = 0, frame_max - 8
    for fragment in message.fragments:
        if fragment and at + fragment < len(message.body):
            made.append(_frame(BODY, message.body[at : at + fragment]))
            at += fragment
    for start in range(at, len(message.body), largest):
        made.append(_frame(BODY, message.body[start : start + largest]))
    return b"".join(made)


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"
