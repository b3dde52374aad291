"""
Empty databases to measure with.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator

from tests.clickhouse import ClickHouse
from tests.postgresql import PostgreSQL


_SERVERS: dict[str, Callable[[], PostgreSQL | ClickHouse]] = {
    "postgresql": PostgreSQL,
    "clickhouse": ClickHouse,
}


@contextlib.contextmanager
def addresses(kind: str) -> Iterator[Callable[[], str]]:
    """
    Yield what makes an empty database, and returns its address.

    Args:
        kind: ``sqlite``, ``postgresql`` or ``clickhouse``.
    """
    if kind in _SERVERS:
        with _SERVERS[kind]() as server:
            yield server.create_database
    else:
        with tempfile.TemporaryDirectory() as folder:
            numbers = itertools.count()
            yield lambda: f"sqlite:///{folder}/{next(numbers)}.db"
