"""
The numbers of event logs on SQLite: those of a minute are above those of the minutes before.

So the table is in the order of time, minute by minute, however late event logs come, and an index
that knows nothing but numbers, as a full-text index, finds them in that order.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, select

from nameko_eventlog.store.positions import LAST_TIME, time_of
from nameko_eventlog.store.sql.schema import event_logs


_MINUTE = 60_000  # milliseconds
_BITS = 30  # numbers of a minute: more than there can be rows


def number_range(since: int | None, until: int | None) -> tuple[int, int]:
    """
    Return the lowest and the highest number of the minutes of a time range.

    Args:
        since: Where it begins, in milliseconds since 1970.
        until: Where it ends.
    """
    first, last = (
        min(max(time_ms, 0), LAST_TIME) // _MINUTE
        for time_ms in (0 if since is None else since, LAST_TIME if until is None else until)
    )
    return first << _BITS, ((last + 1) << _BITS) - 1


def minute_of(number: int) -> int:
    """
    Return the minute whose numbers include *number*.
    """
    return number >> _BITS


def next_numbers(connection: Connection, positions: Iterable[bytes]) -> list[int]:
    """
    Return a free number for each of *positions*.
    """
    next_of: dict[int, int] = {}
    numbers = []
    for position in positions:
        minute = time_of(position) // _MINUTE
        number = next_of.get(minute)
        if number is None:
            number = _free_number(connection, minute)
        numbers.append(number)
        next_of[minute] = number + 1
    return numbers


def _free_number(connection: Connection, minute: int) -> int:
    number = event_logs.c.id
    first = minute << _BITS
    taken = select(number).where(number >= first, number < first + (1 << _BITS))
    last = connection.scalar(taken.order_by(number.desc()).limit(1))
    return first if last is None else last + 1
