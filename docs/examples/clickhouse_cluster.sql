-- The store's tables on a cluster named eventlog, whose servers define the macros {shard} and
-- {replica}. Run this in the store's database before its first start.
--
-- event_logs, call_parts and series_days are sharded by the call that a trace begins with. The
-- other tables are small: each server has all of them. Not tested with a cluster.

CREATE TABLE series ON CLUSTER eventlog (
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
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{database}/series', '{shard}-{replica}'
) ORDER BY id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE event_logs_local ON CLUSTER eventlog (
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
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{database}/{shard}/event_logs', '{replica}'
)
PARTITION BY toDate32(intDiv(toInt64(reinterpretAsUInt64(reverse(substring(position, 1, 6)))), 86400000))
ORDER BY (position, message_id)
TTL toDateTime(intDiv(reinterpretAsUInt64(reverse(substring(position, 1, 6))), 1000))
    + INTERVAL 366 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE event_logs ON CLUSTER eventlog AS event_logs_local
ENGINE = Distributed(eventlog, currentDatabase(), event_logs_local);

CREATE TABLE call_parts_local ON CLUSTER eventlog (
    span UInt32 CODEC(Delta, ZSTD),
    id FixedString(16),
    call_key SimpleAggregateFunction(any, FixedString(16)),
    origin_key SimpleAggregateFunction(any, FixedString(16)),
    parent_key SimpleAggregateFunction(any, FixedString(16)),
    context SimpleAggregateFunction(any, String) CODEC(ZSTD(3)),
    first SimpleAggregateFunction(min, Tuple(FixedString(16), Int64)),
    last_ms SimpleAggregateFunction(max, Int64),
    ended SimpleAggregateFunction(max, Tuple(UInt8, FixedString(16), Float64, UInt8)),
    severity SimpleAggregateFunction(max, Int32),
    is_failed SimpleAggregateFunction(max, UInt8),
    INDEX by_key call_key TYPE bloom_filter(0.01),
    INDEX by_origin origin_key TYPE bloom_filter(0.01),
    INDEX by_parent parent_key TYPE bloom_filter(0.01)
) ENGINE = ReplicatedAggregatingMergeTree(
    '/clickhouse/tables/{database}/{shard}/call_parts', '{replica}'
) PARTITION BY toDate32(intDiv(span, 86400)) ORDER BY (span, id)
TTL toDateTime(span)
    + INTERVAL 366 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE call_parts ON CLUSTER eventlog AS call_parts_local
ENGINE = Distributed(eventlog, currentDatabase(), call_parts_local);

CREATE TABLE series_days_local ON CLUSTER eventlog (
    day Int32,
    series_id Int64,
    first SimpleAggregateFunction(min, FixedString(16)),
    last SimpleAggregateFunction(max, FixedString(16))
) ENGINE = ReplicatedAggregatingMergeTree(
    '/clickhouse/tables/{database}/{shard}/series_days', '{replica}'
) PARTITION BY toDate32(day) ORDER BY (day, series_id)
TTL toDateTime(toUInt32(day) * 86400)
    + INTERVAL 366 DAY
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE series_days ON CLUSTER eventlog AS series_days_local
ENGINE = Distributed(eventlog, currentDatabase(), series_days_local);

CREATE TABLE message_ids ON CLUSTER eventlog (
    message_id String,
    position FixedString(16),
    written DateTime64(9, 'UTC') DEFAULT now64(9, 'UTC')
) ENGINE = ReplicatedMergeTree(
    '/clickhouse/tables/{database}/message_ids', '{shard}-{replica}'
)
PARTITION BY toDate32(intDiv(toInt64(reinterpretAsUInt64(reverse(substring(position, 1, 6)))), 86400000))
ORDER BY message_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE rejects ON CLUSTER eventlog (
    id Int64,
    rejected_ms Int64,
    reason String,
    digest String,
    message_id Nullable(String),
    exchange String,
    routing_key String,
    properties String,
    body String
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{database}/rejects', '{shard}-{replica}'
) ORDER BY digest
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE repairs ON CLUSTER eventlog (
    day Int32,
    is_open UInt8,
    written DateTime64(9, 'UTC') DEFAULT now64(9, 'UTC')
) ENGINE = ReplicatedReplacingMergeTree(
    '/clickhouse/tables/{database}/repairs', '{shard}-{replica}', written
) ORDER BY day
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE arriving_local ON CLUSTER eventlog (
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

CREATE TABLE arriving ON CLUSTER eventlog AS arriving_local
ENGINE = Distributed(
    eventlog, currentDatabase(), arriving_local,
    cityHash64(if(origin_key = toFixedString('', 16), position, origin_key))
);

CREATE MATERIALIZED VIEW arriving_event_logs ON CLUSTER eventlog TO event_logs_local AS
SELECT position, series_id, call, packed, time_offset, message_id, body, ending, duration
FROM arriving_local;

CREATE MATERIALIZED VIEW arriving_series_days ON CLUSTER eventlog TO series_days_local AS
SELECT toInt32(intDiv(toInt64(reinterpretAsUInt64(reverse(substring(position, 1, 6)))), 86400000)) AS day, series_id, min(position) AS first,
    max(position) AS last
FROM arriving_local GROUP BY day, series_id;

CREATE MATERIALIZED VIEW arriving_call_parts ON CLUSTER eventlog TO call_parts_local AS
SELECT toUInt32(intDiv(toInt64(reinterpretAsUInt64(reverse(substring(position, 1, 6)))), 600000) * 600) AS span, call AS id,
    min((position, series_id)) AS first, max(toInt64(reinterpretAsUInt64(reverse(substring(position, 1, 6))))) AS last_ms,
    max((
        toUInt8(ending >= 8),
        if(ending = 0, toFixedString('', 16), position),
        duration,
        toUInt8(if(ending = 0, 0, (ending - 1) % 8))
    )) AS ended, any(arriving_local.call_key) AS call_key, any(arriving_local.origin_key) AS origin_key,
    any(arriving_local.parent_key) AS parent_key, any(arriving_local.context) AS context,
    max(arriving_local.severity) AS severity, max(is_failure) AS is_failed
FROM arriving_local WHERE call != toFixedString('', 16) GROUP BY span, id;

CREATE TABLE eventlog_schema ON CLUSTER eventlog (version_num String)
ENGINE = ReplicatedMergeTree(
    '/clickhouse/tables/{database}/eventlog_schema', '{shard}-{replica}'
) ORDER BY tuple();
