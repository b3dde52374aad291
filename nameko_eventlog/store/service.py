"""
`EventLogStore`: the service that stores event logs, and answers queries.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import eventlet
from nameko.extensions import DependencyProvider
from nameko.timer import timer

from nameko_eventlog import compat
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.consuming.entrypoint import EventLogConsumer
from nameko_eventlog.exceptions import Unavailable
from nameko_eventlog.limits import QUERY_SECONDS
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.config import parse_store_config
from nameko_eventlog.store.databases import DatabaseError
from nameko_eventlog.store.parameters import InvalidQuery
from nameko_eventlog.store.probing import RefusedBatchProbe
from nameko_eventlog.store.reading import Readers
from nameko_eventlog.store.retention import Retention
from nameko_eventlog.store.rows import NONCE_BYTES
from nameko_eventlog.store.rpc import rpc
from nameko_eventlog.store.sql.partitions import RETRY_SECONDS
from nameko_eventlog.store.sql.waiting import wait_in_real_threads
from nameko_eventlog.store.writing import EventLogWriter, has_id


_log = logging.getLogger("nameko_eventlog")

WRITE_SECONDS = 60.0
"""How long to wait for a transaction."""

MAX_DELIVERIES = 15
"""How often a message of a quorum queue may be delivered before it is written alone."""

RETENTION_SECONDS = 60.0
"""How often retention runs."""

_REST = 0.05  # seconds between two steps of retention, in which others write


class Database(DependencyProvider):
    """
    The store's database, written and read without blocking green threads.
    """

    _is_set_up = False

    def setup(self) -> None:
        """
        Read the configuration, without connecting yet.

        Raises:
            ConfigurationError: It is invalid.
        """
        self.config = parse_store_config(compat.service_config(self.container))
        wait_in_real_threads()
        self.counts = StoreCounts()
        self._writer = EventLogWriter(self.config.uri, self.container.accept, self.counts)
        self._writing = Background(WRITE_SECONDS)
        self._probing = Background(QUERY_SECONDS)
        self._refused: list[ReceivedMessage] = []
        rules = self.config.rules
        self._retention = Retention(self.config.uri, rules) if rules else None
        self._readers = Readers(self.config.uri)
        self.ask = self._readers.ask
        self._is_set_up = True

    def start(self) -> None:
        """
        Create or migrate the tables; if that fails now, it is done before the first row.
        """
        try:
            self._writing.run(self._writer.prepare)
        except DatabaseError as exc:
            _log.warning("%s; event logs wait in the queue", exc)

    def stop(self) -> None:
        """
        Close the connections; Nameko also calls this after a failed `setup`.
        """
        if not self._is_set_up:
            return
        self._readers.close()
        with suppress(DatabaseError):  # stop even if the database does not answer
            self._writing.run(self._writer.close)

    def get_dependency(self, worker_ctx: Any) -> Database:
        """
        Return the database itself.
        """
        return self

    def write(self, messages: list[ReceivedMessage]) -> None:
        """
        Write a batch.

        Raises:
            Unavailable: If the database cannot accept it now.
        """
        reasons: list[str] = []
        begun = monotonic()
        try:
            while messages:  # each transaction has its own time limit, and is never repeated
                write = partial(self._writer.write_first, messages)
                number, some = self._writing.run(write)
                reasons += some
                self.counts.rejects += len(some)
                messages = messages[number:]
        except DatabaseError as exc:
            self._refused = messages
            raise Unavailable(str(exc)) from exc
        finally:
            self.counts.write_seconds += monotonic() - begun
        self._refused = []
        if reasons:
            _log.warning(
                "kept %d messages as rejects that could not be stored; reason of the first: %s",
                len(reasons),
                reasons[0],
            )

    def probe(self) -> bool:
        """
        Tell whether the database accepts the batch that it refused.

        Raises:
            DatabaseError: It does not.
        """
        return self._probing.run(
            RefusedBatchProbe(
                self.config.uri, self.container.accept, list(self._refused), self.counts
            )
        )

    def add_partitions(self) -> None:
        """
        Add PostgreSQL's partitions for the next days, also while nothing is written.
        """
        with suppress(DatabaseError):  # the next batch tells
            self._writing.run(self._writer.prepare)
        if self._writer.problem is not None:
            _log.warning(
                "could not add a daily partition, so event logs go to the default partition: %s;"
                " trying again in %g s",
                self._writer.problem,
                RETRY_SECONDS,
            )

    def apply_retention(self) -> None:
        """
        Delete what is too old, with a pause after every step.
        """
        if self._retention is None:
            return
        try:
            self._retention.run(Background(WRITE_SECONDS), partial(eventlet.sleep, _REST))
        except DatabaseError as exc:
            _log.warning("retention: %s; trying again in %g s", exc, RETENTION_SECONDS)
        finally:
            self.counts.purged = self._retention.purged


class StoreConsumer(EventLogConsumer):
    """
    Hands messages to the store as received; its options come from the configuration.
    """

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: It is invalid.
        """
        config = parse_store_config(compat.service_config(self.container))
        self.services = config.services
        self.batch_size = config.batch_size
        self.batch_seconds = config.batch_seconds
        self.quorum = config.quorum
        self.max_length = config.max_length
        self.fan_in_exchange = config.fan_in_exchange
        self.routing_key = config.event_type
        super().setup()
        self.max_deliveries = MAX_DELIVERIES

    def read(self, message: ReceivedMessage) -> ReceivedMessage:
        """
        Return *message* undecoded, so that the store can reject it.

        A message without an id gets a nonce, which identifies it however often it is written.
        """
        if has_id(message):
            return message
        return replace(message, nonce=os.urandom(NONCE_BYTES))

    def probe(self) -> bool:
        """
        Tell whether the database accepts the batch that it refused.

        Consuming resumes only then. A quorum queue counts each delivery and return, so messages
        could become dead letters without ever meeting a working database.
        """
        return self._database.probe()

    def stats(self) -> dict[str, float]:
        """
        Return the counts of the consumer and of the store.
        """
        return {**super().stats(), **self._database.counts.as_dict()}

    @property
    def _database(self) -> Database:
        return next(one for one in self.container.dependencies if isinstance(one, Database))


_store_event_logs = StoreConsumer.decorator


class EventLogStore:
    """
    Stores event logs in a database: ``nameko run nameko_eventlog.store --config config.yaml``.

    Its RPC methods are those of `EventLogQuery`, with the same parameters and answers; times are
    text.

    .. versionadded:: 0.1.0
    """

    name = "eventlog_store"
    database = Database()

    @_store_event_logs(queue="eventlog-store", expected_exceptions=(Unavailable,))
    def store(self, messages: list[ReceivedMessage]) -> None:
        """
        Store a batch.
        """
        self.database.write(messages)

    @timer(interval=RETENTION_SECONDS)
    def apply_retention(self) -> None:
        """
        Delete what is too old, and prepare for the next days.
        """
        self.database.add_partitions()
        self.database.apply_retention()

    @rpc(expected_exceptions=(InvalidQuery,))
    def query(self, /, **parameters: Any) -> Any:
        """
        Return a page of event logs: `EventLogQuery.query`.
        """
        return self.database.ask("query", **parameters)

    @rpc(expected_exceptions=(InvalidQuery,))
    def count(self, /, **parameters: Any) -> Any:
        """
        Count event logs: `EventLogQuery.count`.
        """
        return self.database.ask("count", **parameters)

    @rpc(expected_exceptions=(InvalidQuery,))
    def service_map(self, /, **parameters: Any) -> Any:
        """
        Count the calls between services: `EventLogQuery.service_map`.
        """
        return self.database.ask("service_map", **parameters)

    @rpc(expected_exceptions=(InvalidQuery,))
    def calls(self, /, **parameters: Any) -> Any:
        """
        Return a page of calls: `EventLogQuery.calls`.
        """
        return self.database.ask("calls", **parameters)

    @rpc(expected_exceptions=(InvalidQuery,))
    def latencies(self, /, **parameters: Any) -> Any:
        """
        Return how long calls took: `EventLogQuery.latencies`.
        """
        return self.database.ask("latencies", **parameters)

    @rpc(expected_exceptions=(InvalidQuery,))
    def unseen(self, /, **parameters: Any) -> Any:
        """
        Return the filter values that no event log has: `EventLogQuery.unseen`.
        """
        return self.database.ask("unseen", **parameters)

    @rpc(expected_exceptions=(InvalidQuery,))
    def get(self, message_id: str) -> Any:
        """
        Return one event log: `EventLogQuery.get`.
        """
        return self.database.ask("get", message_id)

    @rpc(expected_exceptions=(InvalidQuery,))
    def trace(self, call_id: str) -> Any:
        """
        Return the tree of calls: `EventLogQuery.trace`.
        """
        return self.database.ask("trace", call_id)

    @rpc(expected_exceptions=(InvalidQuery,))
    def services(self) -> Any:
        """
        Return the services that have event logs: `EventLogQuery.services`.
        """
        return self.database.ask("services")
