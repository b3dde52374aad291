"""
Database queries from green threads.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import eventlet
from eventlet.pools import Pool

from nameko_eventlog.limits import QUERIES_AT_ONCE, QUERY_SECONDS
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.queries import EventLogQuery


ANSWER_SECONDS = 2.0
"""How long to wait for an answer after the deadline: it usually says why the query failed."""

CLOSE_SECONDS = 2.0
"""How long a stopping service waits for its connections."""


class Readers:
    """
    Runs queries in real threads, so that other green threads go on.

    Args:
        uri: The database's address.
        seconds: The time limit of a query.
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
            InvalidQuery: If a parameter is invalid.
            DatabaseError: If the database cannot be used.
        """
        reader = self._get()
        try:
            query, thread = reader
            return thread.run(partial(getattr(query, method), *args, **kwargs))
        finally:
            self._pool.put(reader)

    def _get(self) -> tuple[EventLogQuery, Background]:
        with eventlet.Timeout(self._seconds, False):
            reader: tuple[EventLogQuery, Background] = self._pool.get()
            return reader
        raise DatabaseError(
            f"the database did not answer within {self._seconds:g} s:"
            f" {QUERIES_AT_ONCE} other queries are running"
        )

    def close(self) -> None:
        """
        Close the connections, except those that still wait for an answer.
        """
        with eventlet.Timeout(CLOSE_SECONDS, False):
            for query, thread in self._made:
                thread.run(query.close)

    def _make(self) -> tuple[EventLogQuery, Background]:
        made = (
            EventLogQuery(self._uri, seconds=self._seconds),
            Background(self._seconds + ANSWER_SECONDS),
        )
        self._made.append(made)
        return made
