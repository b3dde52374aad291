"""
The explorer against clients that mean harm: in a process of its own, with few files.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import yaml
from nameko.exceptions import ConfigurationError
from werkzeug.security import generate_password_hash

from nameko_eventlog import limits
from nameko_eventlog.explorer import connections
from nameko_eventlog.explorer.access import read_credentials
from nameko_eventlog.explorer.config import parse_explorer_config
from nameko_eventlog.explorer.pacing import Pace
from nameko_eventlog.explorer.protocol import HEADERS
from nameko_eventlog.store.writing import EventLogWriter
from tests.rabbitmq import free_ports
from tests.store.conftest import body, message
from tests.waiting import wait_until


__all__ = ["message"]

FILES = 100
# cheap, but for the test of what a hash costs
CREDENTIALS = {
    "username": "ops",
    "password_hash": generate_password_hash("secret", "pbkdf2:sha256:1000"),
}
LARGE_ID = "0193a1b2-0000-7000-8000-000000000001"


class Explorer:
    """
    ``nameko run`` with the explorer, some limits changed.

    Args:
        folder: Where its files are put.
        uri: The database's address.
        section: ``EVENTLOG_EXPLORER``.
        changed: Limits that are other than usual.
    """

    def __init__(
        self, folder: pathlib.Path, uri: str, section: dict[str, Any], **changed: float
    ) -> None:
        self.port = free_ports(1)[0]
        self._log = folder / "log"
        config = {
            "AMQP_URI": "memory://",
            "WEB_SERVER_ADDRESS": f"127.0.0.1:{self.port}",
            "EVENTLOG_STORE": {"uri": uri},
            "EVENTLOG_EXPLORER": section,
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        lines = ["from nameko_eventlog import limits"]
        lines += [f"limits.{name} = {value!r}" for name, value in changed.items()]
        lines += ["from nameko_eventlog.explorer import EventLogExplorer"]
        (folder / "limited_explorer.py").write_text("\n".join(lines))
        command = [sys.executable, "-m", "nameko", "run", "--config", "config.yaml"]
        command.append("limited_explorer")
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh", *command],
                cwd=folder,
                env={**os.environ, "PYTHONWARNINGS": "ignore"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(lambda: "listens on" in self.log, timeout=60)
        except BaseException:
            self.close()
            raise

    @property
    def log(self) -> str:
        """
        What it has logged.
        """
        return self._log.read_bytes().decode("latin-1")

    @property
    def sockets(self) -> int:
        """
        How many sockets it has open.
        """
        opened = 0
        for file in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):  # just closed
                opened += os.readlink(file).startswith("socket:")
        return opened

    @property
    def peak(self) -> int:
        """
        The most memory that it has had, in MiB.
        """
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) >> 10

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """
        Open a connection.
        """
        return socket.create_connection(("127.0.0.1", self.port), 20, (source, 0))

    def send(self, sent: bytes, source: str = "127.0.0.1") -> bytes:
        """
        Send bytes, and return all that is answered until the connection ends.
        """
        received = []
        with self.connect(source) as client:
            try:
                client.sendall(sent)
                while part := client.recv(65536):
                    received.append(part)
            except ConnectionError:  # refused before everything has been sent
                pass
        return b"".join(received)

    def get(self, path: str = "/", source: str = "127.0.0.1", **headers: str) -> bytes:
        """
        Ask for a page as the operator does.
        """
        given = {"Host": "localhost", "Authorization": authorization("secret"), **headers}
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
        head = "\r\n".join([f"GET {path} HTTP/1.1", *lines, "Connection: close", "", ""])
        return self.send(head.encode(), source)

    def status(self, *args: Any, **headers: str) -> int:
        """
        Ask for a page, and return the status alone.
        """
        return status_of(self.get(*args, **headers))

    def close(self) -> None:
        """
        End it.
        """
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


Start = Callable[..., Explorer]


def authorization(password: str, username: str = "ops") -> str:
    """
    Return the header of HTTP's basic authentication.
    """
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def status_of(answer: bytes) -> int:
    """
    Return the status of an answer; 0, if there is none.
    """
    match = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    return int(match[1]) if match else 0


@pytest.fixture
def uri(tmp_path: pathlib.Path, message: Any) -> str:
    """
    A database with one event log of 3 MiB.
    """
    uri = f"sqlite:///{tmp_path}/eventlog.db"
    writer = EventLogWriter(uri, ["json"])
    large = body(data={"text": "x" * (3 << 20)})
    assert [] == writer.write([message(json.dumps(large).encode(), message_id=LARGE_ID)])
    writer.close()
    return uri


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explorer]:
    """
    An explorer with a password that waits less for clients, for all tests that leave it as it was.
    """
    folder = tmp_path_factory.mktemp("shared")
    uri = f"sqlite:///{folder}/eventlog.db"
    writer = EventLogWriter(uri, ["json"])
    assert [] == writer.write([])
    writer.close()
    changed = {"HEADER_SECONDS": 3, "IDLE_SECONDS": 1, "PASSWORD_PAUSE_SECONDS": 0.05}
    with ExitStack() as ends:
        running = Explorer(folder, uri, CREDENTIALS, **changed)
        ends.callback(running.close)
        assert 200 == running.status()
        yield running


@pytest.fixture
def explorer(tmp_path: pathlib.Path, uri: str) -> Iterator[Start]:
    """
    Start an explorer with a password: ``explorer(HEADER_SECONDS=1)``.
    """
    with ExitStack() as ends:

        def start(
            section: dict[str, Any] | None = None, database: str | None = None, **changed: float
        ) -> Explorer:
            started = Explorer(
                tmp_path, database or uri, CREDENTIALS if section is None else section, **changed
            )
            ends.callback(started.close)
            return started

        yield start


class TestConnections:
    @pytest.mark.parametrize("addresses", [1, 120])
    def test_half_requests(self, shared: Explorer, addresses: int) -> None:
        """
        120 half-sent requests, of one address or of many, in a process that may open 100 files:
        it goes on, and answers at once.
        """
        assert 200 == shared.status()
        before = shared.sockets
        with ExitStack() as clients:
            for number in range(120):
                client = clients.enter_context(shared.connect(f"127.0.2.{number % addresses + 1}"))
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            began = time.monotonic()
            assert 200 == shared.status()
            assert time.monotonic() - began < 5
        wait_until(lambda: shared.sockets == before)

        assert shared.process.poll() is None
        limit = "connections, the limit" if addresses > 1 else "the limit for one address"
        assert 1 == shared.log.count(limit)

    def test_no_files(self, explorer: Start) -> None:
        """
        Where no file can be opened, connections wait, the log says so once, and they are answered
        as soon as there is room.
        """
        running = explorer()
        assert 200 == running.status()
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (3, FILES))
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(running.status)
            wait_until(lambda: "the explorer cannot accept connections" in running.log)
            time.sleep(3 * limits.ACCEPT_PAUSE_SECONDS)
            assert not waiting.done()
            resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (FILES, FILES))
            assert 200 == waiting.result(20)

        assert 1 == running.log.count("the explorer cannot accept connections")

    @pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
    def test_slow_headers(self, shared: Explorer, sent: bytes) -> None:
        """
        Headers that come byte by byte, or not at all, are waited for no longer than the limit.
        """
        began = time.monotonic()
        with shared.connect() as client:
            client.settimeout(0.1)
            client.sendall(sent)
            with suppress(ConnectionError):
                while time.monotonic() - began < 20:
                    if sent:
                        client.sendall(b"x")
                    with suppress(TimeoutError):
                        if not client.recv(100):
                            break

        assert 2 < time.monotonic() - began < 20

    def test_idle(self, shared: Explorer) -> None:
        """
        A connection without a further request is closed when the limit is reached.
        """
        with shared.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert 401 == status_of(client.recv(65536))
            began = time.monotonic()
            with suppress(ConnectionResetError):
                assert b"" == client.recv(100)

        assert 0.5 < time.monotonic() - began < 20

    def test_slow_reader(self, explorer: Start) -> None:
        """
        Who does not take an answer keeps the connection no longer than the limit, and a large one
        from others no longer than that.
        """
        running = explorer(SENDING_SECONDS=2, SENDING_RATE=100 << 20, LARGE_ANSWERS=2)
        head = f"GET /event-log.json?id={LARGE_ID} HTTP/1.1\r\nHost: localhost\r\n"
        head += f"Authorization: {authorization('secret')}\r\n\r\n"
        assert 200 == running.status()
        before = running.sockets
        with ExitStack() as clients:
            for _ in range(2):
                client = clients.enter_context(socket.socket())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", running.port))
                client.sendall(head.encode())
            large = f"/event-log.json?id={LARGE_ID}"
            wait_until(lambda: running.status(large) == 503)
            assert 200 == running.status()
            wait_until(lambda: running.status(large) == 200)
            wait_until(lambda: running.sockets == before)

    def test_resets(self, shared: Explorer) -> None:
        """
        Connections that are reset, wherever a request stands, end nothing and leave nothing.
        """
        assert 200 == shared.status()
        before = shared.sockets
        whole = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for sent in range(len(whole) + 1):
            with shared.connect() as client:
                client.sendall(whole[:sent])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_until(lambda: shared.sockets == before)

        assert 200 == shared.status()
        assert "Traceback" not in shared.log

    def test_pipelined(self, shared: Explorer) -> None:
        """
        Requests that come together are answered in turn with those of others.
        """
        assert 200 == shared.status()
        with shared.connect() as client, ThreadPoolExecutor() as threads:
            sending = threads.submit(
                client.sendall, b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000
            )
            reading = threads.submit(lambda: client.recv(1 << 20))
            assert 401 == status_of(reading.result(10))
            assert 200 == shared.status()
            client.shutdown(socket.SHUT_RDWR)
            assert isinstance(sending.exception(10), (ConnectionError, type(None)))

        assert 200 == shared.status()

    @pytest.mark.parametrize(
        ("files", "expected"),
        [
            (20, 8),
            (100, 18),
            (256, 96),
            (1024, limits.CONNECTIONS),
            (resource.RLIM_INFINITY, limits.CONNECTIONS),
        ],
    )
    def test_limit(self, files: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        There are fewer connections where the process may open fewer files.
        """
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))

        assert expected == connections.connection_limit()


HOST = b"Host: localhost\r\n"
BASIC = b"Authorization: " + authorization("secret").encode() + b"\r\n"
END = HOST + BASIC + b"Connection: close\r\n\r\n"


class TestRequests:
    def test_variants(self, shared: Explorer) -> None:
        """
        Requests that no browser sends are refused, one by one, with the usual headers; nothing
        ends, nothing is kept, and memory stays.
        """
        assert 200 == shared.status()
        before, peak = shared.sockets, shared.peak
        bad = b"GET / HTTP/1.1\r\n"
        other = []
        for sent, expected in [
            (b"GET /\r\n\r\n", 400),  # HTTP/0.9
            (b"GET / HTTP/2.0\r\n" + END, 400),
            (b"GET / HTTP/1.1.1\r\n" + END, 400),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n", 400),  # TLS
            (b"\x00\x00\x00\x00\n", 400),
            (b"GET http://evil.example/ HTTP/1.1\r\n" + END, 400),
            (b"CONNECT evil.example:443 HTTP/1.1\r\n" + END, 400),
            (b"OPTIONS * HTTP/1.1\r\n" + END, 400),
            (b"OPTIONS / HTTP/1.1\r\n" + END, 405),
            (b"TRACE / HTTP/1.1\r\n" + END, 405),
            (b"HEAD / HTTP/1.1\r\n" + END, 200),
            (b"get / HTTP/1.1\r\n" + END, 400),
            (b"GET /\x00 HTTP/1.1\r\n" + END, 400),
            (b"GET /\x1b[31m HTTP/1.1\r\n" + END, 400),
            (b"GET /a b HTTP/1.1\r\n" + END, 400),
            (b"GET /\xa0 HTTP/1.1\r\n" + END, 400),
            (b"GET /\xff\xfe HTTP/1.1\r\n" + END, 400),
            (b"GET /%ff%fe HTTP/1.1\r\n" + END, 404),
            (b"GET /%00 HTTP/1.1\r\n" + END, 404),
            (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + END, 404),
            (b"GET /static/%2e%2e%2fservice.py HTTP/1.1\r\n" + END, 404),
            (b"GET /?id=%00%ff HTTP/1.1\r\n" + END, 200),
            (b"GET /?" + b"a=&" * 10_000 + b" HTTP/1.1\r\n" + END, 414),
            (b"GET /?" + b"&a=" * 2_700 + b" HTTP/1.1\r\n" + END, 200),
            (b"GET /?" + b"text=&" * 1_300 + b" HTTP/1.1\r\n" + END, 200),
            (b"GET /" + b"/" * 8_000 + b" HTTP/1.1\r\n" + END, 200),
            (b"GET /" + b"x" * 1_000_000, 414),
            (bad + b"X: y\r\n" * 99 + b"\r\n", 400),
            (bad + HOST + b"X: y\r\n" * 50_000 + b"\r\n", 431),
            (bad + HOST + b"Authorization: Basic " + b"A" * 1_000_000 + b"\r\n\r\n", 431),
            (bad + HOST + b"X" * 1_000_000 + b"\r\n\r\n", 431),
            (bad + b"\r\n", 400),  # no Host
            (b"GET / HTTP/1.0\r\n" + BASIC + b"\r\n", 200),
            (bad + b"Host: evil.example\r\n" + END, 400),
            (bad + b"Transfer-Encoding : chunked\r\n" + END, 400),
            (bad + b"X: a\r\n b\r\n" + END, 400),
            (bad + b"no header\r\n" + END, 400),
            (bad + b" X: y\r\n" + END, 400),
            (bad + b"X: a\x00b\r\n" + END, 400),
            (bad + b"X: a\rY: b\r\n" + END, 400),
            (bad + b"Upgrade: websocket\r\n" + END, 200),
            (bad + b"Upgrade: h2c\r\nHTTP2-Settings: AA\r\n" + END, 200),
            (bad + b"Expect: 100-continue\r\n" + END, 200),
            (bad + b"Expect: 100-continue\r\nContent-Length: 5\r\n" + END, 413),
            (bad + b"Content-Length: 99999999999\r\n" + END, 413),
            (bad + b"Content-Length: -1\r\n" + END, 413),
            (bad + b"Content-Length: " + b"9" * 5_000 + b"\r\n" + END, 413),
            (bad + b"Content-Length: 0\r\nContent-Length: 9\r\n" + END, 413),
            (bad + b"Content-Length: 0\r\n" + END, 200),
            (bad + b"Transfer-Encoding: chunked\r\n" + END + b"1\r\nx\r\n", 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + END + b"f" * 10, 413),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n" + END, 413),
            (b"POST / HTTP/1.1\r\n" + END, 405),
        ]:
            answer = shared.send(sent)
            if status_of(answer) != expected:
                other.append((sent[:60], expected, status_of(answer)))
            if expected != 414:
                for name in HEADERS.keys() - {"Cache-Control"}:
                    assert f"{name}: {HEADERS[name]}\r\n".encode() in answer
        assert "" == "\n".join(map(str, other))
        wait_until(lambda: shared.sockets == before)

        assert 200 == shared.status()
        assert shared.peak - peak < 50
        assert "Traceback" not in shared.log

    def test_chunks(self, shared: Explorer) -> None:
        """
        A body that comes in slow chunks is not waited for.
        """
        with shared.connect() as client:
            client.sendall(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n")
            assert 413 == status_of(client.recv(65536))
            client.settimeout(5)
            while client.recv(65536):
                pass

    def test_log(self, shared: Explorer) -> None:
        """
        The log has one line of ASCII for each request: with the address of the connection, and
        without what was searched for.
        """
        before = len(shared.log)
        shared.get("/?text=Jane+Doe", X_Forwarded_For="6.6.6.6\x1b[31m")
        shared.get('/%1b[31m"\\x', User_Agent="\x1b[31m")
        shared.send(b"GET /\xff\x1b[31m HTTP/1.1\r\n" + END)
        shared.send(b"GET /\xc2\x9b HTTP/1.1\r\n" + END)
        shared.send(b"GET /" + b"x" * 10_000)
        lines = wait_until(
            lambda: len(found := re.findall("127.0.0.1 .*", shared.log[before:])) == 5 and found
        )

        assert [
            '127.0.0.1 "GET /" 200',
            r'127.0.0.1 "GET /%1b[31m\x22\\x" 404',
            '127.0.0.1 "- -" 400',
            '127.0.0.1 "- -" 400',
            '127.0.0.1 "- -" 414',
        ] == [" ".join(line.split()[:-2]) for line in lines]
        assert shared.log.replace("\n", "").isprintable()
        for absent in ("Jane", "6.6.6.6"):
            assert absent not in shared.log


class TestPasswords:
    def test_parallel(self, explorer: Start) -> None:
        """
        Many wrong passwords at once, from ten addresses, take the memory of one hash.
        """
        section = {"username": "ops", "password_hash": generate_password_hash("secret")}
        running = explorer(section)
        assert 401 == running.status(Authorization=authorization("wrong"))
        peak = running.peak

        def guess(number: int) -> int:
            source = f"127.0.1.{number % 10 + 1}"
            return running.status("/", source, Authorization=authorization(str(number)))

        with ThreadPoolExecutor(16) as threads:  # two less than there may be connections
            answered = list(threads.map(guess, range(20)))
        assert {401, 429} >= set(answered)
        assert answered.count(401) >= 9

        assert running.peak - peak < 64
        assert 200 == running.status()

    def test_behind_proxy(self, explorer: Start) -> None:
        """
        Who guesses without end behind a proxy keeps nobody out who has the right password.
        """
        running = explorer(PASSWORD_PAUSE_SECONDS=0.5)
        ends = time.monotonic() + 60
        is_in = []

        def guess(number: int) -> list[int]:
            answered = []
            while not is_in and time.monotonic() < ends:
                given = authorization(f"{number}-{len(answered)}")
                answered.append(running.status(Authorization=given, X_Forwarded_For="x, 10.0.0.1"))
            return answered

        with ThreadPoolExecutor() as threads:
            guesses = [threads.submit(guess, number) for number in range(6)]
            wait_until(lambda: running.log.count('"GET /" 429') >= 3)
            status = running.status(X_Forwarded_For="x, 10.0.0.2")
            is_in.append(True)
            answered = {one for guess in guesses for one in guess.result()}

        assert 200 == status
        assert {401, 429} == answered
        assert 200 == running.status()

    @pytest.mark.parametrize("client", ["10.0.0.1", None])
    def test_same_address(self, explorer: Start, client: str | None) -> None:
        """
        Among guesses without end from the same address, which name one client or another one each
        time, the right password gets in when it is tried again.
        """
        running = explorer(PASSWORD_PAUSE_SECONDS=0.5)
        ends = time.monotonic() + 60
        is_in = []

        def guess(number: int) -> None:
            count = 0
            while not is_in and time.monotonic() < ends:
                count += 1
                named = client or f"10.{number}.0.{count}"
                given = authorization(f"{number}-{count}")
                running.status(Authorization=given, X_Forwarded_For=named)

        with ThreadPoolExecutor() as threads:
            guesses = [threads.submit(guess, number) for number in range(6)]
            wait_until(lambda: running.log.count('"GET /" 429') >= 3)
            tries = [running.status(X_Forwarded_For="10.0.0.1")]
            while tries[-1] == 429 and time.monotonic() < ends:
                tries.append(running.status(X_Forwarded_For="10.0.0.1"))
            is_in.append(True)
            for one in guesses:
                one.result()

        assert 200 == tries[-1]
        assert len(tries) <= 5

    def test_time_limit(self, explorer: Start) -> None:
        """
        A request that waits longer than the limit is told so, and leaves no place taken.
        """
        running = explorer(ANSWER_SECONDS=1, PASSWORD_PAUSE_SECONDS=60, PASSWORD_GUESSES_AT_ONCE=1)
        assert 401 == running.status(Authorization=authorization("wrong"))
        for _ in range(6):  # an address has four places
            assert 503 == running.status()
        assert 401 == running.status(Authorization=authorization("wrong"))
        wait_until(lambda: running.status("/", "127.0.1.1") == 200)

    def test_same_guess(self, shared: Explorer) -> None:
        """
        The same wrong password again and again is checked once.
        """
        wrong = authorization("expired")
        began = time.monotonic()
        assert {401} == {shared.status(Authorization=wrong) for _ in range(100)}
        assert 200 == shared.status()

        assert time.monotonic() - began < 20  # 100 checks take three minutes

    def test_characters(self, shared: Explorer) -> None:
        """
        A name and a password of any bytes are wrong, and nothing else.
        """
        told = [
            b"\xff:\xff",
            "\u00e9:\u00e9".encode(),
            "\u00e9:\u00e9".encode("latin-1"),
            b"\x00:\x00",
            b":",
            b"ops",
            b"\xed\xa0\x80:x",
            b"\x1b[31m:" + b"x" * 5_000,
        ]
        headers = [b"Basic " + base64.b64encode(one) for one in told]
        headers += [b"Digest username=x", b"Basic \xff", b"Basic =", b"Basic A", b"Bearer x", b""]
        for header in headers:
            sent = b"GET / HTTP/1.1\r\nConnection: close\r\nAuthorization: " + header + b"\r\n"
            assert (401, header) == (status_of(shared.send(sent + HOST + b"\r\n")), header)

        assert 200 == shared.status()

    def test_encodings(self) -> None:
        """
        Credentials are read as UTF-8, and as ISO 8859-1 where they are not that.
        """
        for encoding in ("utf-8", "latin-1"):
            encoded = base64.b64encode("j\u00f6rg:\u00e9:x".encode(encoding)).decode()
            assert ("j\u00f6rg", "\u00e9:x") == read_credentials(f"Basic {encoded}")

    def test_table(self) -> None:
        """
        However many addresses guess, the table of them stays small.
        """
        pace = Pace(2, 60, 100)
        for number in range(1_000):
            pace.count(str(number))

        assert 100 == len(pace._due)
        pace.count("999")
        assert 0 < pace.delay("999") <= 60
        assert 0 == pace.delay("0")

    @pytest.mark.parametrize(
        ("password_hash", "told"),
        [
            ("scrypt:1048576:8:1$salt$00", "1,073,741,824 bytes of memory"),
            ("scrypt:32768:8:1000$salt$00", "33,554,432,000 bytes of memory"),
            ("pbkdf2:sha256:1000000000$salt$00", "1,000,000,000 iterations"),
        ],
    )
    def test_costs(self, password_hash: str, told: str) -> None:
        """
        A hash that would take too much for each guess is refused, without being tried.
        """
        section = {"username": "ops", "password_hash": password_hash}
        with pytest.raises(ConfigurationError, match=told):
            parse_explorer_config({"EVENTLOG_EXPLORER": section})


def fetch_metadata(site: str, mode: str, dest: str, **more: str) -> dict[str, str]:
    """
    Return what a browser says of a request.
    """
    return {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": dest, **more}


class TestOtherSites:
    def test_requests(self, explorer: Start) -> None:
        """
        Pages of other sites may link to a page, and have nothing loaded, framed or fetched ahead.
        """
        running = explorer({})
        link = ("navigate", "document")
        for site in ("cross-site", "same-site"):
            assert 200 == running.status(**fetch_metadata(site, *link, Sec_Fetch_User="?1"))
            assert 200 == running.status(**fetch_metadata(site, *link))
            for mode, dest, more in [
                ("no-cors", "image", {}),
                ("no-cors", "script", {}),
                ("cors", "empty", {}),
                ("no-cors", "empty", {}),
                ("websocket", "websocket", {}),
                ("navigate", "iframe", {}),
                ("navigate", "frame", {}),
                ("navigate", "object", {}),
                ("navigate", "embed", {}),
                ("nested-navigate", "iframe", {}),
                ("navigate", "document", {"Sec_Purpose": "prefetch;prerender"}),
                ("", "", {}),
            ]:
                told = fetch_metadata(site, mode, dest, **more)
                assert (403, told) == (running.status(**told), told)
        for site in ("same-origin", "none"):
            for mode, dest in (("navigate", "document"), ("cors", "empty"), ("no-cors", "script")):
                assert 200 == running.status(**fetch_metadata(site, mode, dest))
        assert 403 == running.status(Sec_Fetch_Site="cross-site, none")
        assert 403 == running.status(Sec_Fetch_Site="cross-site")

    def test_again_and_again(self, explorer: Start) -> None:
        """
        A site that opens page after page without a click asks the database ten times; then the
        reader is asked, and goes on by a click.
        """
        running = explorer({})
        opened = fetch_metadata("cross-site", "navigate", "document")
        most = limits.CROSS_SITE_NAVIGATIONS_AT_ONCE
        statuses = [running.status("/?level=error&text=x", **opened) for _ in range(most)]
        answer = running.get("/?level=error&text=x", **opened)

        assert [200] * most == statuses
        assert 429 == status_of(answer)
        assert b'href="/?level=error&amp;text=x"' in answer
        assert 200 == running.status(**fetch_metadata("same-origin", "navigate", "document"))
        assert 200 == running.status(**{**opened, "Sec_Fetch_User": "?1"})


class TestAddresses:
    @pytest.mark.parametrize(
        "database",
        [
            "sqlite:////nowhere/secret-path/eventlog.db",
            "postgresql://secret-user:secret-word@127.0.0.1:{port}/secret-name",
            "postgresql://secret-user:secret-word@secret-host.invalid/secret-name",
        ],
    )
    def test_pages(self, explorer: Start, database: str) -> None:
        """
        No page says where the database is, or who asks it; the log does.
        """
        database = database.format(port=free_ports(1)[0])
        running = explorer({}, database)
        for path in ("/", "/map", "/trace?call=x", "/event-log?id=x", "/event-log.json?id=x"):
            answer = running.get(path)
            assert 503 == status_of(answer)
            for absent in (b"secret", b"nowhere", b"eventlog.db", b"127.0.0.1", b"5432"):
                assert absent not in answer

        assert "secret" in running.log
        assert "secret-word" not in running.log
