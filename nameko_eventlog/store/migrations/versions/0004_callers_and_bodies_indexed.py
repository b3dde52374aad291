"""
Indexes of the callers, and, on PostgreSQL, of what the bodies contain.
"""

import sqlalchemy as sa
from alembic import op


revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """
    Make the indexes.
    """
    is_set = sa.text("caller IS NOT NULL")
    op.create_index(
        "event_logs_caller",
        "event_logs",
        ["caller", "time_ms", "message_id"],
        postgresql_where=is_set,
        sqlite_where=is_set,
    )
    if op.get_context().dialect.name == "postgresql":
        op.create_index(
            "event_logs_body",
            "event_logs",
            ["body"],
            postgresql_using="gin",
            postgresql_ops={"body": "jsonb_path_ops"},
        )
