"""
Filter values that no event log has, and suggestions for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from nameko_eventlog.limits import NEAR_CHARACTERS, NEAR_NAMES, NEAR_VALUES
from nameko_eventlog.store.answers import Unseen
from nameko_eventlog.store.backends import Reading
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.store.parameters import COLUMNS, Filters


_NEAR = 3  # suggestions, at most
_ALIKE = 0.6  # a ratio of difflib: two letters of five may differ
_IDS = ("call_id", "origin_call_id")


def find_unseen(
    reading: Reading, given: Mapping[str, Any], check: Callable[[], None]
) -> list[Unseen]:
    """
    Return the filter values that no stored event log has; each is looked up in an index.

    Args:
        reading: The database.
        given: The filters as given, which `Filters.parse` has accepted.
        check: Called now and then; may raise.
    """
    found: list[Unseen] = []
    for name, column in COLUMNS.items():
        values = given.get(name)
        for value in [values] if isinstance(values, str) else sorted(values or ()):
            check()
            if _is_seen(reading, name, value):
                continue
            near: list[str] = []
            if name not in _IDS and len(found) < NEAR_VALUES:
                near = _near(reading, column, value)
            found.append({"filter": name, "value": value, "near": near})
    return found


def _is_seen(reading: Reading, name: str, value: str) -> bool:
    filters = Filters.parse(**{name: value})
    if filters.least_level is not None:
        levels = filter(filters.takes_level, reading.names("level"))
        filters = replace(filters, columns={"level": tuple(levels)})
    return reading.is_seen(filters)


def _near(reading: Reading, column: str, value: str) -> list[str]:
    """
    Return names similar to *value*, the most similar first.
    """
    if len(value) > NEAR_CHARACTERS:
        return []
    names = reading.names(column, most=NEAR_NAMES)
    if len(names) == NEAR_NAMES:  # probably incomplete: add those that begin alike
        names += reading.names(column, value[:1], NEAR_NAMES)
    wanted = value.replace("*", "").rstrip("+").lower()
    if column == "level":
        wanted = normal_level(wanted) or wanted
    by_letters = {name.lower(): name for name in names if len(name) <= NEAR_CHARACTERS}
    alike = get_close_matches(wanted, by_letters, _NEAR, _ALIKE)
    return [by_letters[one] for one in alike]
