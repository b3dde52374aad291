"""
Values of filters that no event log has: which, and what may have been meant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, select

from nameko_eventlog.limits import NEAR_CHARACTERS, NEAR_NAMES, NEAR_VALUES
from nameko_eventlog.store import statements
from nameko_eventlog.store.answers import Unseen
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.store.parameters import COLUMNS, Filters, compile_patterns
from nameko_eventlog.store.schema import event_logs


_NEAR = 3  # names at the most
_ALIKE = 0.6  # as difflib counts: two letters of five may be others
_IDS = ("call_id", "origin_call_id")


def find_unseen(
    connection: Connection, given: Mapping[str, Any], check: Callable[[], None]
) -> list[Unseen]:
    """
    Return the values of filters that no stored event log has, each looked up in an index.

    Args:
        connection: Of the database.
        given: The filters, as they were given, which `Filters.parse` has taken.
        check: Is called now and then, and may raise.
    """
    found: list[Unseen] = []
    for name, column in COLUMNS.items():
        values = given.get(name)
        for value in [values] if isinstance(values, str) else sorted(values or ()):
            check()
            if _is_seen(connection, name, value):
                continue
            near: list[str] = []
            if name not in _IDS and len(found) < NEAR_VALUES:
                near = _near(connection, event_logs.c[column], value)
            found.append({"filter": name, "value": value, "near": near})
    return found


def _is_seen(connection: Connection, name: str, value: str) -> bool:
    filters = Filters.parse(**{name: value})
    column = event_logs.c[COLUMNS[name]]
    if filters.patterns:
        means = compile_patterns(filters.patterns)
        known = statements.distinct(connection, column, value.split("*")[0])
        return any(map(means.fullmatch, known))
    if filters.least_level is not None:
        return any(map(filters.takes_level, statements.distinct(connection, column)))
    (wanted,) = filters.columns[COLUMNS[name]]
    return connection.execute(select(column).where(column == wanted).limit(1)).first() is not None


def _near(connection: Connection, column: Any, value: str) -> list[str]:
    """
    Return names that look like *value*, the likest first.
    """
    if len(value) > NEAR_CHARACTERS:
        return []
    names = statements.distinct(connection, column, most=NEAR_NAMES)
    if len(names) == NEAR_NAMES:  # there may be more: those that begin alike
        names += statements.distinct(connection, column, value[:1], NEAR_NAMES)
    wanted = value.replace("*", "").rstrip("+").lower()
    if column.name == "level":
        wanted = normal_level(wanted) or wanted
    by_letters = {name.lower(): name for name in names if len(name) <= NEAR_CHARACTERS}
    alike = get_close_matches(wanted, by_letters, _NEAR, _ALIKE)
    return [by_letters[one] for one in alike]
