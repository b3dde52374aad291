"""
The tables of event logs and of rejects.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB


revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

ORDER = ("time_ms", "message_id")
ALWAYS_SET = ("service_name", "event_type")
SOMETIMES_SET = ("entrypoint_name", "level", "call_id", "origin_call_id", "caller", "time_note")


def upgrade() -> None:
    """
    Create the tables and their indexes.
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
        sa.Column("caller", TEXT),
        sa.Column("time_note", TEXT),
        sa.Column("body", JSON, nullable=False),
    )
    op.create_index("event_logs_time", "event_logs", [*ORDER])
    for name in ALWAYS_SET:
        op.create_index(f"event_logs_{name}", "event_logs", [name, *ORDER])
    for name in SOMETIMES_SET:
        _create_partial_index(name, [name, *ORDER])
    _create_partial_index("parent_call_id", ["parent_call_id"])
    if op.get_context().dialect.name == "postgresql":
        op.create_index(
            "event_logs_body",
            "event_logs",
            ["body"],
            postgresql_using="gin",
            postgresql_ops={"body": "jsonb_path_ops"},
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


def _create_partial_index(name: str, columns: list[str]) -> None:
    """
    Create an index of the rows that have a value in the column *name*.
    """
    is_set = sa.text(f"{name} IS NOT NULL")
    op.create_index(
        f"event_logs_{name}",
        "event_logs",
        columns,
        postgresql_where=is_set,
        sqlite_where=is_set,
    )
