"""
The first tables: event logs, and what could not be stored.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB


revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
ALWAYS_SET = ("service_name", "event_type")
SOMETIMES_SET = ("entrypoint_name", "level", "call_id", "origin_call_id")


def upgrade() -> None:
    """
    Make the tables and their indexes.
    """
    op.create_table(
        "event_logs",
        sa.Column("message_id", TEXT, primary_key=True),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("service_name", TEXT, nullable=False),
        sa.Column("event_type", TEXT, nullable=False),
        sa.Column("entrypoint_protocol", TEXT),
        sa.Column("entrypoint_name", TEXT),
        sa.Column("level", TEXT),
        sa.Column("call_id", TEXT),
        sa.Column("origin_call_id", TEXT),
        sa.Column("parent_call_id", TEXT),
        sa.Column("body", JSON, nullable=False),
    )
    op.create_index("event_logs_time", "event_logs", ["time_ms", "message_id"])
    for name in (*ALWAYS_SET, *SOMETIMES_SET):
        is_set = sa.text(f"{name} IS NOT NULL") if name in SOMETIMES_SET else None
        op.create_index(
            f"event_logs_{name}",
            "event_logs",
            [name, "time_ms", "message_id"],
            postgresql_where=is_set,
            sqlite_where=is_set,
        )
    op.create_table(
        "rejects",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("rejected_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("digest", TEXT, nullable=False, unique=True),
        sa.Column("message_id", TEXT),
        sa.Column("exchange", TEXT, nullable=False),
        sa.Column("routing_key", TEXT, nullable=False),
        sa.Column("properties", JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
