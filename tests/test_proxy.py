"""
The network that the tests make a bad one.
"""

import contextlib
import socket

import pytest
from eventlet import hubs

from tests.proxy import Proxy
from tests.waiting import wait_until


class TestCut:
    @pytest.mark.parametrize("end", ["cut", "close"])
    def test_nobody_waits(self, end: str) -> None:
        """
        Nobody goes on waiting for a socket that was cut: its number is free for others.
        """
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            proxy = Proxy(listener.getsockname()[1])
            client = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            server, _ = listener.accept()
            stack.enter_context(server)
            client.sendall(b"there")
            assert b"there" == server.recv(5)
            numbers = {sock.fileno() for pair in proxy._pairs for sock in pair}
            readers = hubs.get_hub().listeners[hubs.get_hub().READ]
            wait_until(lambda: numbers <= set(readers))

            getattr(proxy, end)()

            assert not numbers & set(readers)
            assert b"" == client.recv(1)
        proxy.close()
