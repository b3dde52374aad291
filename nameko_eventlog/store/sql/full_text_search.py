"""
Searching bodies on SQLite: by the full-text index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from sqlalchemy import ColumnElement, Connection, Text, cast, func, or_, select

from nameko_eventlog.store.comparing import fold, needle_of
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.sql import full_text, matching, statements
from nameko_eventlog.store.sql.functions import OrderedJoin
from nameko_eventlog.store.sql.numbering import minute_of, number_range
from nameko_eventlog.store.sql.paging import Range, find_in_series
from nameko_eventlog.store.sql.schema import event_logs, series
from nameko_eventlog.store.sql.trigrams import rarest, trigrams_of


_SAMPLE = 500  # bodies that tell which trigrams are rare
_SAMPLED = 2_000  # characters of each


@dataclass(frozen=True)
class FullTextSearch:
    """
    A search by the full-text index.

    Args:
        connection: To the database.
        filters: The filters.
        conditions: Those on the content of event logs.
        trigrams: Those of all bodies that the filters select, except by *named*.
        named: The condition that the event type has the text of the filters.
    """

    connection: Connection
    filters: Filters
    conditions: Sequence[ColumnElement[bool]]
    trigrams: set[str]
    named: ColumnElement[bool] | None

    @classmethod
    def of(
        cls,
        connection: Connection,
        filters: Filters,
        named: ColumnElement[bool] | None,
        has_named: bool,
    ) -> FullTextSearch | None:
        """
        Return the search for what *filters* select, or None if the index does not serve it.

        Args:
            connection: To the database.
            filters: The filters.
            named: The condition that the event type has the text of the filters.
            has_named: Whether there is such an event type.
        """
        trigrams = trigrams_of(
            chain(
                *(matching.texts_of_equality(*one) for one in filters.equalities),
                *(matching.texts_of_containment(dict(part)) for part in filters.containments),
            )
        )
        # an event type that has the text is not in the body, but the other texts are
        by_name = has_named and not trigrams
        if filters.text and (by_name or not has_named):
            trigrams |= trigrams_of([needle_of(filters.text)])
        if not trigrams or not full_text.can_search(connection):
            return None
        conditions = statements.body_conditions(connection.dialect, filters, named)
        return cls(connection, filters, conditions, trigrams, named if by_name else None)

    def candidates(self) -> Sequence[ColumnElement[bool]]:
        """
        Make the condition that a row is a candidate.
        """
        numbers = select(full_text.index.c.rowid).where(*self._are_candidates(self.filters))
        is_candidate = event_logs.c.id.in_(numbers)
        return [is_candidate if self.named is None else or_(is_candidate, self.named)]

    def find(self, rows: Range, within: Filters, limit: int) -> list[bytes]:
        """
        Return the positions of the first of *rows*, at most *limit*.

        Args:
            rows: Rows, and their order.
            within: The filters with the time range of the rows.
            limit: How many positions, at most.
        """
        rows = rows.meeting(*self.conditions)
        found = self._find_in_bodies(rows, within, limit)
        if self.named is not None:
            found = [*{*found, *self._find_by_name(rows, limit)}]
        return sorted(found, reverse=rows.is_newest)[:limit]

    def _find_in_bodies(self, rows: Range, within: Filters, limit: int) -> list[bytes]:
        """
        Return the positions of candidates: of all, or of the first minutes that have *limit*.
        """
        number, row = full_text.index.c.rowid, event_logs.c
        statement = (
            select(number, row.position)
            .select_from(OrderedJoin(full_text.index, event_logs, row.id == number))
            .where(*self._are_candidates(within), *rows.every)
            .order_by(number.desc() if rows.is_newest else number)
        )
        found: list[bytes] = []
        last = None
        with self.connection.execute(statement) as candidates:
            for at, position in candidates:
                minute = minute_of(at)
                if len(found) >= limit and minute != last:
                    break
                found.append(position)
                last = minute
        return found

    def _find_by_name(self, rows: Range, limit: int) -> list[bytes]:
        dialect = self.connection.dialect
        names = statements.name_conditions(dialect, self.filters)
        is_named = matching.is_part(dialect, series.c.event_type, self.filters.text or "")
        return find_in_series(self.connection, rows, [*names, is_named], limit)

    def _are_candidates(self, within: Filters) -> Sequence[ColumnElement[bool]]:
        number, hidden = full_text.index.c
        numbers = number_range(within.since, within.until)
        row = event_logs.c
        bodies = (
            select(func.substr(cast(row.body, Text), 1, _SAMPLED))
            .where(row.id.between(*numbers))
            .order_by(row.id.desc())
            .limit(_SAMPLE)
        )
        sample = [fold(body) for body in self.connection.scalars(bodies)]
        wanted = full_text.expression(rarest(self.trigrams, sample))
        return hidden.op("MATCH")(wanted), number.between(*numbers)
