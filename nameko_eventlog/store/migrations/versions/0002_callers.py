"""
The service that has called: so that it need not be read out of call ids for each question.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op


revision = "0002"
down_revision = "0001"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """
    Add the column, and fill it from the parents' call ids.
    """
    op.add_column("event_logs", sa.Column("caller", TEXT))
    table = sa.table("event_logs", sa.column("caller"), sa.column("parent_call_id"))
    parent = table.c.parent_call_id
    service = sa.func.nullif(_before_last_dot(_before_last_dot(parent)), "")
    op.execute(
        sa.update(table)
        .where(parent.is_not(None))
        .values(caller=sa.func.coalesce(service, parent))
    )


def _before_last_dot(text: Any) -> Any:
    """
    Make the expression for it, in what both databases know.
    """
    return sa.func.rtrim(sa.func.rtrim(text, sa.func.replace(text, ".", "")), ".")
