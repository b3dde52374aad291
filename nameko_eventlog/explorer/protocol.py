"""
The part of HTTP that the explorer accepts: requests without bodies, within limits.

Eventlet's server accepts more. Ambiguous requests, which a proxy could read differently, are
refused.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from http import HTTPStatus
from time import monotonic
from typing import Any

import eventlet
from nameko.web.server import HttpOnlyProtocol

from nameko_eventlog import limits
from nameko_eventlog.explorer.connections import Connection


HEADERS = {
    # only the package's own files are loaded and run, and forms only lead back here
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every answer, including refusals."""

CONNECTION = "nameko_eventlog.connection"
"""The key of the `Connection` in a request's environment."""

access_log = logging.getLogger("nameko_eventlog.explorer.access")

_REQUEST_LINE = re.compile(rb"[A-Z]{1,20} /[!-~]* HTTP/1\.[01]\r?\n")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MOST_LOGGED = 200
_UNREADABLE = (400, "The headers contain invalid characters.")


def log_access(host: str, method: str, path: str, status: int, size: int, seconds: float) -> None:
    """
    Log a request, on one line of ASCII.

    Args:
        host: The client's address, from the connection and not from the request.
        method: GET, usually.
        path: The path, without the query, which may contain personal data.
        status: The status of the answer.
        size: The size of the answer's body.
        seconds: The duration.
    """
    path = path[:_MOST_LOGGED].encode("unicode_escape").decode().replace('"', r"\x22")
    access_log.info('%s "%s %s" %d %d %.3f', host, method, path, status, size, seconds)


class _Refused(Exception):
    """
    A request is refused, with a status and a message.
    """


class _Head:
    """
    Reads the headers of a request within the limits.
    """

    def __init__(self, file: Any) -> None:
        self._file = file
        self._bytes = 0
        self._lines = 0

    def readline(self, size: int = -1) -> bytes:
        """
        Return the next line.

        Raises:
            _Refused: A limit is exceeded, or the line is invalid.
            ConnectionError: The client has gone in the middle of a request.
        """
        line: bytes = self._file.readline(limits.REQUEST_HEADER_BYTES + 1)
        if not line:
            raise ConnectionAbortedError
        self._bytes += len(line)
        if self._bytes > limits.REQUEST_HEADER_BYTES:
            raise _Refused(431, f"The headers exceed {limits.REQUEST_HEADER_BYTES:,} bytes.")
        if b"\r" in line[:-2]:  # a line break for Python, and not for proxies
            raise _Refused(*_UNREADABLE)
        if line not in (b"\r\n", b"\n"):
            self._lines += 1
        if self._lines > limits.REQUEST_HEADERS:
            raise _Refused(431, f"There are more than {limits.REQUEST_HEADERS} headers.")
        return line


class Protocol(HttpOnlyProtocol):
    """
    Nameko's protocol, with limits.

    Args:
        conn_state: The client's address, its socket, eventlet's state of it, and our `Connection`.
        server: eventlet's server.
    """

    rfile: Any
    _is_refused = False

    def __init__(self, conn_state: list[Any], server: Any) -> None:
        self._client: Connection = conn_state[3]
        self._has_answered = False
        super().__init__(conn_state, server)

    def handle_one_request(self) -> None:
        """
        Wait for a request, and answer it.
        """
        eventlet.sleep(0)  # pipelined requests must not block other clients
        if self._has_answered:
            self._client.wait(limits.IDLE_SECONDS)
        try:
            begun = self.rfile.peek(1)
        except OSError:
            begun = b""
        if not begun:
            self.close_connection = True
            return
        if self._has_answered:
            self._client.wait(limits.HEADER_SECONDS)
        self._began = monotonic()
        super().handle_one_request()
        self._has_answered = True
        if len(self.raw_requestline) >= self.server.url_length_limit:  # answered by eventlet
            log_access(self._client.host, "-", "-", HTTPStatus.REQUEST_URI_TOO_LONG, 0, 0.0)

    def parse_request(self) -> bool:
        """
        Read the request line and the headers, and refuse what no page needs.
        """
        if not _REQUEST_LINE.fullmatch(self.raw_requestline):
            self.send_error(400, "The request line must be METHOD /PATH HTTP/1.1, in ASCII.")
            return False
        self.rfile = _Head(self.rfile.fp)
        try:
            if not super().parse_request():
                return False
        except _Refused as exc:
            self.send_error(*exc.args)
            return False
        refusal = self._refusal()
        if refusal is not None:
            self.send_error(*refusal)
            return False
        self._client.work()
        return True

    def _refusal(self) -> tuple[int, str] | None:
        if self.headers.defects:
            return _UNREADABLE
        for name, value in self.headers.items():
            if not _HEADER_NAME.fullmatch(name) or re.search("[\x00\r\n]", value):
                return _UNREADABLE
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or (not hosts and self.request_version == "HTTP/1.1"):
            return 400, "A request needs exactly one Host header."
        lengths = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or any(length != "0" for length in lengths):
            return 413, "Requests must not have a body."
        return None

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """
        Refuse an invalid request, and close the connection, because it is unknown where the next
        request would begin.
        """
        self.close_connection = True
        status = HTTPStatus(code)
        content = f"{message or status.phrase}\n".encode("ascii", "backslashreplace")
        headers = {
            **HEADERS,
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(content)),
            "Connection": "close",
        }
        head = [f"HTTP/1.1 {code} {status.phrase}"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        self._client.send(len(content))
        self.wfile.write("\r\n".join([*head, "", ""]).encode("ascii") + content)
        self._is_refused = True
        seconds = monotonic() - self._began
        log_access(self._client.host, "-", "-", code, len(content), seconds)

    def finish(self) -> None:
        """
        Close both directions: if one cannot be flushed, the other's file would stay open.
        """
        try:
            super().finish()
            if self._is_refused:
                self._client.linger()
        finally:
            for file in (self.wfile, self.rfile):
                with suppress(OSError):
                    file.close()

    def get_environ(self) -> dict[str, Any]:
        """
        Return the WSGI environment of the request.
        """
        environ: dict[str, Any] = super().get_environ()
        environ[CONNECTION] = self._client
        return environ
