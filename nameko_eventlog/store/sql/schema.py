"""
The tables: event logs, what they have in common, summaries of them, and rejects.

What many event logs share is stored once: the names in ``series``, the ids of a call in ``calls``.
`packing` takes them out of the bodies, and puts them back.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB, UUID

from nameko_eventlog.store.outcomes import COMPLETED, OUTCOMES


metadata = MetaData()


class Key(TypeDecorator[bytes]):
    """
    Sixteen bytes: a UUID in PostgreSQL, which compares it like bytes.
    """

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """
        Return the type of the database.
        """
        if dialect.name == "postgresql":
            return dialect.type_descriptor(UUID(as_uuid=False))
        return dialect.type_descriptor(LargeBinary(16))

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> Any:
        """
        Return what the database takes.
        """
        return value.hex() if value is not None and dialect.name == "postgresql" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> bytes | None:
        """
        Return the bytes of what the database gives.
        """
        return bytes.fromhex(value.replace("-", "")) if isinstance(value, str) else value


# Compared byte by byte, as in SQLite: the order of ids does not depend on the locale.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_ID = BigInteger().with_variant(Integer, "sqlite")

series = Table(
    "series",
    metadata,
    # The writer numbers them.
    Column("id", _ID, primary_key=True, autoincrement=False),
    # Stands for all other columns.
    Column("key", Key, nullable=False, unique=True),
    Column("service_name", _TEXT, nullable=False),
    Column("entrypoint_protocol", _TEXT),
    Column("entrypoint_name", _TEXT),
    # The service of the parent call.
    Column("caller", _TEXT),
    Column("event_type", _TEXT, nullable=False),
    Column("level", _TEXT),
    # What is wrong with the sender's time; usually nothing.
    Column("time_note", _TEXT),
    # Whether the event logs have a call id.
    Column("in_call", Boolean, nullable=False),
)
for _name in ("service_name", "entrypoint_name", "caller", "event_type", "level", "time_note"):
    Index(f"series_{_name}", series.c[_name])

calls = Table(
    "calls",
    metadata,
    # The writer numbers them.
    Column("id", _ID, primary_key=True, autoincrement=False),
    # Stand for the call id, and for the call stack: a sender might change the stack during a call.
    Column("call_key", Key, nullable=False),
    Column("stack_key", Key, nullable=False),
    # The call stack, whose last id is the call's own; or an object with both as in the body.
    Column("context", _JSON, nullable=False),
    # Stand for the first id of the call stack, and for the id before the call's own if that is
    # another.
    Column("origin_key", Key),
    Column("parent_key", Key),
    # The summary: see `summaries`.
    Column("series_id", BigInteger, nullable=False),
    Column("first", Key, nullable=False),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Column("ended", Key),
    Column("is_captured", Boolean, nullable=False),
    Column("duration", Float(53)),
    Column("outcome", SmallInteger, nullable=False),
    Column("severity", Integer, nullable=False),
    Column("is_failed", Boolean, nullable=False),
    Column("number", Integer, nullable=False),
)
Index("calls_call_key", calls.c.call_key, calls.c.stack_key, unique=True)
Index("calls_origin_key", calls.c.origin_key)
_is_set = calls.c.parent_key.is_not(None)
Index("calls_parent_key", calls.c.parent_key, postgresql_where=_is_set, sqlite_where=_is_set)
Index("calls_first", calls.c.first)
Index("calls_series", calls.c.series_id, calls.c.first)
_is_timed = calls.c.duration.is_not(None)
Index(
    "calls_duration",
    calls.c.duration,
    calls.c.first,
    postgresql_where=_is_timed,
    sqlite_where=_is_timed,
)
# Most calls are completed.
_is_unusual = calls.c.outcome != OUTCOMES.index(COMPLETED)
Index(
    "calls_outcome",
    calls.c.outcome,
    calls.c.first,
    postgresql_where=_is_unusual,
    sqlite_where=_is_unusual,
)

event_logs = Table(
    "event_logs",
    metadata,
    # On SQLite alone: see `numbering`.
    Column("id", Integer, nullable=False, system=True),
    # Identifies duplicates, and sorts by time: see `positions`.
    Column("position", Key, primary_key=True),
    Column("series_id", BigInteger, nullable=False),
    Column("call", BigInteger),
    # What is not in the body because it is elsewhere: see `packing`.
    Column("packed", Integer, nullable=False),
    # The body's time less the position's, in milliseconds.
    Column("time_offset", Integer),
    # Where it is not the position.
    Column("message_id", _TEXT),
    Column("body", _JSON, nullable=False),
)
Index("event_logs_series", event_logs.c.series_id, event_logs.c.position)
_is_set = event_logs.c.call.is_not(None)
Index("event_logs_call", event_logs.c.call, postgresql_where=_is_set, sqlite_where=_is_set)

# For containment in bodies; SQLite has no such index.
Index(
    "event_logs_body",
    event_logs.c.body,
    postgresql_using="gin",
    postgresql_ops={"body": "jsonb_path_ops"},
).ddl_if(dialect="postgresql")

# The message ids that are no positions. In an index of event logs, each partition would have its
# own, and each batch would search all of them.
message_ids = Table(
    "message_ids",
    metadata,
    Column("message_id", _TEXT, primary_key=True),
    Column("position", Key, nullable=False),
)
Index("message_ids_position", message_ids.c.position)

counts = Table(
    "counts",
    metadata,
    # The length of the time in seconds, and where it begins.
    Column("span", Integer, primary_key=True, autoincrement=False),
    Column("begin_ms", BigInteger, primary_key=True, autoincrement=False),
    # Or `EVERY_SERIES`.
    Column("series_id", BigInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

call_counts = Table(
    "call_counts",
    metadata,
    # The length of the time in seconds, and where it begins.
    Column("span", Integer, primary_key=True, autoincrement=False),
    Column("begin_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("series_id", BigInteger, primary_key=True, autoincrement=False),
    Column("outcome", SmallInteger, primary_key=True, autoincrement=False),
    Column("is_failed", Boolean, primary_key=True),
    Column("number", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

durations = Table(
    "durations",
    metadata,
    # The length of the time in seconds, and where it begins.
    Column("span", Integer, primary_key=True, autoincrement=False),
    Column("begin_ms", BigInteger, primary_key=True, autoincrement=False),
    Column("service_name", _TEXT, primary_key=True),
    # Empty where there is none.
    Column("entrypoint_name", _TEXT, primary_key=True),
    Column("bucket", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Of a day whose event logs were dropped all at once, while summaries may still count them.
dropped_days = Table(
    "dropped_days",
    metadata,
    Column("begin_ms", BigInteger, primary_key=True, autoincrement=False),
)

rejects = Table(
    "rejects",
    metadata,
    Column("id", _ID, primary_key=True),
    # When it was rejected, in milliseconds since 1970.
    Column("rejected_ms", BigInteger, nullable=False),
    Column("reason", _TEXT, nullable=False),
    # Of message id, routing and body: a message that is delivered again is kept once. Without an
    # id, each delivery counts as another message.
    Column("digest", _TEXT, nullable=False, unique=True),
    Column("message_id", _TEXT),
    Column("exchange", _TEXT, nullable=False),
    Column("routing_key", _TEXT, nullable=False),
    # AMQP's basic properties with the headers, as far as JSON can represent them.
    Column("properties", _JSON, nullable=False),
    # As received.
    Column("body", LargeBinary, nullable=False),
)
