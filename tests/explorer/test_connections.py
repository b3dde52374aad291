"""
The places for connections, and who gives way, on real sockets.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from nameko_eventlog import limits
from nameko_eventlog.explorer import connections
from nameko_eventlog.explorer.connections import Connection, Connections
from tests.explorer.conftest import read_all
from tests.waiting import wait_until


BUSY = b"HTTP/1.1 503 Service Unavailable\r\n"

Connect = Callable[..., tuple[socket.socket, "Connection | None"]]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """
    A socket that listens on loopback.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """
    Closes what is entered into it.
    """
    with ExitStack() as clients:
        yield clients


@pytest.fixture
def connect(listener: socket.socket, clients: ExitStack) -> Connect:
    """
    Connect to the listener and have it accepted: ``connect(places, 7)``, from 127.0.0.7.
    """

    def connect(places: Connections, source: int = 1) -> tuple[socket.socket, Connection | None]:
        address = listener.getsockname()
        client = clients.enter_context(
            socket.create_connection(address, 20, (f"127.0.0.{source}", 0))
        )
        connection = places.accept(listener)
        if connection is not None:
            clients.callback(connection.close)
        return client, connection

    return connect


class TestAccept:
    def test_accepted(self, connect: Connect) -> None:
        """
        A connection knows its client, and waits for the headers of a request.
        """
        client, connection = connect(Connections(10), 7)

        assert connection is not None
        assert ("127.0.0.7", *client.getsockname()[1:]) == connection.address
        assert "127.0.0.7" == connection.host
        assert connection.is_waiting
        assert limits.HEADER_SECONDS == connection.deadline - connection.since

    def test_closed(self, listener: socket.socket) -> None:
        """
        A listener that is closed is an error: there is nothing left to accept.
        """
        listener.close()
        with pytest.raises(OSError) as raised:
            Connections(10).accept(listener)

        assert errno.EBADF == raised.value.errno

    def test_no_files(
        self,
        connect: Connect,
        listener: socket.socket,
        clients: ExitStack,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        Where no file can be opened the connection that has waited longest gives way, which is
        logged once, and the next client is accepted when there is room again.
        """
        monkeypatch.setattr(limits, "ACCEPT_PAUSE_SECONDS", 0)
        places = Connections(10)
        first, held = connect(places)
        waiting = clients.enter_context(socket.create_connection(listener.getsockname(), 20))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            found = [places.accept(listener) for _ in range(2)]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

        assert [None, None] == found
        assert b"" == read_all(first)
        assert held is not None
        assert held.is_cut
        assert 1 == caplog.text.count("the explorer cannot accept connections ([Errno 24]")
        accepted = places.accept(listener)
        assert accepted is not None
        clients.callback(accepted.close)
        assert waiting.getsockname() == accepted.address


class TestRoom:
    def test_limit_of_all(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        """
        Where most connections wait for a request, the one that has waited longest gives way.
        """
        places = Connections(4)
        held = [connect(places, number) for number in range(1, 5)]
        _, newest = connect(places, 9)
        _, newer = connect(places, 10)

        assert newest is not None
        assert newer is not None
        assert [True, True, False, False] == [one.is_cut for _, one in held if one]
        assert b"" == read_all(held[0][0])
        assert 1 == caplog.text.count("the explorer has 4 connections, the limit")

    def test_limit_of_address(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        """
        One address has half of the places, and its own connections give way.
        """
        places = Connections(8)
        _, other = connect(places, 2)
        held = [connect(places, 1)[1] for _ in range(4)]
        _, newest = connect(places, 1)

        assert other is not None
        assert newest is not None
        assert [True, False, False, False] == [one.is_cut for one in held if one]
        assert not other.is_cut
        said = "the explorer has 4 connections from 127.0.0.1, the limit for one address"
        assert said in caplog.text

    def test_all_answered(self, connect: Connect) -> None:
        """
        Connections whose requests are being answered do not give way: the new one is told to come
        again, and takes no place.
        """
        places = Connections(4)
        held = [connect(places, number) for number in range(1, 5)]
        for _, connection in held:
            assert connection is not None
            connection.work()
        client, none = connect(places, 9)

        assert none is None
        head, _, content = read_all(client).partition(b"\r\n\r\n")
        assert head.startswith(BUSY)
        assert b"Retry-After: 5" in head.split(b"\r\n")
        assert b"Too many connections: try again.\n" == content
        assert [False] * 4 == [one.is_cut for _, one in held if one]
        assert held[0][1] is not None
        places.remove(held[0][1])
        assert connect(places, 9)[1] is not None

    def test_grace(self, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        The few that wait while others are answered have a moment for their request.
        """
        places = Connections(4)
        held = [connect(places, number)[1] for number in range(1, 5)]
        for connection in held[1:]:
            assert connection is not None
            connection.work()

        assert connect(places, 9)[1] is None
        monkeypatch.setattr(connections, "_GRACE", 0)
        assert connect(places, 9)[1] is not None
        assert [True, False, False, False] == [one.is_cut for one in held if one]


class TestOverdue:
    def test_cut(self, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Connections whose time is up end; those whose request is being answered have time.
        """
        monkeypatch.setattr(limits, "SENDING_SECONDS", 0)
        places = Connections(10)
        held = [connect(places) for _ in range(4)]
        waiting, working, sending, slow = (one for _, one in held)
        assert waiting is not None
        assert working is not None
        assert sending is not None
        assert slow is not None
        waiting.wait(0)
        working.wait(0)
        working.work()
        sending.send(limits.SENDING_RATE * 60)
        slow.send(0)

        def is_cut() -> bool:
            places.cut_overdue()
            return waiting.is_cut and slow.is_cut

        wait_until(is_cut)
        assert [False, False] == [working.is_cut, sending.is_cut]
        assert b"" == read_all(held[0][0]) == read_all(held[3][0])

    def test_reset(self, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
        """
        To end a connection that has ended already is no error.
        """
        caplog.set_level(logging.DEBUG)
        client, connection = connect(Connections(10))
        assert connection is not None
        client.close()
        for _ in range(2):
            connection.cut()
            connection.close()

        assert connection.is_cut
        assert [] == caplog.records
