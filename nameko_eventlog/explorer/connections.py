"""
The connections of the explorer's clients, limited in number and time.

A client that sends half a request, or does not read an answer, occupies one connection until its
time is up. When all connections are in use, a new one replaces the one that has waited longest for
a request, as in nginx. So requests that never end do not keep other clients out.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
import struct
from contextlib import suppress
from time import monotonic
from typing import Any

import eventlet

from nameko_eventlog import limits


_log = logging.getLogger("nameko_eventlog.explorer")

# file descriptors kept for other uses than the explorer's connections
_FILES_KEPT = 64
_FEWEST = 8
_GRACE = 1.0
_LOG_EVERY = 60.0

_CLOSED = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK}
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 33\r\n\r\nToo many connections: try again.\n"
)


def connection_limit() -> int:
    """
    Return the maximum number of connections, given the process's limit of open files.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return limits.CONNECTIONS
    return min(limits.CONNECTIONS, max(_FEWEST, (files - _FILES_KEPT) // 2))


class Connection:
    """
    A client's connection, with a deadline for its current activity.

    Args:
        sock: The socket.
        address: The client's address and port.
    """

    def __init__(self, sock: Any, address: Any) -> None:
        self.socket = sock
        self.address = address
        self.host = str(address[0])
        self.is_cut = False
        self.wait(limits.HEADER_SECONDS)

    def wait(self, seconds: float) -> None:
        """
        Note that the connection waits for a request, or for the rest of one.
        """
        self.is_waiting = True
        self.since = monotonic()
        self.deadline = self.since + seconds

    def work(self) -> None:
        """
        Note that a request has been read: the answer has its own time limit.
        """
        self.is_waiting = False
        self.deadline = float("inf")

    def send(self, size: int) -> None:
        """
        Note that *size* bytes of an answer are being sent.
        """
        self.is_waiting = False
        seconds = limits.SENDING_SECONDS + size / limits.SENDING_RATE
        self.deadline = monotonic() + seconds

    def cut(self) -> None:
        """
        Shut the connection down, so that code that reads or writes it ends.
        """
        self.is_cut = True
        with suppress(OSError):
            # discard unsent data, which the system would keep otherwise
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)

    def linger(self) -> None:
        """
        Read what the client is still sending, for a short time, so that it gets the answer.

        If a socket with unread data is closed, the system resets the connection, and the client
        may lose an answer that it has not read yet: RFC 9112, section 9.6.
        """
        self.wait(limits.LINGER_SECONDS)
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
            while self.deadline > monotonic() and self.socket.recv(65_536):
                pass

    def close(self) -> None:
        """
        Close the socket.
        """
        with suppress(OSError):
            self.socket.close()


class Connections:
    """
    All connections of a server.

    Args:
        most: The maximum number.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._all: set[Connection] = set()
        self._logged: dict[str, float] = {}

    def accept(self, listener: Any) -> Connection | None:
        """
        Wait for a client.

        Returns:
            The connection, or None if it could not be accepted.

        Raises:
            OSError: *listener* is closed.
        """
        try:
            sock, address = listener.accept()
        except OSError as exc:
            # all other errors come from the new connection, because accept() reports its pending
            # errors: https://man7.org/linux/man-pages/man2/accept.2.html
            if exc.errno in _CLOSED:
                raise
            if exc.errno in _NO_ROOM:
                self._warn("the explorer cannot accept connections (%s); trying again", exc)
                self._evict(self._all)
                eventlet.sleep(limits.ACCEPT_PAUSE_SECONDS)
            return None
        connection = Connection(sock, address)
        if not self._has_room(connection.host):
            with suppress(OSError):
                sock.setblocking(False)
                sock.send(_BUSY)
            connection.close()
            return None
        self._all.add(connection)
        return connection

    def remove(self, connection: Connection) -> None:
        """
        Forget a connection that has ended.
        """
        self._all.discard(connection)
        connection.close()

    def cut_overdue(self) -> None:
        """
        Shut down the connections whose deadline has passed.
        """
        now = monotonic()
        for connection in self._all:
            if connection.deadline < now and not connection.is_cut:
                connection.cut()

    def _has_room(self, host: str) -> bool:
        all_open = [one for one in self._all if not one.is_cut]
        of_host = [one for one in all_open if one.host == host]
        if len(of_host) >= min(limits.CONNECTIONS_PER_ADDRESS, self._most // 2):
            self._warn(
                "the explorer has %d connections from %s, the limit for one address",
                len(of_host),
                host,
            )
            return self._evict(of_host)
        if len(all_open) >= self._most:
            self._warn("the explorer has %d connections, the limit", len(all_open))
            return self._evict(all_open)
        return True

    def _evict(self, candidates: Any) -> bool:
        """
        Shut down the connection that has waited longest for a request, if any is waiting.
        """
        waiting = [one for one in candidates if one.is_waiting and not one.is_cut]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.since)
        is_flood = len(waiting) > len(candidates) / 2
        if not is_flood and monotonic() - oldest.since < _GRACE:
            return False  # its request is probably on its way
        oldest.cut()
        return True

    def _warn(self, message: str, *args: Any) -> None:
        now = monotonic()
        if now >= self._logged.get(message, 0.0):
            self._logged[message] = now + _LOG_EVERY
            _log.warning(message, *args)
