"""
Requests that no browser sends, and clients that keep a connection waiting.
"""

from __future__ import annotations

import logging
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nameko_eventlog import limits
from nameko_eventlog.explorer.protocol import HEADERS, log_access
from tests.explorer.conftest import Start, Stored, read_all
from tests.waiting import wait_until


ACCESS = "nameko_eventlog.explorer.access"
GET = b"GET / HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
CLOSE = b"Connection: close\r\n"

REQUEST_LINE = "The request line must be METHOD /PATH HTTP/1.1, in ASCII."
UNREADABLE = "The headers contain invalid characters."
BODY = "Requests must not have a body."
ONE_HOST = "A request needs exactly one Host header."

REFUSED = [
    (b"GET /\r\n\r\n", 400, REQUEST_LINE),  # HTTP/0.9
    (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400, REQUEST_LINE),
    (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400, REQUEST_LINE),
    (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, REQUEST_LINE),
    (GET + HOST + b"Transfer-Encoding : chunked\r\n\r\n", 400, UNREADABLE),
    (GET + HOST + b"no header\r\n\r\n", 400, UNREADABLE),
    (GET + HOST + b"X: a\x00b\r\n\r\n", 400, UNREADABLE),
    (GET + HOST + b"X: a\rY: b\r\n\r\n", 400, UNREADABLE),
    (GET + HOST + b"X: a\r\n b\r\n\r\n", 400, UNREADABLE),
    (GET + b"\r\n", 400, ONE_HOST),
    (GET + HOST + HOST + b"\r\n", 400, ONE_HOST),
    (GET + HOST + b"Content-Length: 5\r\n\r\nhello", 413, BODY),
    (GET + HOST + b"Content-Length: 0\r\nContent-Length: 9\r\n\r\n", 413, BODY),
    (GET + HOST + b"Transfer-Encoding: chunked\r\n\r\n", 413, BODY),
    (
        GET + HOST + b"X: y\r\n" * limits.REQUEST_HEADERS + b"\r\n",
        431,
        f"There are more than {limits.REQUEST_HEADERS} headers.",
    ),
    (
        GET + HOST + b"X: " + b"y" * limits.REQUEST_HEADER_BYTES,
        431,
        f"The headers exceed {limits.REQUEST_HEADER_BYTES:,} bytes.",
    ),
]


def accessed(caplog: pytest.LogCaptureFixture) -> list[str]:
    """
    Return what the access log says, without how long the requests took.
    """
    return [one.getMessage().rpartition(" ")[0] for one in caplog.records if one.name == ACCESS]


class TestRefused:
    def test_refused(
        self, explorer: Start, stored: Stored, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        What is ambiguous or too large is refused with the reason and the usual headers, on one
        line of the log, and the connection ends.
        """
        stored()
        caplog.set_level(logging.INFO, ACCESS)
        running = explorer()
        for sent, status, reason in REFUSED:
            head, _, content = running.send(sent).partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")

            assert (sent, [str(status)]) == (sent, re.findall(r"^HTTP/1\.1 (\d+) ", lines[0]))
            assert (sent, f"{reason}\n") == (sent, content.decode())
            assert {f"{name}: {value}" for name, value in HEADERS.items()} <= set(lines)
            assert f"Content-Length: {len(content)}" in lines
            assert "Connection: close" in lines

        assert [
            f'127.0.0.1 "- -" {status} {len(reason) + 1}' for _, status, reason in REFUSED
        ] == accessed(caplog)

    def test_long_line(
        self, explorer: Start, stored: Stored, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        A request line beyond the limit is refused, and logged like the others.
        """
        stored()
        caplog.set_level(logging.INFO, ACCESS)
        sent = b"GET /" + b"x" * limits.REQUEST_LINE_BYTES

        assert explorer().send(sent).startswith(b"HTTP/1.0 414 ")
        assert ['127.0.0.1 "- -" 414 0'] == accessed(caplog)

    def test_taken(self, explorer: Start, stored: Stored) -> None:
        """
        What is odd and harmless is answered: HTTP/1.0 without a host, an empty body that is
        announced, offers to speak another protocol.
        """
        stored()
        running = explorer()
        for sent in (
            b"GET / HTTP/1.0\r\n\r\n",
            GET + HOST + CLOSE + b"Content-Length: 0\r\n\r\n",
            GET + HOST + CLOSE + b"Upgrade: websocket\r\n\r\n",
        ):
            assert (sent, b"HTTP/1.1 200 OK") == (sent, running.send(sent).partition(b"\r\n")[0])


class TestWaiting:
    def test_kept_open(
        self, explorer: Start, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A connection serves one request after the other, and ends when no further one comes within
        the limit.
        """
        monkeypatch.setattr(limits, "IDLE_SECONDS", 0.2)
        stored()
        with explorer().connect() as client:
            for _ in range(2):
                client.sendall(b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            client.settimeout(limits.HEADER_SECONDS)
            assert b"" == read_all(client)

    @pytest.mark.parametrize("sent", [b"", b"GET / HT", GET + HOST])
    def test_half_request(
        self, explorer: Start, stored: Stored, monkeypatch: pytest.MonkeyPatch, sent: bytes
    ) -> None:
        """
        Half a request is waited for no longer than the limit, and is not answered.
        """
        monkeypatch.setattr(limits, "HEADER_SECONDS", 0.2)
        stored()
        running = explorer()
        with running.connect() as client:
            client.sendall(sent)
            client.settimeout(5)
            assert b"" == read_all(client)

        assert 200 == running.get("/").status

    def test_gone(self, explorer: Start, stored: Stored, caplog: pytest.LogCaptureFixture) -> None:
        """
        A client that goes in the middle of a request is no error.
        """
        stored()
        running = explorer()
        for sent in (b"", GET[:8], GET, GET + HOST, GET + HOST + b"\r\n"):
            with running.connect() as client:
                client.sendall(sent)
        assert 200 == running.get("/").status
        assert [] == [one for one in caplog.records if one.levelno >= logging.ERROR]


class TestLogAccess:
    @given(st.text())
    @example("/" + "x" * 5_000)
    @example('/a"b\\x\n\x1b[31m')
    @example("/\ud800")
    def test_one_line(self, path: str) -> None:
        """
        Whatever path was asked for, the log has a short line of ASCII, whose quotes are two.
        """
        lines: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger(ACCESS)
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            log_access("127.0.0.1", "GET", path, 404, 12, 0.25)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)

        (line,) = lines
        assert line.isascii()
        assert line.isprintable()
        assert 2 == line.count('"')
        assert len(line) < 2_100
        assert line.startswith('127.0.0.1 "GET ')
        assert line.endswith('" 404 12 0.250')


class TestOverdue:
    def test_slow_reader(
        self, explorer: Start, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Who does not take an answer loses the connection; meanwhile large answers have an end, and
        small ones do not.
        """
        monkeypatch.setattr(limits, "SENDING_SECONDS", 2)
        monkeypatch.setattr(limits, "SENDING_RATE", 100 << 20)
        monkeypatch.setattr(limits, "LARGE_ANSWERS", 1)
        (large,) = stored({"data": {"text": "x" * (8 << 20)}})
        path = f"/event-log.json?id={large}"
        running = explorer()
        with running.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
            assert b"H" == client.recv(1)  # and no more for now
            busy = running.get(path)
            assert 200 == running.get("/").status
            wait_until(lambda: running.get(path).status == 200, interval=0.1)
            assert len(read_all(client)) < 8 << 20

        assert 503 == busy.status
        assert "5" == busy.headers["Retry-After"]
        assert "Too many large answers are being sent" in busy.text
