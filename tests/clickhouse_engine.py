"""
chDB, the engine of ClickHouse as a library, as `tests.clickhouse_server` needs it.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


_CONFIG = """
<clickhouse>
    <timezone>UTC</timezone>
    <max_server_memory_usage>2000000000</max_server_memory_usage>
    <mark_cache_size>67108864</mark_cache_size>
    <primary_index_cache_size>67108864</primary_index_cache_size>
    <background_schedule_pool_size>2</background_schedule_pool_size>
    <max_thread_pool_size>300</max_thread_pool_size>
    <database_atomic_delay_before_drop_table_sec>1</database_atomic_delay_before_drop_table_sec>
</clickhouse>
"""

_TOKEN = re.compile(
    rb"""'(?:[^'\\]|\\.)*' | `(?:[^`\\]|\\.)*` | "(?:[^"\\]|\\.)*"
    | --[^\n]* | \#[ !][^\n]* | /\*.*?\*/ | \w+ | \s+ | .""",
    re.DOTALL | re.VERBOSE,
)
_DATA = re.compile(rb"\s+(\w+)[ \t\f]*(?:\r?\n)?")


class ServerError(Exception):
    """
    An error as ClickHouse words it.
    """

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {message} ({name})")


def words(sql: bytes) -> Iterator[tuple[bytes, int]]:
    """
    Iterate over a statement's words, in upper case, each with where it ends; without what is
    quoted and without comments.
    """
    for match in _TOKEN.finditer(sql):
        token = match.group()
        if token[:1].isalnum() or token[:1] == b"_":
            yield token.upper(), match.end()


def first_word(sql: bytes) -> bytes:
    """
    Return a statement's first word, in upper case.
    """
    return next((word for word, _ in words(sql)), b"")


def split_insert(sql: bytes) -> tuple[bytes, bytes, bytes] | None:
    """
    Split an INSERT with data into statement, format and data.

    Returns:
        None for other statements, also for those whose data are VALUES or the result of a SELECT.
    """
    for number, (word, end) in enumerate(words(sql)):
        if number == 0 and word != b"INSERT":
            return None
        if word in (b"VALUES", b"SELECT", b"WITH"):
            return None
        if word == b"FORMAT":
            match = _DATA.match(sql, end)
            if match is None:
                return None
            return sql[: end - len(word)], match.group(1), sql[match.end() :]
    return None


def has_several(sql: bytes) -> bool:
    """
    Whether something follows a statement's semicolon.
    """
    tokens = (match.group() for match in _TOKEN.finditer(sql))
    return b";" in tokens and any(
        not token.isspace() and not token.startswith((b"--", b"/*", b";")) for token in tokens
    )


def quote(value: str) -> str:
    """
    Quote a string literal.
    """
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def identifier(name: str) -> str:
    """
    Quote an identifier.
    """
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


def checked(result: Any) -> Any:
    """
    Return a result of the engine's.

    Raises:
        RuntimeError: The result is an error, as others are raised by the engine itself.
    """
    if result.has_error():
        raise RuntimeError(result.error_message())
    return result


class Engine:
    """
    The engine, and connections to it: a request has one of its own, with its own settings.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        from chdb import _chdb

        config = folder / "config.xml"
        config.write_text(_CONFIG)
        self._open: Callable[[str], Any] = _chdb.connect  # type: ignore[attr-defined]
        self._address = f"{folder / 'data'}?config-file={config}"
        self._first = self._open(self._address)  # the engine ends with its last connection
        row = self._first.query("SELECT version(), timezone()", "TabSeparated").bytes()
        self.version, self.timezone = row.decode().split()

    @contextlib.contextmanager
    def connect(self) -> Iterator[Any]:
        """
        Open a connection.
        """
        connection = self._open(self._address)
        try:
            # the engine as a library takes `1 + 1` for a statement
            connection.query("SET implicit_select = 0", "Null")
            yield connection
        finally:
            connection.close()

    def kill(self, condition: str) -> None:
        """
        Cancel queries.
        """
        with self.connect() as connection, contextlib.suppress(RuntimeError):
            connection.query(f"KILL QUERY WHERE {condition} ASYNC", "Null")

    def close(self) -> None:
        """
        Cancel what runs and end the engine.
        """
        self.kill("query NOT LIKE 'KILL%'")
        self._first.close()


class Session:
    """
    What a client has set with SET and USE: it is set again for each of its requests.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.statements: list[bytes] = []
        self.expires = 0.0


class Sessions:
    """
    The sessions by their ids.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    @contextlib.contextmanager
    def use(self, parameters: dict[str, str]) -> Iterator[Session]:
        """
        Take a request's session, unless another request has it: ClickHouse does not wait either.
        """
        name = parameters.get("session_id")
        if not name:
            yield Session()
            return
        now = time.monotonic()
        with self._lock:
            for key in [key for key, one in self._sessions.items() if one.expires < now]:
                if not self._sessions[key].lock.locked():
                    del self._sessions[key]
            session = self._sessions.get(name)
            if session is None:
                if parameters.get("session_check") == "1":
                    raise ServerError(372, "SESSION_NOT_FOUND", f"Session {name} not found")
                session = self._sessions[name] = Session()
            if not session.lock.acquire(blocking=False):
                raise ServerError(
                    373, "SESSION_IS_LOCKED", f"Session {name} is locked by a concurrent client"
                )
            session.expires = now + float(parameters.get("session_timeout", 60))
        try:
            yield session
        finally:
            session.lock.release()


class Watcher:
    """
    Cancels reading queries whose clients went away.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._epoll = select.epoll()
        self._tags: dict[int, str] = {}
        threading.Thread(target=self._run, daemon=True).start()

    @contextlib.contextmanager
    def watch(self, client: socket.socket, tag: str) -> Iterator[None]:
        """
        Watch a client while its query runs.
        """
        number = client.fileno()
        self._tags[number] = tag
        self._epoll.register(number, select.EPOLLRDHUP)
        try:
            yield
        finally:
            self._epoll.unregister(number)
            del self._tags[number]

    def _run(self) -> None:
        while True:
            for number, _ in self._epoll.poll():
                tag = self._tags.get(number)
                if tag is not None:
                    self._engine.kill(f"Settings['log_comment'] = {quote(tag)}")
            time.sleep(0.1)  # a query may not have begun
