"""
The tables in ClickHouse.

A writer inserts into ``arriving``, which keeps nothing: materialized views pass its rows on to the
tables. All of these give the same answer however often a row is inserted, so a batch that arrives
again changes nothing. ``event_logs`` keeps one row of each position. ``call_parts`` has a row for
each call and ten minutes, made of minima and maxima. ``series_days`` has the first and the last
position of each series and day. Numbers of event logs are counted when they are asked for.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    func,
)


VERSION = "0001"
"""The version of this schema."""

SPAN = 600
"""The length, in seconds, of the time of which a row of ``call_parts`` tells."""

DAY_MS = 86_400_000

NO_KEY = bytes(16)
"""Stands for no call, no origin, no parent."""

metadata = MetaData()


class Key(TypeDecorator[bytes]):
    """
    Sixteen bytes, which `connections` passes as hexadecimal digits.
    """

    impl = LargeBinary
    cache_ok = True

    def bind_expression(self, bindparam: Any) -> ColumnElement[Any]:
        """
        Return what the database compares.
        """
        return func.unhex(bindparam, type_=self)


event_logs = Table(
    "event_logs",
    metadata,
    Column("position", Key),
    Column("series_id", BigInteger),
    Column("call", Key),
    Column("packed", Integer),
    Column("time_offset", Integer),
    # Empty if it is the position.
    Column("message_id", Text),
    Column("body", Text),
    # What only the event log that ends a call has: 0 elsewhere, else 1 and the outcome, and 8 more
    # if auto capture told it.
    Column("ending", Integer),
    Column("duration", Float),
)

series = Table(
    "series",
    metadata,
    Column("id", BigInteger),
    Column("service_name", Text),
    Column("entrypoint_protocol", Text),
    Column("entrypoint_name", Text),
    Column("caller", Text),
    Column("event_type", Text),
    Column("level", Text),
    Column("time_note", Text),
    Column("in_call", Integer),
    # What the level and the event type tell.
    Column("severity", Integer),
    Column("is_failure", Integer),
)

call_parts = Table(
    "call_parts",
    metadata,
    # Where the ten minutes begin, in seconds since 1970.
    Column("span", Integer),
    Column("id", Key),
    Column("call_key", Key),
    Column("origin_key", Key),
    Column("parent_key", Key),
    Column("context", Text),
    # (position, series_id)
    Column("first", Text),
    Column("last_ms", BigInteger),
    # (is_captured, position, duration, outcome)
    Column("ended", Text),
    Column("severity", Integer),
    Column("is_failed", Integer),
)

series_days = Table(
    "series_days",
    metadata,
    # In days since 1970.
    Column("day", Integer),
    Column("series_id", BigInteger),
    Column("first", Key),
    Column("last", Key),
)

message_ids = Table(
    "message_ids",
    metadata,
    Column("message_id", Text),
    Column("position", Key),
    Column("written", Text),
)

rejects = Table(
    "rejects",
    metadata,
    Column("id", BigInteger),
    Column("rejected_ms", BigInteger),
    Column("reason", Text),
    Column("digest", Text),
    Column("message_id", Text),
    Column("exchange", Text),
    Column("routing_key", Text),
    Column("properties", Text),
    Column("body", LargeBinary),
)

repairs = Table("repairs", metadata, Column("day", Integer), Column("is_open", Integer))

versions = Table("eventlog_schema", metadata, Column("version_num", Text))

# What was acknowledged survives a power cut, as in the other databases.
_DURABLE = "fsync_after_insert = 1, fsync_part_directory = 1"

_MS = "toInt64(reinterpretAsUInt64(reverse(substring(position, 1, 6))))"

_DAY = f"toDate32(intDiv({_MS}, {DAY_MS}))"

SERIES_DAY = f"""
    toInt32(intDiv({_MS}, {DAY_MS})) AS day, series_id, min(position) AS first,
    max(position) AS last
""".strip()
"""What is selected for ``series_days``."""

PART = f"""
    toUInt32(intDiv({_MS}, {SPAN}000) * {SPAN}) AS span, call AS id,
    min((position, series_id)) AS first, max({_MS}) AS last_ms,
    max((
        toUInt8(ending >= 8),
        if(ending = 0, toFixedString('', 16), position),
        duration,
        toUInt8(if(ending = 0, 0, (ending - 1) % 8))
    )) AS ended
""".strip()
"""What is selected of event logs for ``call_parts``."""

_ENDED = "Tuple(UInt8, FixedString(16), Float64, UInt8)"

TABLES = f"""
CREATE TABLE IF NOT EXISTS series (
    id Int64,
    service_name String,
    entrypoint_protocol Nullable(String),
    entrypoint_name Nullable(String),
    caller Nullable(String),
    event_type String,
    level Nullable(String),
    time_note Nullable(String),
    in_call UInt8,
    severity Int32,
    is_failure UInt8
) ENGINE = ReplacingMergeTree ORDER BY id
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS event_logs (
    position FixedString(16),
    series_id Int64,
    call FixedString(16),
    packed UInt16,
    time_offset Nullable(Int32),
    message_id String,
    body String CODEC(ZSTD(3)),
    ending UInt8,
    duration Float64,
    INDEX by_series series_id TYPE bloom_filter(0.01),
    INDEX by_call call TYPE bloom_filter(0.01),
    INDEX by_text lower(body) TYPE ngrambf_v1(4, 32768, 2, 0)
) ENGINE = ReplacingMergeTree PARTITION BY {_DAY} ORDER BY (position, message_id)
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS call_parts (
    span UInt32 CODEC(Delta, ZSTD),
    id FixedString(16),
    call_key SimpleAggregateFunction(any, FixedString(16)),
    origin_key SimpleAggregateFunction(any, FixedString(16)),
    parent_key SimpleAggregateFunction(any, FixedString(16)),
    context SimpleAggregateFunction(any, String) CODEC(ZSTD(3)),
    first SimpleAggregateFunction(min, Tuple(FixedString(16), Int64)),
    last_ms SimpleAggregateFunction(max, Int64),
    ended SimpleAggregateFunction(max, {_ENDED}),
    severity SimpleAggregateFunction(max, Int32),
    is_failed SimpleAggregateFunction(max, UInt8),
    INDEX by_key call_key TYPE bloom_filter(0.01),
    INDEX by_origin origin_key TYPE bloom_filter(0.01),
    INDEX by_parent parent_key TYPE bloom_filter(0.01)
) ENGINE = AggregatingMergeTree PARTITION BY toDate32(intDiv(span, 86400)) ORDER BY (span, id)
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS series_days (
    day Int32,
    series_id Int64,
    first SimpleAggregateFunction(min, FixedString(16)),
    last SimpleAggregateFunction(max, FixedString(16))
) ENGINE = AggregatingMergeTree PARTITION BY toDate32(day) ORDER BY (day, series_id)
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS message_ids (
    message_id String,
    position FixedString(16),
    written DateTime64(9, 'UTC') DEFAULT now64(9, 'UTC')
) ENGINE = MergeTree PARTITION BY {_DAY} ORDER BY message_id
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS rejects (
    id Int64,
    rejected_ms Int64,
    reason String,
    digest String,
    message_id Nullable(String),
    exchange String,
    routing_key String,
    properties String,
    body String
) ENGINE = ReplacingMergeTree ORDER BY digest
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS repairs (
    day Int32,
    is_open UInt8,
    written DateTime64(9, 'UTC') DEFAULT now64(9, 'UTC')
) ENGINE = ReplacingMergeTree(written) ORDER BY day
SETTINGS {_DURABLE};

CREATE TABLE IF NOT EXISTS arriving (
    position FixedString(16),
    series_id Int64,
    call FixedString(16),
    packed UInt16,
    time_offset Nullable(Int32),
    message_id String,
    body String,
    ending UInt8,
    duration Float64,
    call_key FixedString(16),
    origin_key FixedString(16),
    parent_key FixedString(16),
    context String,
    severity Int32,
    is_failure UInt8
) ENGINE = Null;

CREATE MATERIALIZED VIEW IF NOT EXISTS arriving_event_logs TO event_logs AS
SELECT position, series_id, call, packed, time_offset, message_id, body, ending, duration
FROM arriving;

CREATE MATERIALIZED VIEW IF NOT EXISTS arriving_series_days TO series_days AS
SELECT {SERIES_DAY}
FROM arriving GROUP BY day, series_id;

CREATE MATERIALIZED VIEW IF NOT EXISTS arriving_call_parts TO call_parts AS
SELECT {PART}, any(arriving.call_key) AS call_key, any(arriving.origin_key) AS origin_key,
    any(arriving.parent_key) AS parent_key, any(arriving.context) AS context,
    max(arriving.severity) AS severity, max(is_failure) AS is_failed
FROM arriving WHERE call != toFixedString('', 16) GROUP BY span, id;

CREATE TABLE IF NOT EXISTS eventlog_schema (version_num String)
ENGINE = MergeTree ORDER BY tuple();
""".strip().split(";\n\n")  # noqa: S608
"""The statements that create the tables; each leaves alone what exists."""


def time_of(position: ColumnElement[Any]) -> ColumnElement[int]:
    """
    Make the expression for the time of a position, in milliseconds since 1970.
    """
    time: ColumnElement[int] = func.toInt64(
        func.reinterpretAsUInt64(func.reverse(func.substring(position, 1, 6))), type_=BigInteger()
    )
    return time


def element(tuple_: ColumnElement[Any], at: int, type_: Any = None) -> Any:
    """
    Make the expression for an element of a tuple, counted from 1.
    """
    return func.tupleElement(tuple_, at, type_=type_)
