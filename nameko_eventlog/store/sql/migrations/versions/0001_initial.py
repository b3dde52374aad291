"""
The tables of event logs, of what they have in common, of their summaries, and of rejects.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB, UUID
from sqlalchemy.exc import DBAPIError


revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
KEY = sa.LargeBinary(16).with_variant(UUID(), "postgresql")
ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

NAMES = ("service_name", "entrypoint_name", "caller", "event_type", "level", "time_note")


# SQLite has the trigrams since 3.34, and may lack FTS5
SQLITE_TEXT = (
    """
    CREATE VIRTUAL TABLE event_logs_text USING fts5(
        body, content='', columnsize=0, detail=none, tokenize='trigram case_sensitive 1'
    )
    """,
    # makes writing a third faster than merging as often as by default
    "INSERT INTO event_logs_text (event_logs_text, rank) VALUES ('automerge', 16)",
)

# a user may create this extension since PostgreSQL 13, where it is installed
POSTGRESQL_TEXT = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    """
    CREATE INDEX event_logs_text ON event_logs
    USING gin ((CAST(body AS text) COLLATE "C") gin_trgm_ops)
    """,
)


def upgrade() -> None:
    """
    Create the tables and their indexes.
    """
    _create_series()
    _create_calls()
    _create_event_logs()
    _create_counts()
    op.create_table(
        "dropped_days",
        sa.Column("begin_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    )
    op.create_table(
        "rejects",
        sa.Column("id", ID, primary_key=True),
        sa.Column("rejected_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False, unique=True),
        sa.Column("message_id", TEXT),
        sa.Column("exchange", TEXT, nullable=False),
        sa.Column("routing_key", TEXT, nullable=False),
        sa.Column("properties", JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )


def _create_series() -> None:
    op.create_table(
        "series",
        sa.Column("id", ID, primary_key=True, autoincrement=False),
        sa.Column("key", KEY, nullable=False, unique=True),
        sa.Column("service_name", TEXT, nullable=False),
        sa.Column("entrypoint_protocol", TEXT),
        sa.Column("entrypoint_name", TEXT),
        sa.Column("caller", TEXT),
        sa.Column("event_type", TEXT, nullable=False),
        sa.Column("level", TEXT),
        sa.Column("time_note", TEXT),
        sa.Column("in_call", sa.Boolean, nullable=False),
    )
    for name in NAMES:
        op.create_index(f"series_{name}", "series", [name])


def _create_calls() -> None:
    op.create_table(
        "calls",
        sa.Column("id", ID, primary_key=True, autoincrement=False),
        sa.Column("call_key", KEY, nullable=False),
        sa.Column("stack_key", KEY, nullable=False),
        sa.Column("context", JSON, nullable=False),
        sa.Column("origin_key", KEY),
        sa.Column("parent_key", KEY),
        sa.Column("series_id", sa.BigInteger, nullable=False),
        sa.Column("first", KEY, nullable=False),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("last_ms", sa.BigInteger, nullable=False),
        sa.Column("ended", KEY),
        sa.Column("is_captured", sa.Boolean, nullable=False),
        sa.Column("duration", sa.Float(53)),
        sa.Column("outcome", sa.SmallInteger, nullable=False),
        sa.Column("severity", sa.Integer, nullable=False),
        sa.Column("is_failed", sa.Boolean, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
    )
    op.create_index("calls_call_key", "calls", ["call_key", "stack_key"], unique=True)
    for name in ("origin_key", "first"):
        op.create_index(f"calls_{name}", "calls", [name])
    _create_partial_index("calls_parent_key", "calls", ["parent_key"], "parent_key IS NOT NULL")
    op.create_index("calls_series", "calls", ["series_id", "first"])
    _create_partial_index("calls_duration", "calls", ["duration", "first"], "duration IS NOT NULL")
    _create_partial_index("calls_outcome", "calls", ["outcome", "first"], "outcome <> 1")


def _create_event_logs() -> None:
    is_postgresql = op.get_context().dialect.name == "postgresql"
    columns: list[sa.Column[Any]] = [
        sa.Column("position", KEY, nullable=False),
        sa.Column("series_id", sa.BigInteger, nullable=False),
        sa.Column("call", sa.BigInteger),
        sa.Column("packed", sa.Integer, nullable=False),
        sa.Column("time_offset", sa.Integer),
        sa.Column("message_id", TEXT),
        sa.Column("body", JSON, nullable=False),
    ]
    if is_postgresql:
        op.create_table(
            "event_logs",
            *columns,
            sa.PrimaryKeyConstraint("position"),
            postgresql_partition_by="RANGE (position)",
        )
        op.execute("CREATE TABLE event_logs_default PARTITION OF event_logs DEFAULT")
    else:
        # the full-text index refers to rows by their ids
        op.create_table(
            "event_logs",
            sa.Column("id", sa.Integer, primary_key=True),
            *columns,
            sa.UniqueConstraint("position"),
        )
    op.create_index("event_logs_series", "event_logs", ["series_id", "position"])
    _create_partial_index("event_logs_call", "event_logs", ["call"], "call IS NOT NULL")
    if is_postgresql:
        op.create_index(
            "event_logs_body",
            "event_logs",
            ["body"],
            postgresql_using="gin",
            postgresql_ops={"body": "jsonb_path_ops"},
        )
    _create_if_possible(POSTGRESQL_TEXT if is_postgresql else SQLITE_TEXT)


def _create_if_possible(statements: tuple[str, ...]) -> None:
    connection = op.get_bind()
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DBAPIError as exc:
        if exc.connection_invalidated:
            raise

    op.create_table(
        "message_ids",
        sa.Column("message_id", TEXT, primary_key=True),
        sa.Column("position", KEY, nullable=False),
    )
    op.create_index("message_ids_position", "message_ids", ["position"])


def _create_counts() -> None:
    op.create_table(
        "counts",
        sa.Column("span", sa.Integer, nullable=False),
        sa.Column("begin_ms", sa.BigInteger, nullable=False),
        sa.Column("series_id", sa.BigInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("span", "begin_ms", "series_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "call_counts",
        sa.Column("span", sa.Integer, nullable=False),
        sa.Column("begin_ms", sa.BigInteger, nullable=False),
        sa.Column("series_id", sa.BigInteger, nullable=False),
        sa.Column("outcome", sa.SmallInteger, nullable=False),
        sa.Column("is_failed", sa.Boolean, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("span", "begin_ms", "series_id", "outcome", "is_failed"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "durations",
        sa.Column("span", sa.Integer, nullable=False),
        sa.Column("begin_ms", sa.BigInteger, nullable=False),
        sa.Column("service_name", TEXT, nullable=False),
        sa.Column("entrypoint_name", TEXT, nullable=False),
        sa.Column("bucket", sa.SmallInteger, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("span", "begin_ms", "service_name", "entrypoint_name", "bucket"),
        sqlite_with_rowid=False,
    )


def _create_partial_index(name: str, table: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, table, columns, postgresql_where=where, sqlite_where=where)
