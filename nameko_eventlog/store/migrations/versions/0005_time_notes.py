"""
What is odd about the time that a sender has given an event log.
"""

import sqlalchemy as sa
from alembic import op


revision = "0005"
down_revision = "0004"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """
    Add the column, which older rows have empty, and its index.
    """
    op.add_column("event_logs", sa.Column("time_note", TEXT))
    is_set = sa.text("time_note IS NOT NULL")
    op.create_index(
        "event_logs_time_note",
        "event_logs",
        ["time_note", "time_ms", "message_id"],
        postgresql_where=is_set,
        sqlite_where=is_set,
    )
