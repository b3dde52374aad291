"""
An index of the parents' call ids: a call that is known only by its children is found by it.
"""

import sqlalchemy as sa
from alembic import op


revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """
    Make the index.
    """
    is_set = sa.text("parent_call_id IS NOT NULL")
    op.create_index(
        "event_logs_parent_call_id",
        "event_logs",
        ["parent_call_id"],
        postgresql_where=is_set,
        sqlite_where=is_set,
    )
