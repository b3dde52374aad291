"""
Connections to ClickHouse, over HTTP.

Statements are SQLAlchemy's, compiled by clickhouse-connect's dialect; values are passed apart from
the text, and quoted by clickhouse-connect.

Beside green threads, a thread of ``eventlet.tpool`` uses a connection. It must not wait for a lock
that a green thread may hold, so the loggers of clickhouse-connect and of urllib3 are disabled.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from sqlalchemy import URL, Executable, column, func, select, table

from nameko_eventlog.addresses import masked_text
from nameko_eventlog.extras import extra
from nameko_eventlog.store.backends import RowRefused
from nameko_eventlog.store.databases import DatabaseError, parse_address, shown_address
from nameko_eventlog.store.deadlines import Deadline, TimeUp


with extra("clickhouse"):
    import clickhouse_connect
    from clickhouse_connect.cc_sqlalchemy.dialect import ClickHouseDialect
    from clickhouse_connect.driver import exceptions
    from clickhouse_connect.driver.httpclient import HttpClient
    from urllib3 import Timeout

_LOGGERS = [
    logging.getLogger(name)
    for name in list(logging.root.manager.loggerDict)
    if name.partition(".")[0] in ("clickhouse_connect", "urllib3")
]

CONNECT_SECONDS = 5
"""How long to wait for a connection."""

WAIT_SECONDS = 45.0
"""How long to wait for an answer: a server that takes longer is dead."""

LONG_SECONDS = 900.0
"""How long to wait for the end of a statement that changes a whole day."""

GRACE_SECONDS = 1.0
"""How long to wait after the deadline: ClickHouse usually cancels the query by itself."""

_REFUSED = 469  # a constraint is violated

_PORTS = {"clickhouse": 8123, "clickhouses": 8443}

_DIALECT = ClickHouseDialect(paramstyle="pyformat")

_SETTINGS = {
    # rows that are not merged yet count once
    "final": 1,
    "do_not_merge_across_partitions_select_final": 1,
    # lists of positions and of names
    "max_query_size": 16 << 20,
    # an insert is one block, and so all of it is in a table or nothing
    "max_insert_block_size": 1 << 30,
    # an insert ends when its rows are where they belong
    "async_insert": 0,
    "distributed_foreground_insert": 1,
    # a subquery of one shard may need rows of another
    "distributed_product_mode": "global",
}

# with these, a statement waits until all that it changes has been changed
_SYNCHRONOUS = {"mutations_sync": 2, "lightweight_deletes_sync": 2}

_MESSAGE = re.compile(r"DB::Exception: (.*?)(?: \(version |\Z)", re.DOTALL)

_UNREACHABLE = "it cannot be reached"
_TOO_LONG = "it took too long"
_NO_TABLES = "it has no event log tables: start the store once to create them"

_BY_CODE = {
    60: _NO_TABLES,
    81: "the database does not exist",
    159: _TOO_LONG,
    160: _TOO_LONG,
    192: "it rejected the login",
    193: "it rejected the login",
    194: "it rejected the login",
    497: "permission denied",
    516: "it rejected the login",
    241: "it is out of memory",
    243: "it is out of disk space",
}
"""Reasons by the code of ClickHouse's error."""


class Connection:
    """
    A connection, which opens on first use. One thread at a time uses it.

    Args:
        uri: The database's address.
        deadline: The time limit of what happens between `Deadline.begin` and `Deadline.end`.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """

    def __init__(self, uri: str, deadline: Deadline | None = None) -> None:
        self.url = parse_address(uri)
        self._deadline = deadline
        self._client: HttpClient | None = None

    def execute(self, statement: Executable, *, is_merged: bool = True) -> Sequence[Sequence[Any]]:
        """
        Run a query, and return its rows.

        Args:
            statement: The query.
            is_merged: Whether it gets rows as if all were merged, which takes longer.
        """
        text, parameters = _compiled(statement)
        settings = self._settings() if is_merged else {**self._settings(), "final": 0}
        result = self._open().query(text, parameters=parameters, settings=settings)
        return result.result_rows

    def stream(self, statement: Executable) -> Iterator[Sequence[Any]]:
        """
        Run a query, and yield its rows as they come.
        """
        text, parameters = _compiled(statement)
        client, settings = self._open(), self._settings()
        with client.query_row_block_stream(
            text, parameters=parameters, settings=settings
        ) as blocks:
            for block in blocks:
                self.check()
                yield from block

    def scalar(self, statement: Executable) -> Any:
        """
        Return the first value of the first row, or None.
        """
        rows = self.execute(statement)
        return rows[0][0] if rows else None

    def command(self, text: str, *, is_long: bool = False) -> Any:
        """
        Run a statement of this package's own text.

        Args:
            text: The statement.
            is_long: Whether it changes a whole day, and is waited for.
        """
        client = self._open(LONG_SECONDS if is_long else None)
        settings = self._settings()
        return client.command(text, settings={**settings, **_SYNCHRONOUS} if is_long else settings)

    def insert(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """
        Insert rows, given by columns.

        Raises:
            RowRefused: The driver cannot encode one of them, or the table has a constraint that
                one of them violates.
        """
        try:
            self._open().insert(
                table, list(columns.values()), column_names=list(columns), column_oriented=True,
                settings=self._settings(),
            )  # fmt: skip
        except exceptions.DataError as exc:
            raise RowRefused(f"the database: {exc}") from exc
        except exceptions.DatabaseError as exc:
            if getattr(exc, "code", None) != _REFUSED:
                raise
            raise RowRefused(f"the database: {_describe(exc)[0]}") from exc

    def has_table(self, name: str) -> bool:
        """
        Tell whether the database has a table.
        """
        tables = table("tables", column("name"), column("database"), schema="system")
        is_it = (tables.c.name == name, tables.c.database == func.currentDatabase())
        return bool(self.scalar(select(func.count()).select_from(tables).where(*is_it)))

    def check(self) -> None:
        """
        Raise an exception if the time is up.
        """
        if self._deadline is not None:
            self._deadline.check()

    def close(self) -> None:
        """
        Close the connection.
        """
        if self._client is not None:
            self._client.close()
            self._client = None

    @contextmanager
    def errors(self) -> Iterator[None]:
        """
        Turn the driver's exceptions into a `DatabaseError`.
        """
        try:
            yield
        except TimeUp as exc:
            raise self._failure(_TOO_LONG) from exc
        except exceptions.ClickHouseError as exc:
            if getattr(exc, "code", None) is None:
                self.close()  # the next one may lead to another server
            raise self._failure(*_describe(exc)) from exc
        except OSError as exc:
            self.close()
            raise self._failure(*_describe(exc)) from exc

    def _failure(self, description: str, reason: str = "") -> DatabaseError:
        return DatabaseError(
            f"the database {shown_address(self.url)} cannot be used: {description}",
            reason=f"The database cannot be used: {reason or description}.",
        )

    def _settings(self) -> dict[str, Any]:
        if self._deadline is None:
            return {}
        self.check()
        return {"max_execution_time": max(min(self._deadline.left(), WAIT_SECONDS), 0.01)}

    def _open(self, seconds: float | None = None) -> HttpClient:
        _silence()  # logging may have been configured since
        if seconds is None:
            seconds = WAIT_SECONDS
        if self._deadline is not None:
            seconds = min(seconds, max(self._deadline.left(), 0.0) + GRACE_SECONDS)
        if self._client is None:
            self._client = _connect(self.url, seconds)
        self._client.timeout = Timeout(connect=CONNECT_SECONDS, read=seconds)
        return self._client


def _silence() -> None:
    for logger in _LOGGERS:
        logger.disabled = True


def _connect(url: URL, seconds: float) -> HttpClient:
    client = clickhouse_connect.get_client(
        interface="https" if url.drivername == "clickhouses" else "http",
        host=url.host or "localhost",
        port=url.port or _PORTS[url.drivername],
        username=url.username or "default",
        password=url.password or "",
        database=url.database or "default",
        connect_timeout=CONNECT_SECONDS,
        send_receive_timeout=math.ceil(seconds),
        query_retries=0,
        autogenerate_session_id=False,
        client_name="nameko-eventlog",
        compress=False,
        settings=_SETTINGS,
        dedicated_pool=True,
    )
    return cast(HttpClient, client)


def _compiled(statement: Any) -> tuple[str, dict[str, Any]]:
    compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
    parameters = {
        name: value.hex() if isinstance(value, bytes) else value  # as `schema.Key` has it
        for name, value in compiled.construct_params().items()
    }
    return str(compiled), parameters


def _describe(exc: exceptions.ClickHouseError | OSError) -> tuple[str, str]:
    """
    Return the database's own message, and a reason without its address.
    """
    code = getattr(exc, "code", None)
    if code is None:
        # the texts above have the address of the statement, with all of its settings
        cause: BaseException = exc
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return f"{_UNREACHABLE}: {masked_text(str(cause))}", _UNREACHABLE
    found = _MESSAGE.search(str(exc))
    text = masked_text(" ".join((str(exc) if found is None else found[1]).split()))
    reason = _BY_CODE.get(code) or "it cannot run this query"
    return (reason if reason in (_NO_TABLES, _TOO_LONG) else text), reason
