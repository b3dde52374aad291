"""
Levels, however they are written: ``ERROR``, ``err`` and ``40`` are ``error``.
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
"""How severe each is, as Python's logging counts, and those who add levels to it."""

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
"""What the name of a level begins with that has only a number: ``level 35``, as logging has it."""

_NUMBER = re.compile(rf"(?:{UNNAMED})?(\d{{1,9}})", re.ASCII)


def normal_level(value: Any) -> str | None:
    """
    Return the name by which a level is known here, or None if it is none.

    Args:
        value: As a sender writes it: a name in any case, an alias of it, or logging's number.
    """
    if type(value) is int and 0 <= value < 10**9:
        value = str(value)
    elif type(value) is not str:
        return None
    if value in _NAMES:
        return _NAMES[value]
    # a letter in lower case is one letter, but for this one
    name: str = value.strip().replace("\u0130", "i").lower()
    if number := _NUMBER.fullmatch(name):
        plain = str(int(number[1]))
        return _NAMES.get(plain, UNNAMED + plain)
    return _NAMES.get(name, name)


def level_number(name: str) -> int | None:
    """
    Return how severe the level of a normal name is, or None if that is not known.
    """
    if name in _NUMBERS:
        return _NUMBERS[name]
    number = _NUMBER.fullmatch(name)
    return None if number is None else int(number[1])


def expand_levels(values: Iterable[str]) -> tuple[set[str], int | None]:
    """
    Return the normal names of what a filter asks for; ``warning+`` is that level and all above.

    Returns:
        The names, and from which number on levels that have only a number are meant, too.
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
