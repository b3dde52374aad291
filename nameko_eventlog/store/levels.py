"""
Levels in any spelling: ``ERROR``, ``err`` and ``40`` are ``error``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


_NUMBERS = {
    "notset": 0,
    "trace": 5,
    "debug": 10,
    "info": 20,
    "notice": 25,
    "warning": 30,
    "error": 40,
    "critical": 50,
}
"""The severities, as in Python's logging and usual additions to it."""

_NAMES = {
    **{name: name for name in _NUMBERS},
    **{str(number): name for name, number in _NUMBERS.items()},
    "warn": "warning",
    "err": "error",
    "exception": "error",
    "crit": "critical",
    "fatal": "critical",
}

UNNAMED = "level "
"""The prefix of levels that have only a number: ``level 35``, as in Python's logging."""

_NUMBER = re.compile(rf"(?:{UNNAMED})?(\d{{1,9}})", re.ASCII)


def normal_level(value: Any) -> str | None:
    """
    Return the normalized name of a level, or None if *value* is not a level.

    Args:
        value: As a sender writes it: a name in any case, an alias, or a number as in Python's
            logging.
    """
    if type(value) is int and 0 <= value < 10**9:
        value = str(value)
    elif type(value) is not str:
        return None
    if value in _NAMES:
        return _NAMES[value]
    # the only character whose lower case is two
    name: str = value.strip().replace("\u0130", "i").lower()
    if number := _NUMBER.fullmatch(name):
        plain = str(int(number[1]))
        return _NAMES.get(plain, UNNAMED + plain)
    return _NAMES.get(name, name)


def level_number(name: str) -> int | None:
    """
    Return the severity of a level, given by its normalized name, or None if it is unknown.
    """
    if name in _NUMBERS:
        return _NUMBERS[name]
    number = _NUMBER.fullmatch(name)
    return None if number is None else int(number[1])


def level_name(number: int) -> str | None:
    """
    Return the normalized name of a level, given by its severity; None for 0, as if it had none.
    """
    return normal_level(number) if number else None


def expand_levels(values: Iterable[str]) -> tuple[set[str], int | None]:
    """
    Return the levels that a filter selects; ``warning+`` is that level and all above.

    Returns:
        The normalized names, and the severity from which unnamed levels are selected too, or None.
    """
    names: set[str] = set()
    least: int | None = None
    for value in values:
        names.add(str(normal_level(value)))
        number = level_number(normal_level(value[:-1]) or "") if value.endswith("+") else None
        if number is not None:
            names |= {one for one, other in _NUMBERS.items() if other >= number}
            least = number if least is None else min(least, number)
    return names, least
