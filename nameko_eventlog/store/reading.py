"""
Questions of green threads to the database.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import eventlet
from eventlet.pools import Pool

from nameko_eventlog.store.background import Background
from nameko_eventlog.store.queries import EventLogQuery


QUERY_SECONDS = 30.0
"""For how long the answer of a query is waited for."""

QUERIES_AT_ONCE = 4
"""How many queries a process works on at the same time."""

CLOSE_SECONDS = 2.0
"""For how long an end of the service waits for its connections."""


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
        self._made: list[tuple[EventLogQuery, Background]] = []
        self._pool = Pool(max_size=QUERIES_AT_ONCE, create=self._make)

    def ask(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        """
        Call a method of `EventLogQuery`.

        Raises:
            InvalidQuery: If a parameter is wrong.
            DatabaseError: If the database cannot be used.
        """
        with self._pool.item() as (query, thread):
            return thread.run(partial(getattr(query, method), *args, **kwargs))

    def close(self) -> None:
        """
        Close the connections, but for those that still wait for an answer.
        """
        with eventlet.Timeout(CLOSE_SECONDS, False):
            for query, thread in self._made:
                thread.run(query.close)

    def _make(self) -> tuple[EventLogQuery, Background]:
        made = EventLogQuery(self._uri, seconds=self._seconds), Background(self._seconds)
        self._made.append(made)
        return made
