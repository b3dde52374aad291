"""
Schemas, engines, retention, and the writer's troubles.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import traceback
import tracemalloc
import zlib
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import eventlet
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from eventlet import patcher, tpool
from nameko.exceptions import ConfigurationError
from sqlalchemy import inspect, text
from sqlalchemy.exc import OperationalError

from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.store import DatabaseError, EventLogQuery
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.config import StoreConfig, parse_store_config
from nameko_eventlog.store.probing import RefusedBatchProbe
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.retention import count_before, purge
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.inserting import lock_writers
from nameko_eventlog.store.sql.migrating import VERSION_TABLE, Migration
from nameko_eventlog.store.sql.schema import metadata
from nameko_eventlog.store.sql.waiting import wait_in_real_threads
from nameko_eventlog.store.writing import EventLogWriter
from tests.postgresql import PostgreSQL
from tests.revisions import add_revision
from tests.store.conftest import Make, body
from tests.store.tables import SQL, Tables, is_clickhouse, with_tables


def is_of_database(dialect: str, _: Any, name: str, kind: str, *rest: Any) -> bool:
    """
    Tell whether `schema` describes something for a database of this kind.
    """
    if kind == "column" and name == "id":  # SQLite's event logs have one, PostgreSQL's have none
        return False
    if name.startswith("event_logs_text"):  # the index of texts, which a database may lack
        return False
    if dialect == "postgresql":
        return not name.startswith("event_logs_default")  # a partition, and its indexes
    return name != "event_logs_body"


class TestCounts:
    def test_rows_and_duplicates(self, database: str, message: Make) -> None:
        """
        What is inserted is counted, and so is what was there before, rejects aside.
        """
        counts = StoreCounts()
        writer = EventLogWriter(database, ["json"], counts)
        some = [message(body()) for _ in range(3)]
        for messages in (some, [*some, message(body()), message(b"rubbish")]):
            writer.write(messages)
        writer.close()

        assert (4, 3) == (counts.rows, counts.duplicates)


class TestMigrate:
    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_schema(self, database: str) -> None:
        """
        The migrations make the tables of `schema`.
        """
        engine = open_engine(database, writes=True)
        Migration(engine).run()
        Migration(engine).run()
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_name": lambda name, kind, parents: name != VERSION_TABLE,
                    "include_object": partial(is_of_database, connection.dialect.name),
                    "compare_type": False,
                },
            )
            assert [] == compare_metadata(context, metadata)
        engine.dispose()

    @pytest.mark.parametrize("database", SQL, indirect=True)
    def test_next_version(
        self, database: str, message: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A later version migrates the tables that are there, with their rows.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body(), message_id="1")])
        writer.close()
        add_revision(tmp_path / "migrations", monkeypatch)
        engine = open_engine(database, writes=True)
        Migration(engine).run()
        with engine.connect() as connection:
            found = connection.execute(text("SELECT message_id, colour FROM event_logs")).all()
            version = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        engine.dispose()

        assert [("1", "blue")] == [tuple(row) for row in found]
        assert "9000" == version

    def test_at_once(self, database: str) -> None:
        """
        Several instances may start at once: one makes the tables.
        """

        if database.startswith("postgresql"):
            wait_in_real_threads()
        writers = [EventLogWriter(database, ["json"]) for _ in range(4)]
        list(eventlet.GreenPool(4).imap(tpool.execute, [one.prepare for one in writers]))
        for one in writers:
            one.close()

        with EventLogQuery(database) as query:
            assert [] == query.services()

    def test_file_in_use(self, tmp_path: Path) -> None:
        """
        A new file that another instance is just writing to is waited for.
        """
        path = tmp_path / "eventlog.db"
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("CREATE TABLE others (one)")
        other.execute("BEGIN IMMEDIATE")
        engine = open_engine(f"sqlite:///{path}", writes=True)
        waiting = eventlet.spawn(tpool.execute, Migration(engine).run)
        eventlet.sleep(0.2)
        other.execute("ROLLBACK")
        waiting.wait()
        other.close()

        with engine.connect() as connection:
            assert "wal" == connection.scalar(text("PRAGMA journal_mode"))
            assert inspect(connection).has_table("event_logs")
        engine.dispose()

    def test_later_version(self, database: str, message: Make) -> None:
        """
        Tables of a later version are left alone, and nothing is written.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(body())])
        writer.close()
        with Tables(database) as tables:
            tables.set_version("9999")

        later = EventLogWriter(database, ["json"])
        with pytest.raises(
            DatabaseError,
            match="the schema '9999', which this version of",
        ):
            later.write([message(body())])
        later.close()


class TestPassword:
    @pytest.mark.parametrize(
        "uri",
        [
            "mysql://me:secret@x/y",
            "postgresql://me:secret@x:port/y",
            "postgresql://me:1@secret@x/y",
            "postgresql://me:secret@127.0.0.1:1/y",
            "clickhouse://me:secret@x:port/y",
            "clickhouse://me:1@secret@x/y",
            "clickhouse://me:secret@127.0.0.1:1/y",
        ],
    )
    def test_not_shown(self, uri: str) -> None:
        """
        No error shows a password.
        """
        with pytest.raises(DatabaseError) as raised, EventLogQuery(uri) as query:
            query.query()

        assert "secret" not in str(raised.value)


class TestWriter:
    def test_refused_by_database(self, database: str, message: Make) -> None:
        """
        A row that the database alone refuses is a reject, and the others of its batch are rows.
        """
        with with_tables(database) as tables:
            tables.refuse("series", "event_type", "bad")
        writer = EventLogWriter(database, ["json"])

        reasons = writer.write(
            [message(body(event_type=name)) for name in ("good", "bad", "fine")]
        )
        writer.close()

        assert 1 == len(reasons)
        assert reasons[0].startswith("the database: ")
        with EventLogQuery(database) as query:
            assert {"good", "fine"} == {
                row["body"]["event_type"] for row in query.query()["event_logs"]
            }

    def test_rejects_without_id(self, database: str, message: Make) -> None:
        """
        An empty message id is none: two rejects of the same bytes are two, each written once.
        """
        writer = EventLogWriter(database, ["json"])
        for message_id, nonces in ((None, b"ab"), ("", b"cd"), ("one", b"ef")):
            twice = [
                message(b"rubbish", message_id=message_id, nonce=bytes([nonce]) * 10)
                for nonce in nonces
            ]
            writer.write(twice)
            writer.write(twice)
        writer.close()

        kept = Rejects(database)
        found = kept.list()
        kept.close()
        assert [None, None, "", "", "one"] == [one.message_id for one in found][::-1]

    def test_expanding(self, database: str, message: Make) -> None:
        """
        Many messages that become a thousand times as large need the memory of one.
        """
        bomb = zlib.compress(json.dumps(body(data={"x": "y" * 20_000_000})).encode())
        writer = EventLogWriter(database, ["json"])
        peaks = []
        for number in (1, 6):
            messages = [
                message(bomb, headers={"compression": "application/x-gzip"}) for _ in range(number)
            ]
            tracemalloc.start()
            assert [] == writer.write(messages)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        writer.close()

        assert peaks[1] < 1.5 * peaks[0]
        with EventLogQuery(database) as query:
            assert [7] == [one["count"] for one in query.count()]

    def test_portions(self, database: str, message: Make, monkeypatch: Any) -> None:
        """
        What is written in several transactions is written whole, and all reasons are told.
        """
        monkeypatch.setattr("nameko_eventlog.limits.TRANSACTION_BYTES", 1000)
        good = zlib.compress(json.dumps(body(data={"x": "y" * 300})).encode())
        compressed = {"headers": {"compression": "zlib"}}
        writer = EventLogWriter(database, ["json"])

        reasons = writer.write([message(one, **compressed) for one in [good, b"bad"] * 20])
        writer.close()

        assert 20 == len(reasons)
        with EventLogQuery(database) as query:
            assert [20] == [one["count"] for one in query.count()]

    def test_disk_full(self, tmp_path: Any, message: Make) -> None:
        """
        A database that takes no more is unavailable: nothing becomes a reject for it.
        """
        uri = f"sqlite:///{tmp_path}/x.db"
        writer = EventLogWriter(uri, ["json"])
        writer.prepare()
        with writer._writer.engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DatabaseError, match="full"):
            writer.write([message(body(data={"x": "y" * 100_000})) for _ in range(10)])
        writer.close()

        with EventLogQuery(uri) as query:
            assert [] == query.query()["event_logs"]

    def test_stopped_in_the_middle(
        self, postgresql: PostgreSQL, message: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A writer that has stopped in a transaction does not hold up the others for ever.
        """
        monkeypatch.setattr("nameko_eventlog.store.sql.engines.IDLE_SECONDS", 0.5)
        postgresql.start()
        uri = postgresql.create_database()
        writer = EventLogWriter(uri, ["json"])
        writer.prepare()
        engine = open_engine(uri, writes=True)
        with engine.connect() as connection:
            lock_writers(connection)
            assert [] == writer.write([message(body())])
            with pytest.raises(OperationalError):
                connection.execute(text("SELECT 1"))
        engine.dispose()
        writer.close()

        with EventLogQuery(uri) as query:
            assert [1] == [one["count"] for one in query.count()]


class TestOpenEngine:
    def test_options(self, postgresql: PostgreSQL, message: Make) -> None:
        """
        Readers obey the options of an address as the writer does, and give statements up.
        """
        postgresql.start()
        uri = postgresql.create_database()
        engine = open_engine(uri)
        with engine.begin() as connection:
            connection.execute(text("CREATE SCHEMA elsewhere"))
        engine.dispose()
        uri += "?options=-csearch_path%3Delsewhere"
        writer = EventLogWriter(uri, ["json"])
        writer.write([message(body())])
        writer.close()

        with EventLogQuery(uri, seconds=7) as query:
            assert 1 == len(query.query()["event_logs"])
            with query._reader.reading() as reading:
                assert "7s" == reading.connection.scalar(text("SHOW statement_timeout"))


class TestPurge:
    def test_steps(self, database: str, message: Make) -> None:
        """
        What is older goes in small steps, rejects as well.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write(
            [
                message(body(timestamp=f"2026-01-0{day}T00:00:00Z"), message_id=f"{day}-{n}")
                for day in (1, 2, 3)
                for n in range(10)
            ]
        )
        writer.write([message(b"rubbish")])
        writer.close()
        third = datetime(2026, 1, 3, tzinfo=timezone.utc)

        assert 20 == count_before(database, third)
        steps = [10, 10] if is_clickhouse(database) else [8, 8, 4]  # there a step is a day
        assert steps == list(purge(database, third, step=8))
        assert 11 == count_before(database, datetime(2100, 1, 1, tzinfo=timezone.utc))
        assert [10, 1] == list(purge(database, datetime(2100, 1, 1, tzinfo=timezone.utc)))


class TestWaiting:
    def test_frozen(self, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A server that does not answer is given up, in real threads, while green ones go on.
        """
        monkeypatch.setattr("nameko_eventlog.store.sql.waiting.WAIT_SECONDS", 1)
        postgresql.start()
        uri = postgresql.create_database()
        wait_in_real_threads()
        engine = open_engine(uri)

        def ask() -> Any:
            with engine.connect() as connection:
                return connection.scalar(text("SELECT 1"))

        assert 1 == ask()  # green
        assert 1 == tpool.execute(ask)
        postgresql.freeze()
        try:
            with pytest.raises(Exception, match="no answer within 1 s"):
                tpool.execute(ask)
        finally:
            postgresql.thaw()
        assert 1 == tpool.execute(ask)
        engine.dispose()


class LockOfLogging:
    """
    The lock of the ``logging`` module, as long as only green threads take it.
    """

    def __init__(self, lock: Any) -> None:
        self._lock = lock
        self._ident = patcher.original("threading").get_ident
        self._home = self._ident()
        self.taken_by: list[str] = []

    def acquire(self) -> None:
        self._note()
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def _note(self) -> None:
        if self._ident() != self._home:
            self.taken_by += traceback.format_stack(limit=8)


class TestRealThreads:
    def test_lock_of_logging(
        self, database: str, message: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What runs in a real thread never takes it: that thread, or the green one that has it
        then, would wait for ever (eventlet#742).
        """
        if database.startswith("postgresql"):
            wait_in_real_threads()
        lock = LockOfLogging(logging._lock)  # type: ignore[attr-defined]
        monkeypatch.setattr(logging, "_lock", lock)
        writer = EventLogWriter(database, ["json"])
        probe = RefusedBatchProbe(
            database, ["json"], [message(body()), message(body(), message_id=None)]
        )
        query = EventLogQuery(database)
        steps = purge(database, datetime(2100, 1, 1, tzinfo=timezone.utc))

        assert [] == tpool.execute(writer.write, [message(body())])
        assert tpool.execute(probe)
        assert 2 == len(tpool.execute(query.query)["event_logs"])
        assert [2] == tpool.execute(list, steps)
        for one in (query, writer):
            tpool.execute(one.close)
        assert "" == "".join(lock.taken_by)

        tpool.execute(logging.getLogger, "of a real thread")
        assert lock.taken_by


class TestBackground:
    def test_too_long(self) -> None:
        """
        Who waits for too long is told so, and the next waits for its turn.
        """
        time = patcher.original("time")
        background = Background(0.2)

        with pytest.raises(DatabaseError, match="did not answer within"):
            background.run(lambda: time.sleep(0.5))
        with pytest.raises(DatabaseError):
            background.run(lambda: 5)
        eventlet.sleep(0.4)
        assert 5 == background.run(lambda: 5)


class TestConfig:
    def test_defaults(self) -> None:
        """
        Nothing is needed.
        """
        assert StoreConfig() == parse_store_config({})
        assert StoreConfig(retention_days=0.5, services=("a",)) == parse_store_config(
            {"EVENTLOG_STORE": {"retention_days": 0.5, "services": ["a"], "uri": None}}
        )

    @pytest.mark.parametrize(
        ("section", "said"),
        [
            ({"retention_day": 5}, "did you mean 'retention_days'"),
            ({"uri": "mysql://x"}, "EVENTLOG_STORE.uri must be sqlite:///FILE, postgresql:"),
            ({"uri": "nonsense"}, "EVENTLOG_STORE.uri must be sqlite:///FILE, postgresql:"),
            ({"uri": "sqlite://"}, "a database in memory is lost when the process ends"),
            ({"retention_days": 0}, "must be a number of days, above 0 and below 36500"),
            (
                {"batch_size": "many"},
                "EVENTLOG_STORE.batch_size must be an integer from 1 to 65535, not 'many'",
            ),
            ({"batch_size": 65_536}, "batch_size must be an integer from 1 to 65535, not 65536"),
            ({"batch_size": True}, "batch_size must be an integer from 1 to 65535, not True"),
            (
                {"max_length": 2**63},
                "EVENTLOG_STORE.max_length must be an integer from 1 to 9223372036854775807",
            ),
            ([], "EVENTLOG_STORE must be a mapping"),
        ],
    )
    def test_wrong(self, section: Any, said: str) -> None:
        """
        A wrong key or value stops the service at its start, with its name.
        """
        with pytest.raises(ConfigurationError, match=said):
            parse_store_config({"EVENTLOG_STORE": section})
