"""
Searching bodies on PostgreSQL: by its indexes of parts of bodies, and of their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, select

from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.sql import matching, statements, trigram_index
from nameko_eventlog.store.sql.paging import Range


@dataclass(frozen=True)
class BodySearch:
    """
    A search by the indexes.

    Args:
        connection: To the database.
        conditions: The conditions on bodies, for which there are indexes.
    """

    connection: Connection
    conditions: Sequence[ColumnElement[bool]]

    @classmethod
    def of(
        cls, connection: Connection, filters: Filters, named: ColumnElement[bool] | None
    ) -> BodySearch | None:
        """
        Return the search for what *filters* select, or None if no index serves it.

        Args:
            connection: To the database.
            filters: The filters.
            named: The condition that the event type has the text of the filters.
        """
        unlike = None
        if filters.text and trigram_index.exists(connection):
            letters = trigram_index.unlike(connection)
            if matching.has_trigrams(filters.text, letters):
                unlike = letters
        by_parts = any(matching.equals_by_index(*one) for one in filters.equalities) or any(
            matching.contains_by_index(dict(part)) for part in filters.containments
        )
        if unlike is None and not by_parts:
            return None
        dialect = connection.dialect
        return cls(connection, statements.body_conditions(dialect, filters, named, unlike))

    def candidates(self) -> Sequence[ColumnElement[bool]]:
        """
        Make the conditions on bodies that an index serves.
        """
        return self.conditions

    def find(self, rows: Range, within: Filters, limit: int) -> list[bytes]:
        """
        Return the positions of the first of *rows* that the filters select.

        PostgreSQL does not know how few these are, and might read all rows in order. OFFSET keeps
        it from that.

        Args:
            rows: Rows, and their order.
            within: The filters with the time range of the rows.
            limit: How many positions, at most.
        """
        found = select(rows.position).where(*rows.every, *self.conditions)
        position = found.offset(0).subquery().c[0]
        ordering = position.desc() if rows.is_newest else position
        return list(self.connection.scalars(select(position).order_by(ordering).limit(limit)))
