"""
The tables, as they are now; `migrations` knows how they came to be.

Two tables. What a filter asks for stands in a column of its own, each with an index in which the
rows of one value lie in their order; everything else is in ``body``, once and whole.
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

# Compared byte by byte, as SQLite does it: the locale has no say in the order of ids.
_TEXT = Text().with_variant(Text(collation="C"), "postgresql")
_JSON = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

event_logs = Table(
    "event_logs",
    metadata,
    # What duplicates are known by; one of the store's own where the sender gave none.
    Column("message_id", _TEXT, primary_key=True),
    # The order: milliseconds since 1970 out of the message id, or of the body's time; `dating`.
    Column("time_ms", BigInteger, nullable=False),
    Column("service_name", _TEXT, nullable=False),
    Column("event_type", _TEXT, nullable=False),
    Column("entrypoint_protocol", _TEXT),
    Column("entrypoint_name", _TEXT),
    Column("level", _TEXT),
    Column("call_id", _TEXT),
    # The first of the call stack, and the one before the call itself.
    Column("origin_call_id", _TEXT),
    Column("parent_call_id", _TEXT),
    # The service of the latter.
    Column("caller", _TEXT),
    # What is odd about the sender's time, mostly nothing.
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
    # Most event logs have no level, and what happens outside calls has no call.
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

# For what is contained in a body; SQLite has none of the kind.
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
    # Milliseconds since 1970 at which it was rejected.
    Column("rejected_ms", BigInteger, nullable=False),
    Column("reason", _TEXT, nullable=False),
    # Of message id, routing and body: one that is delivered again is rejected once. Without an
    # id each delivery is one of its own.
    Column("digest", _TEXT, nullable=False, unique=True),
    Column("message_id", _TEXT),
    Column("exchange", _TEXT, nullable=False),
    Column("routing_key", _TEXT, nullable=False),
    # AMQP's basic properties, the headers among them, as far as JSON can say them.
    Column("properties", _JSON, nullable=False),
    # As it was received.
    Column("body", LargeBinary, nullable=False),
)
