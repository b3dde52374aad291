"""
Read many AMQP frames with one system call.

This module, `frame_writing` and `deliveries` use undocumented parts of py-amqp. Their tests pin
these parts.
"""

from __future__ import annotations

import functools
import socket
import ssl
import struct
import types
from typing import Any, Protocol

from amqp.exceptions import UnexpectedFrame
from amqp.transport import TCPTransport
from eventlet import patcher


_poll = patcher.original("select").poll

_frame = struct.Struct(">BHI")  # type, channel, size of the payload (AMQP 0-9-1, 4.2.3)
FRAME_END = 0xCE
FRAME_OVERHEAD = _frame.size + 1

# with a timeout of 0, py-amqp spins on a partial frame, and no other green thread runs; with any
# other timeout, eventlet runs others until the rest arrives
_AT_ONCE = 1e-6

_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_MOST_READ = 1 << 16
"""The most bytes read with one system call."""


@functools.cache
def works() -> bool:
    """
    Tell whether `BufferedReader` works with the installed py-amqp.
    """
    try:
        here, there = socket.socketpair()
        with here, there:
            transport = TCPTransport("localhost", None)
            transport.sock, transport.connected = here, True
            transport._setup_transport()
            handled: list[Any] = []
            reader = BufferedReader(
                types.SimpleNamespace(
                    sock=here, transport=transport, on_inbound_frame=handled.append
                )
            )
            there.sendall(_HEARTBEAT * 2)
            is_theirs = transport.read_frame() == (8, 0, b"")
            return is_theirs and reader.read(2) == 1 and handled == [(8, 0, b"")]
    except Exception:
        return False


def open_reader(connection: Any) -> Reader:
    """
    Return the fastest reader that works for *connection*.

    Args:
        connection: An open connection of py-amqp, with nothing left to read.
    """
    return BufferedReader(connection) if works() else PlainReader(connection)


class Reader(Protocol):
    """
    Passes received frames to py-amqp.
    """

    def read(self, limit: int) -> int:
        """
        Let py-amqp handle the frames that have arrived, without waiting for more.

        Args:
            limit: The most frames.

        Returns:
            How many were handled; if *limit*, more may be available.

        Raises:
            Exception: py-amqp's error for the content of a frame.
            ConnectionError: The connection has ended.
        """


class PlainReader:
    """
    A `Reader` that uses only documented parts of py-amqp.

    Args:
        connection: An open connection.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def read(self, limit: int) -> int:
        for number in range(limit):
            try:
                self._connection.drain_events(timeout=_AT_ONCE)
            except TimeoutError:
                return number
        return limit


class BufferedReader:
    """
    A `Reader` that reads from the socket in large chunks, and only when data has arrived.

    py-amqp reads each frame in three chunks, and runs the hub once when no data has arrived.

    Args:
        connection: An open connection, with nothing left to read.
    """

    def __init__(self, connection: Any) -> None:
        self._handle = connection.on_inbound_frame
        self._transport = connection.transport
        self._socket = connection.sock
        self._buffer = b""
        self._at = 0
        self._poll = _poll()
        self._poll.register(self._socket.fileno(), 1)  # POLLIN; errors are always reported
        self._receive = self._transport._quick_recv
        self._transport._quick_recv = self.receive

    def receive(self, size: int) -> bytes:
        """
        Return at most *size* bytes, and at least one unless the connection has ended.

        This replaces the socket's ``recv``.
        """
        at = self._at
        if at >= len(self._buffer):
            self._buffer = self._receive(max(size, _MOST_READ))
            at = 0
        self._at = at + size
        return self._buffer[at : at + size]

    def read(self, limit: int) -> int:
        transport = self._transport
        if transport._read_buffer:  # py-amqp has stopped in the middle of a frame
            self._buffer = bytes(transport._read_buffer) + self._buffer[self._at :]
            self._at = 0
            transport._read_buffer = b""
        for number in range(limit):
            frame = self._next()
            while frame is None:
                if not self._fill():
                    return number
                frame = self._next()
            self._handle(frame)
        return limit

    def _next(self) -> tuple[int, int, bytes] | None:
        buffer, at = self._buffer, self._at
        left = len(buffer) - at
        if left < FRAME_OVERHEAD:
            return None
        kind, channel, size = _frame.unpack_from(buffer, at)
        if left < size + FRAME_OVERHEAD:
            return None
        start = at + _frame.size
        end = start + size
        if buffer[end] != FRAME_END:
            raise UnexpectedFrame(f"a frame ends with {buffer[end]:#x}, not with {FRAME_END:#x}")
        self._at = end + 1
        return kind, channel, buffer[start:end]

    def _fill(self) -> bool:
        if isinstance(self._socket, ssl.SSLSocket):
            received = self._receive_tls()
            if received is None:
                return False
        elif self._poll.poll(0):
            received = self._receive(_MOST_READ)
        else:
            return False
        if not received:
            raise ConnectionResetError("the broker has closed the connection")
        self._buffer = self._buffer[self._at :] + received
        self._at = 0
        return True

    def _receive_tls(self) -> bytes | None:
        # poll() does not report data that is already decrypted, and data that it reports may be
        # part of a TLS record, or protocol data
        if not self._socket.pending() and not self._poll.poll(0):
            return None
        before = self._socket.gettimeout()
        self._socket.settimeout(_AT_ONCE)
        try:
            received: bytes = self._receive(_MOST_READ)
        except TimeoutError:
            return None
        finally:
            self._socket.settimeout(before)
        return received
