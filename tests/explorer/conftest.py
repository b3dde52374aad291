"""
A store with event logs in it, and the explorer over it.
"""

from __future__ import annotations

import base64
import json
import pathlib
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from http.client import HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from nameko_eventlog.explorer import EventLogExplorer
from nameko_eventlog.store.writing import EventLogWriter
from tests.rabbitmq import free_ports
from tests.store.conftest import Make, body, message


__all__ = ["message"]

Start = Callable[..., "Explorer"]
Stored = Callable[..., list[str]]


class Answer:
    """
    What the explorer has answered.
    """

    def __init__(self, response: HTTPResponse | HTTPError) -> None:
        self.status = response.status
        self.headers = response.headers
        self.content = response.read()

    @property
    def text(self) -> str:
        """
        The page.
        """
        return self.content.decode()


class Explorer:
    """
    An explorer that runs.
    """

    def __init__(self, address: str) -> None:
        self.address = address

    def get(
        self,
        path: str,
        method: str = "GET",
        credentials: tuple[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """
        Ask for a page.
        """
        request = Request(f"http://{self.address}{path}", method=method, headers=headers or {})
        if credentials is not None:
            told = base64.b64encode(":".join(credentials).encode()).decode()
            request.add_header("Authorization", f"Basic {told}")
        try:
            with urlopen(request, timeout=20) as response:
                return Answer(response)
        except HTTPError as exc:
            with exc:
                return Answer(exc)

    def connect(self) -> socket.socket:
        """
        Open a connection.
        """
        host, _, port = self.address.partition(":")
        return socket.create_connection((host, int(port)), 20)

    def send(self, sent: bytes) -> bytes:
        """
        Send bytes as they are, and return all that is answered until the connection ends.
        """
        with self.connect() as client:
            client.sendall(sent)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    """
    Read until the connection ends, in whichever way.
    """
    received = []
    with suppress(ConnectionError):
        while part := client.recv(65536):
            received.append(part)
    return b"".join(received)


@pytest.fixture
def uri(tmp_path: pathlib.Path) -> str:
    """
    A database of its own.
    """
    return f"sqlite:///{tmp_path}/eventlog.db"


@pytest.fixture
def stored(uri: str, message: Make) -> Callable[..., list[str]]:
    """
    Store bodies, a second apart, the last one now: ``stored({"event_type": "paid"}, ...)``.

    The message ids are returned.
    """

    def stored(*changes: dict[str, Any]) -> list[str]:
        now = datetime.now(timezone.utc)
        messages = []
        for number, change in enumerate(changes):
            moment = now - timedelta(seconds=len(changes) - 1 - number)
            at = f"{int(moment.timestamp() * 1000):012x}"
            messages.append(
                message(
                    json.dumps(body(**{"timestamp": moment.isoformat(), **change})).encode(),
                    message_id=f"{at[:8]}-{at[8:]}-7000-8000-{number:012x}",
                )
            )
        writer = EventLogWriter(uri, ["json"])
        assert [] == writer.write(messages)
        writer.close()
        return [one.properties["message_id"] for one in messages]

    return stored


@pytest.fixture
def explorer(uri: str, run_service: Any, memory_config: dict[str, Any]) -> Callable[..., Explorer]:
    """
    Start an explorer: ``explorer(username=..., password_hash=...)``.
    """

    def start(address: str | None = None, **section: Any) -> Explorer:
        address = address or f"127.0.0.1:{free_ports(1)[0]}"
        config = {
            **memory_config,
            "WEB_SERVER_ADDRESS": address,
            "EVENTLOG_STORE": {"uri": uri},
            "EVENTLOG_EXPLORER": section,
        }
        run_service(EventLogExplorer, config)
        return Explorer(address)

    return start
