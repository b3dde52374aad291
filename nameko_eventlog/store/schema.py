"""
The tables: event logs, and rejects.

Each name or id that a filter may select has its own column, and an index that keeps the rows of
one value in order. Everything else is in ``body``, which is complete.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB


metadata = MetaData()

# Compared byte by byte, as in SQLite: the order of ids does not depend on the locale.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

event_logs = Table(
    "event_logs",
    metadata,
    # Identifies duplicates; the store makes one if the sender gave none.
    Column("message_id", _TEXT, primary_key=True),
    # Milliseconds since 1970, from the message id or the body: see `dating`.
    Column("time_ms", BigInteger, nullable=False),
    Column("service_name", _TEXT, nullable=False),
    Column("event_type", _TEXT, nullable=False),
    Column("entrypoint_protocol", _TEXT),
    Column("entrypoint_name", _TEXT),
    Column("level", _TEXT),
    Column("call_id", _TEXT),
    # The first id of the call stack, and the id before the call's own.
    Column("origin_call_id", _TEXT),
    Column("parent_call_id", _TEXT),
    # The service of the parent call.
    Column("caller", _TEXT),
    # What is wrong with the sender's time; usually nothing.
    Column("time_note", _TEXT),
    Column("body", _JSON, nullable=False),
)

Index("event_logs_time", event_logs.c.time_ms, event_logs.c.message_id)
for _name in (
    "service_name",
    "event_type",
    "entrypoint_name",
    "level",
    "call_id",
    "origin_call_id",
    "caller",
    "time_note",
):
    _column = event_logs.c[_name]
    # Most event logs have no level, and those from outside calls have no call id.
    _where = _column.is_not(None) if _column.nullable else None
    Index(
        f"event_logs_{_name}",
        _column,
        event_logs.c.time_ms,
        event_logs.c.message_id,
        postgresql_where=_where,
        sqlite_where=_where,
    )

Index(
    "event_logs_parent_call_id",
    event_logs.c.parent_call_id,
    postgresql_where=event_logs.c.parent_call_id.is_not(None),
    sqlite_where=event_logs.c.parent_call_id.is_not(None),
)

# For containment in bodies; SQLite has no such index.
Index(
    "event_logs_body",
    event_logs.c.body,
    postgresql_using="gin",
    postgresql_ops={"body": "jsonb_path_ops"},
).ddl_if(dialect="postgresql")

rejects = Table(
    "rejects",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
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
