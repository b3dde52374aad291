"""
A network between a service and its broker, that can be made a bad one.
"""

import contextlib
import socket
import struct
import time
from typing import Any

import eventlet
from eventlet import hubs, queue


class Proxy:
    """
    Pass TCP connections on to a port of this machine.

    Set ``frozen`` and nothing passes any more, ``delay`` and everything arrives so much later,
    ``dribble`` and it arrives byte by byte, ``refusing`` and new connections are cut, ``half``
    and the network freezes in the middle of the next answer.

    Args:
        port: Where to pass them on to.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[list[Any]] = []
        self.connections = 0
        self.frozen = False
        self.delay = 0.0
        self.dribble = False
        self.refusing = False
        self.half = False
        self._thread = eventlet.spawn(self._accept)

    def close(self) -> None:
        """
        Cut all connections, and take no more.
        """
        self._thread.kill()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """
        Reset all connections, one that is being passed on among them.
        """
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for one in pair:
                self._reset(one)

    @staticmethod
    def _reset(sock: Any) -> None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if sock.fileno() >= 0:
            # the poller forgets what is closed: who waits for it is told, or else waits for
            # ever in the hub, in the way of whoever gets the number next
            hubs.notify_opened(sock.fileno())
        sock.close()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self.refusing:
                self._reset(client)
                continue
            pair = [client]
            self._pairs.append(pair)
            try:
                server = socket.create_connection(self._target)
            except OSError:
                self._reset(client)
                continue
            if client.fileno() < 0:  # cut in the meantime
                self._reset(server)
                continue
            pair.append(server)
            self.connections += 1
            eventlet.spawn(self._pump, client, server, False)
            eventlet.spawn(self._pump, server, client, True)

    def _pump(self, source: Any, target: Any, to_client: bool) -> None:
        # One green thread reads what another passes on when its time has come, so that what
        # comes late does not come slowly.
        on_the_way: Any = queue.Queue(64)
        writer = eventlet.spawn(self._pass_on, on_the_way, source, target, to_client)
        try:
            while data := source.recv(65536):
                on_the_way.put((time.monotonic() + self.delay, data))
            on_the_way.put((time.monotonic() + self.delay, b""))
            writer.wait()
        except (OSError, EOFError):  # eventlet's word for a socket closed while read
            writer.kill()
        self._reset(source)
        self._reset(target)

    def _pass_on(self, on_the_way: Any, source: Any, target: Any, to_client: bool) -> None:
        while True:
            due, data = on_the_way.get()
            eventlet.sleep(max(0, due - time.monotonic()))
            while self.frozen:
                eventlet.sleep(0.01)
            if not data:
                return
            try:
                self._send(target, data, to_client)
            except OSError:
                self._reset(source)
                return

    def _send(self, target: Any, data: bytes, to_client: bool) -> None:
        if self.half and to_client:
            self.half, self.frozen = False, True
            target.sendall(data[:9])
            data = data[9:]
            while self.frozen:
                eventlet.sleep(0.01)
        if not (self.dribble and to_client):
            target.sendall(data)
            return
        for number in range(len(data)):
            target.sendall(data[number : number + 1])
            eventlet.sleep(0.001)
