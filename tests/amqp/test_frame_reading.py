"""
Reading frames, and what of py-amqp that leans on.
"""

import os
import socket
from typing import Any

import amqp
import pytest

from nameko_eventlog.amqp import frame_reading
from nameko_eventlog.amqp.frame_reading import BufferedReader


class TestBufferedReader:
    @pytest.fixture
    def pair(self) -> Any:
        """
        A connection whose reader is on one end of a pair of sockets, and the other end.
        """
        here, there = socket.socketpair()
        connection = amqp.Connection()
        transport = amqp.transport.TCPTransport("localhost:1", None)
        transport.sock, transport.connected = here, True
        transport._setup_transport()
        connection._transport = transport
        connection.handled = []
        connection._on_inbound_frame = connection.handled.append
        connection.reader = BufferedReader(connection)
        with here, there:
            yield connection, there

    FRAME = b"\x01\x00\x01\x00\x00\x00\x02ab\xce"

    def test_frames(self, pair: Any) -> None:
        """
        Whole frames are handled, so many at a time; half a frame waits for its other half.
        """
        connection, there = pair
        assert 0 == connection.reader.read(10)
        there.sendall(self.FRAME * 3 + self.FRAME[:4])

        assert [2, 1, 0] == [connection.reader.read(2) for _ in range(3)]
        there.sendall(self.FRAME[4:9])
        assert 0 == connection.reader.read(2)
        there.sendall(self.FRAME[9:])
        assert 1 == connection.reader.read(2)
        assert [(1, 1, b"ab")] * 4 == connection.handled

    def test_large(self, pair: Any) -> None:
        """
        A frame may be larger than what is read at once.
        """
        connection, there = pair
        body = os.urandom(100_000)
        there.sendall(b"\x03\x00\x01\x00\x01\x86\xa0" + body + b"\xce")

        assert 1 == connection.reader.read(2)
        assert [(3, 1, body)] == connection.handled

    def test_shared(self, pair: Any) -> None:
        """
        What py-amqp reads by itself comes out of the same buffer.
        """
        connection, there = pair
        there.sendall(self.FRAME * 2)
        assert 1 == connection.reader.read(1)

        assert (1, 1, b"ab") == connection.transport.read_frame()
        there.sendall(self.FRAME)
        assert (1, 1, b"ab") == connection.transport.read_frame()
        assert 0 == connection.reader.read(1)

    def test_end(self, pair: Any) -> None:
        """
        The end of the connection is an error, after the frames before it.
        """
        connection, there = pair
        there.sendall(self.FRAME)
        there.close()

        assert 1 == connection.reader.read(1)
        with pytest.raises(ConnectionResetError):
            connection.reader.read(1)

    def test_after_py_amqp(self, pair: Any) -> None:
        """
        What py-amqp read before it gave up waiting for the rest of a frame is not lost.
        """
        connection, there = pair
        there.sendall(self.FRAME[:9])
        connection.sock.settimeout(0.01)
        with pytest.raises(TimeoutError):
            connection.transport.read_frame()
        there.sendall(self.FRAME[9:] + self.FRAME)

        assert 2 == connection.reader.read(3)
        assert [(1, 1, b"ab")] * 2 == connection.handled

    def test_rubbish(self, pair: Any) -> None:
        """
        A frame that does not end as one says so.
        """
        connection, there = pair
        there.sendall(self.FRAME[:-1] + b"x")

        with pytest.raises(amqp.UnexpectedFrame, match="ends with 0x78, not with 0xce"):
            connection.reader.read(1)


class TestWorks:
    def test_works(self) -> None:
        """
        The installed py-amqp is one that the reader gets along with.
        """
        frame_reading.works.cache_clear()

        assert frame_reading.works()

    @pytest.mark.parametrize(
        ("where", "name", "value"),
        [
            (frame_reading, "TCPTransport", object),
            (frame_reading.TCPTransport, "read_frame", lambda transport: (8, 1, b"")),
        ],
    )
    def test_another_version(
        self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
    ) -> None:
        """
        One that does otherwise is found out, and read by what it documents.
        """
        monkeypatch.setattr(where, name, value)
        frame_reading.works.cache_clear()
        try:
            assert isinstance(frame_reading.open_reader(None), frame_reading.PlainReader)
        finally:
            frame_reading.works.cache_clear()
