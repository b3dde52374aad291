"""
Addresses of databases, and the error of a database that cannot be used.
"""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from nameko_eventlog.addresses import check_quoted, masked
from nameko_eventlog.exceptions import EventLogError
from nameko_eventlog.extras import extra
from nameko_eventlog.store.sql import sqlite_files


CLICKHOUSE = ("clickhouse", "clickhouses")
"""The schemes of ClickHouse's addresses: by HTTP and by HTTPS."""


class DatabaseError(EventLogError):
    """
    The database cannot be used now; the text names it and says why.

    Args:
        message: The text, with the database's address, without secrets.
        reason: Why, in a sentence without the address: for people who may see the event logs but
            need not know where they are stored.
    """

    def __init__(
        self, message: str, *, reason: str = "The database cannot be used at the moment."
    ) -> None:
        super().__init__(message)
        self.reason = reason


def is_clickhouse(uri: str) -> bool:
    """
    Tell whether a database's address is one of ClickHouse's.
    """
    return uri.partition(":")[0] in CLICKHOUSE


def shown_address(url: URL) -> str:
    """
    Return the database's address without its password.
    """
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}"
    # as configured: we add the driver
    scheme = url.get_backend_name()
    return masked(url.set(drivername=scheme).render_as_string(hide_password=True))


def parse_address(uri: str) -> URL:
    """
    Parse a database's address.

    Raises:
        DatabaseError: It is not an address of a supported database.
    """
    try:
        return parse_uri(uri)
    except ValueError as exc:
        raise DatabaseError(
            f"{masked(uri)!r} is not an address of an event log database; use {exc}",
            reason="The address of the database is wrong.",
        ) from None


def parse_uri(uri: str) -> URL:
    """
    Parse a database's address.

    Raises:
        ValueError: It is not an address of a supported database; the text says what was expected.
    """
    expected = (
        f"{sqlite_files.EXPECTED}, postgresql://USER:PASSWORD@HOST/DATABASE or"
        " clickhouse://USER:PASSWORD@HOST/DATABASE"
    )
    path = sqlite_files.file_of(uri)
    if path is not None:
        return URL.create("sqlite", database=path)
    if uri in ("sqlite://", "sqlite+pysqlite://"):
        raise ValueError(sqlite_files.NOT_IN_MEMORY)
    try:
        check_quoted(uri)
    except ValueError as exc:
        raise ValueError(f"{expected}; {exc}") from None
    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):  # ValueError: the port is not a number
        raise ValueError(expected) from None
    if url.drivername in CLICKHOUSE:
        if url.query:
            raise ValueError("clickhouse://USER:PASSWORD@HOST/DATABASE without parameters")
        return url
    if url.drivername not in ("postgresql", "postgresql+psycopg2"):
        raise ValueError(expected)
    _check_parameters(url, masked(uri))
    return url.set(drivername="postgresql+psycopg2")  # SQLAlchemy's default may change


def _check_parameters(url: URL, text: str) -> None:
    if not url.query:
        return
    with extra("store"):
        from psycopg2 import ProgrammingError
        from psycopg2.extensions import make_dsn
    for name in url.query:
        try:
            make_dsn(**{name: "1"})
        except (ProgrammingError, TypeError):
            # text after a secret may be part of the secret
            which = f"the parameter {name!r}" if f"{name}=" in text else "parameters"
            raise ValueError(
                f"postgresql://USER:PASSWORD@HOST/DATABASE without {which} unknown to libpq"
            ) from None
