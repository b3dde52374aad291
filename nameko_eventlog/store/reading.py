"""
Questions of green threads to the database.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from eventlet.pools import Pool

from nameko_eventlog.store.background import Background
from nameko_eventlog.store.queries import EventLogQuery


QUERY_SECONDS = 30.0
"""For how long the answer of a query is waited for."""

QUERIES_AT_ONCE = 4
"""How many queries a process works on at the same time."""


class Readers:
    """
    Connections that are asked in real threads, while other green threads go on.

    Args:
        uri: The database's address.
        seconds: For how long an answer is waited for.
    """

    def __init__(self, uri: str, seconds: float = QUERY_SECONDS) -> None:
        self._uri = uri
        self._seconds = seconds
        self._pool = Pool(max_size=QUERIES_AT_ONCE, create=self._make)

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """
        Call a method of `EventLogQuery`.

        Raises:
            InvalidQuery: If a parameter is wrong.
            DatabaseError: If the database cannot be used.
        """
        with self._pool.item() as (query, thread):
            return thread.run(partial(getattr(query, method), *args, **kwargs))

    def _make(self) -> tuple[EventLogQuery, Background]:
        return EventLogQuery(self._uri, seconds=self._seconds), Background(self._seconds)
