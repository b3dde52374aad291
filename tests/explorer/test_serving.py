"""
The explorer's server: what is in front of the pages.
"""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.wrappers import Request

from nameko_eventlog.explorer import EventLogExplorer
from nameko_eventlog.explorer.protocol import HEADERS
from nameko_eventlog.explorer.serving import page
from tests.explorer.conftest import Explorer, Start, Stored
from tests.rabbitmq import free_ports


class TestPages:
    def test_failure(
        self,
        uri: str,
        memory_config: dict[str, Any],
        run_service: Any,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        A page that fails is answered with one that says so, and not what; the log does.
        """

        class Failing(EventLogExplorer):
            """
            An explorer with a page more.
            """

            @page("/failing")
            def failing(self, request: Request) -> str:
                """
                Fail.
                """
                raise ValueError("what happened")

        address = f"127.0.0.1:{free_ports(1)[0]}"
        config = {**memory_config, "WEB_SERVER_ADDRESS": address, "EVENTLOG_STORE": {"uri": uri}}
        run_service(Failing, config)
        answer = Explorer(address).get("/failing")

        assert 500 == answer.status
        assert "Internal error" in answer.text
        assert "what happened" not in answer.text
        assert HEADERS["X-Content-Type-Options"] == answer.headers["X-Content-Type-Options"]
        assert "ValueError: what happened" in caplog.text

    def test_redirection(self, explorer: Start, stored: Stored) -> None:
        """
        Slashes too many in a path lead to the page that is meant, on this host, and never to what
        looks like another one.
        """
        stored()
        running = explorer()

        def ask(path: bytes) -> tuple[str, list[str]]:
            sent = b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            status, *head = running.send(sent).partition(b"\r\n\r\n")[0].decode().split("\r\n")
            return status.split()[1], [line for line in head if line.startswith("Location: ")]

        asset = "Location: http://localhost/static/explorer.js"
        assert ("308", [asset]) == ask(b"/static//explorer.js")
        assert ("200", []) == ask(b"//map")
        assert ("404", []) == ask(b"//evil.example/")
