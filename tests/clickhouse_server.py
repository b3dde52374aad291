"""
ClickHouse's HTTP interface over chDB, the engine as a library, for `tests.clickhouse`.

One process at a time can open a folder of chDB's; this server is that process. It answers as far
as clickhouse-connect needs it. Left out: native protocol, users in SQL, temporary tables, external
data, progress headers, ``client_protocol_version`` and the system tables that log queries.

Run it as a module, with an interpreter that eventlet has not patched.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import email.parser
import email.policy
import hmac
import http.server
import json
import os
import pathlib
import re
import secrets
import signal
import sys
import tempfile
import threading
import time
import traceback
import urllib.parse
import uuid
from collections.abc import Iterator
from typing import Any

from tests.clickhouse_engine import (
    Engine,
    ServerError,
    Session,
    Sessions,
    Watcher,
    checked,
    first_word,
    has_several,
    identifier,
    quote,
    split_insert,
)
from tests.compression import decompressor, make_compressor


# In the URL, and no settings of the engine's.
_PARAMETERS = {
    "buffer_size",
    "client_protocol_version",
    "compress",
    "database",
    "decompress",
    "default_format",
    "password",
    "query",
    "query_id",
    "quota_key",
    "role",
    "session_check",
    "session_id",
    "session_timeout",
    "stacktrace",
    "user",
    "wait_end_of_query",
}

# src/Server/HTTP/exceptionCodeToHTTPStatus.cpp; the others are 500.
_STATUSES = {
    194: 401,
    **dict.fromkeys((192, 193, 497, 512, 516), 403),
    **dict.fromkeys((6, 8, 15, 25, 26, 27, 36, 37, 38, 41, 44, 53, 62, 72, 117, 123), 400),
    **dict.fromkeys((167, 168, 223, 321, 376, 427, 441, 675, 676), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 63, 73, 78, 81, 115, 152, 336, 511), 404),
    48: 501,
    159: 408,
    229: 413,
    **dict.fromkeys((76, 209, 439), 503),
}

# Each block that chDB streams is complete in itself; in others, it would repeat the frame.
_STREAMABLE = {b"native", b"tabseparated", b"tsv", b"csv", b"rowbinary", b"jsoneachrow"}

_FORMAT = re.compile(rb"\bFORMAT\s+(\w+)\s*(?:\bSETTINGS\s[^']*)?;?\s*$", re.IGNORECASE)
_CODE = re.compile(r"Code: (\d+)\.")

# What answers with rows; chDB streams those of the first.
_STREAMED = {b"SELECT", b"WITH"}
_READING = _STREAMED | {b"FROM", b"SHOW", b"DESCRIBE", b"DESC", b"EXPLAIN", b"EXISTS"}
_ANSWERING = _READING | {b"CHECK", b"KILL"}

_PIECE = 1 << 20
"""So many bytes are answered without a head that promises success: ClickHouse's buffer."""


class Server(http.server.ThreadingHTTPServer):
    """
    Listens, and keeps what its connections share.
    """

    daemon_threads = True
    request_queue_size = 100
    allow_reuse_address = True

    def __init__(self, port: int, engine: Engine, users: dict[str, str]) -> None:
        self.engine = engine
        self.users = users
        self.sessions = Sessions()
        self.watcher = Watcher(engine)
        super().__init__(("127.0.0.1", port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """
        Keep quiet about clients that went away.
        """
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """
    A connection.
    """

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 30  # ClickHouse's keep_alive_timeout
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """
        Answer pings and queries.
        """
        path = urllib.parse.urlsplit(self.path)
        if path.path == "/ping" or (self.path == "/" and self.command == "GET"):
            self._answer(200, b"Ok.\n", {})
        elif path.path != "/":
            self._answer(404, f"There is no handle {self.path}\n".encode(), {})
        else:
            self._handle()

    def do_POST(self) -> None:
        """
        Answer queries.
        """
        self.do_GET()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """
        Keep quiet.
        """

    def _handle(self) -> None:
        self._body = self._pieces()
        self._started = time.monotonic()
        self._begun = False
        try:
            try:
                self._execute()
            except (RuntimeError, ServerError) as exc:  # the engine's are the former
                self._fail(str(exc))
        except OSError:
            self.close_connection = True
        except Exception as exc:
            traceback.print_exc()
            self._fail(f"Code: 1001. DB::Exception: {exc!r}. (STD_EXCEPTION)")

    def _execute(self) -> None:
        self._parameters = self._read_parameters()
        self._query_id = self._parameters.get("query_id") or str(uuid.uuid4())
        self._authenticate()
        sql = self._parameters.get("query", "").encode()
        with self.server.sessions.use(self._parameters) as session:
            with self.server.engine.connect() as connection:
                self._prepare(connection, session)
                sql = self._read_statement(sql)
                insert = split_insert(sql)
                if insert is not None:
                    self._insert(connection, *insert)
                    return
                sql += b"".join(self._body)
                if not sql.strip():
                    raise ServerError(62, "SYNTAX_ERROR", "Syntax error: Empty query.")
                word = first_word(sql)
                if word == b"CREATE" and re.match(rb"\s*CREATE\s+TEMPORARY", sql, re.IGNORECASE):
                    raise ServerError(48, "NOT_IMPLEMENTED", "No temporary tables here.")
                if word == b"KILL":
                    sql = re.sub(rb"\bquery_id\b", b"Settings['log_comment']", sql)
                if has_several(sql):
                    raise ServerError(62, "SYNTAX_ERROR", "Multi-statements are not allowed.")
                if word in _READING:
                    with self._watched():
                        self._select(connection, sql)
                    return
                self._run(connection, sql, has_rows=word in _ANSWERING)
                if word in (b"SET", b"USE"):
                    session.statements.append(sql)

    # Requests.

    def _read_parameters(self) -> dict[str, str]:
        query = urllib.parse.urlsplit(self.path).query
        parameters = dict(
            urllib.parse.parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
        )
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            head = f"Content-Type: {kind}\r\n\r\n".encode()
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            for part in parser.parsebytes(head + b"".join(self._body)).iter_parts():
                if part.get_filename():
                    raise ServerError(48, "NOT_IMPLEMENTED", "No external data here.")
                value: Any = part.get_payload(decode=True)
                name = str(part.get_param("name", header="content-disposition"))
                parameters[name] = value.decode(errors="surrogateescape")
        return parameters

    def _authenticate(self) -> None:
        user, password = "default", ""
        authorization = self.headers.get("Authorization", "")
        if authorization.startswith("Basic "):
            user, _, password = base64.b64decode(authorization[6:]).decode().partition(":")
        user = self._parameters.get("user", self.headers.get("X-ClickHouse-User", user))
        password = self._parameters.get("password", self.headers.get("X-ClickHouse-Key", password))
        known = self.server.users.get(user)
        if known is None or not hmac.compare_digest(known.encode(), password.encode()):
            raise ServerError(
                516,
                "AUTHENTICATION_FAILED",
                f"{user}: Authentication failed: password is incorrect, "
                "or there is no user with such name.",
            )

    def _prepare(self, connection: Any, session: Session) -> None:
        for statement in session.statements:
            connection.query(statement, "Null")
        database = self._parameters.get("database", self.headers.get("X-ClickHouse-Database"))
        if database:
            connection.query(f"USE {identifier(database)}", "Null")
        values = {"log_comment": self._query_id}
        for name, value in self._parameters.items():
            if name not in _PARAMETERS:
                values[name] = value
        readonly = values.pop("readonly", "2" if self.command == "GET" else None)
        if readonly is not None:
            values["readonly"] = readonly  # from there on, nothing can be set
        for name in values:
            if not re.fullmatch(r"\w+", name):
                raise ServerError(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'.")
        settings = ", ".join(f"{name} = {quote(value)}" for name, value in values.items())
        connection.query(f"SET {settings}".encode(errors="surrogateescape"), "Null")

    def _read_statement(self, sql: bytes) -> bytes:
        """
        Read what an INSERT begins with; its data may come for a long time.
        """
        if sql:
            sql += b"\n"
        for piece in self._body:
            sql += piece
            if len(sql) > 1 << 16:
                break
        return sql

    def _pieces(self) -> Iterator[bytes]:
        """
        Iterate over the body, decompressed.
        """
        encoding = self.headers.get("Content-Encoding", "identity")
        if encoding == "identity":
            yield from self._raw_pieces()
            return
        make = decompressor(encoding)
        one = None
        for piece in self._raw_pieces():
            while piece:
                if one is None:
                    one = make()
                yield one.decompress(piece)
                piece = b""
                if one.eof:  # clickhouse-connect compresses each block by itself
                    piece, one = one.unused_data, None

    def _raw_pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self._read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length", 0))
        while left:
            piece = self._read(min(left, _PIECE))
            left -= len(piece)
            yield piece

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionResetError("the client went away")
        return data

    # Statements.

    def _insert(self, connection: Any, statement: bytes, form: bytes, data: bytes) -> None:
        # not `send_insert`: the end of such an insert tells no error
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.writelines(self._body)
            file.flush()
            table, settings = re.fullmatch(
                rb"(.*?)(\sSETTINGS\s.*)?", statement, re.DOTALL
            ).groups()
            text = b"%s FROM INFILE '%s'%s FORMAT %s"
            values = (table, file.name.encode(), settings or b"", form)
            result = checked(connection.query(text % values, "Null"))
        rows, size = result.rows_written(), result.bytes_written()
        self._answer(200, b"", self._summary(rows, size, rows, size))

    def _run(self, connection: Any, sql: bytes, *, has_rows: bool) -> None:
        form = self._format(sql)
        result = checked(connection.query(sql, form))
        headers = self._summary(
            result.rows_read(),
            result.bytes_read(),
            result.rows_written(),
            result.bytes_written(),
        )
        if has_rows:
            headers["X-ClickHouse-Format"] = form
        self._answer(200, result.bytes(), headers, compress=True)

    def _select(self, connection: Any, sql: bytes) -> None:
        form = self._format(sql)
        wait = self._parameters.get("wait_end_of_query") in ("1", "true")
        can_stream = first_word(sql) in _STREAMED and form.lower().encode() in _STREAMABLE
        if wait or not can_stream:
            self._run(connection, sql, has_rows=True)
            return
        stream = connection.send_query(sql, form)
        held: list[bytes] = []
        try:
            while piece := checked(connection.streaming_fetch_result(stream)).bytes():
                held.append(piece)
                if self._begun or sum(map(len, held)) > _PIECE:
                    self._begin(form)
                    self._chunk(b"".join(held))
                    held.clear()
        except OSError:
            connection.streaming_cancel_query(stream)
            raise
        if self._begun:
            self._end()
            return
        self._answer(200, b"".join(held), {"X-ClickHouse-Format": form}, compress=True)

    def _format(self, sql: bytes) -> str:
        match = _FORMAT.search(sql)
        if match is not None:
            return match.group(1).decode()
        default = self.headers.get("X-ClickHouse-Format", "TabSeparated")
        return self._parameters.get("default_format", default)

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        if self._parameters.get("cancel_http_readonly_queries_on_client_close") != "1":
            return contextlib.nullcontext()
        tag = self._parameters.get("log_comment", self._query_id)
        return self.server.watcher.watch(self.connection, tag)

    # Answers.

    def _summary(self, read: int, read_size: int, written: int, size: int) -> dict[str, str]:
        elapsed = int((time.monotonic() - self._started) * 1e9)
        summary = {
            "read_rows": str(read),
            "read_bytes": str(read_size),
            "written_rows": str(written),
            "written_bytes": str(size),
            "elapsed_ns": str(elapsed),
        }
        return {"X-ClickHouse-Summary": json.dumps(summary, separators=(",", ":"))}

    def _compressor(self) -> tuple[str, Any] | None:
        if self._parameters.get("enable_http_compression") != "1":
            return None
        for accepted in self.headers.get("Accept-Encoding", "").split(","):
            encoding = accepted.split(";")[0].strip()
            compressor = make_compressor(encoding)
            if compressor is not None:
                return encoding, compressor
        return None

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("X-ClickHouse-Server-Display-Name", "chdb")
        self.send_header("X-ClickHouse-Timezone", self.server.engine.timezone)
        self.send_header("X-ClickHouse-Query-Id", getattr(self, "_query_id", ""))
        for name, value in headers.items():
            self.send_header(name, value)

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], *, compress: bool = False
    ) -> None:
        if body and compress and (found := self._compressor()):
            encoding, compressor = found
            body = compressor.compress(body) + compressor.flush()
            headers["Content-Encoding"] = encoding
        self._begun = True
        self._head(status, headers)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _begin(self, form: str) -> None:
        if self._begun:
            return
        self._begun = True
        self._tag = secrets.token_hex(8)
        headers = {"X-ClickHouse-Format": form, "X-ClickHouse-Exception-Tag": self._tag}
        compress = self._compressor()
        self._stream: Any = None
        if compress is not None:
            headers["Content-Encoding"], self._stream = compress
        self._head(200, headers)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        if self._stream is not None:
            data = self._stream.compress(data)
        self._raw_chunk(data)

    def _raw_chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _end(self) -> None:
        if self._stream is not None:
            self._raw_chunk(self._stream.flush())
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _fail(self, message: str) -> None:
        found = message.find("Code: ")
        message = message[max(found, 0) :].strip()
        if "(version " not in message:
            message += f" (version {self.server.engine.version} (official build))"
        body = message.encode(errors="replace") + b"\n"
        if self._begun:
            tag = self._tag.encode()
            self._chunk(
                b"\r\n__exception__\r\n%s\r\n%s%d %s\r\n__exception__\r\n"
                % (tag, body, len(body), tag)
            )
            self._end()
            self.close_connection = True
            return
        try:
            for _ in self._body:  # a client that is still sending would not see the answer
                pass
        except Exception:
            self.close_connection = True
        match = _CODE.match(message)
        code = int(match.group(1)) if match else 1002
        self._answer(_STATUSES.get(code, 500), body, {"X-ClickHouse-Exception-Code": str(code)})


def main() -> None:
    """
    Serve until SIGTERM.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("port", type=int)
    parser.add_argument("user")
    parser.add_argument("password")
    options = parser.parse_args()
    (options.folder / "pid").write_text(str(os.getpid()))
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # for the engine's threads, too
    engine = Engine(options.folder)
    server = Server(options.port, engine, {options.user: options.password})
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    signal.sigwait(signals)
    server.shutdown()
    server.server_close()
    engine.close()
    sys.stderr.flush()
    os._exit(0)  # threads of the engine's may run


if __name__ == "__main__":
    main()
