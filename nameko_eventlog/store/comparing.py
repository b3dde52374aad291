"""
Comparisons of decoded JSON, by PostgreSQL's rules.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from nameko_eventlog.store.json_text import encode


CHECKED = 255
"""A bit mask: how many elements are compared between two calls of ``check``."""

# what C's strtol reads, and so PostgreSQL: https://www.postgresql.org/docs/current/functions-json.html
INDEX = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*(\d{1,10})", re.ASCII)
"""A key of a path that is an index into a list."""


ANY_LETTER = "\0"
"""Stands for any letter in a text that `expression_of` takes; JSON has no such letter."""

_LAST_CASED = 0x1F000  # no character from here on has a case


def go_on() -> None:
    pass


def is_at(body: Any, path: Sequence[str], value: Any) -> bool:
    """
    Tell whether the value at *path* in *body* equals *value*.
    """
    found = body
    for key in path:
        if isinstance(found, list):
            at = index_in(key, len(found))
            if at is None:
                return False
            found = found[at]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return False
    return is_equal(found, value)


def index_in(key: str, length: int) -> int | None:
    """
    Return the index into a list of *length* that a path's key stands for, or None.
    """
    index = INDEX.fullmatch(key)
    if index is None:
        return None
    at = int(index[1] + index[2])
    return at if -length <= at < length else None


def needle_of(text: str) -> str:
    """
    Return the folded JSON of *text*, without the quotes.
    """
    return fold(encode(text)[1:-1])


def fold(text: str) -> str:
    """
    Write *text* in lower case, character by character, the same on every database.

    `str.lower` has two exceptions to that: a capital I with a dot becomes two characters, and
    the lower case of a capital sigma depends on its neighbours.
    """
    if not text.isascii():
        text = text.replace("\u0130", "i").replace("\u03a3", "\u03c3")
    return text.lower()


@lru_cache(maxsize=1)
def _cases() -> dict[str, str]:
    """
    Return the other characters that have a letter as their lower case.
    """
    cases: dict[str, str] = defaultdict(str)
    for code in range(_LAST_CASED):
        if not 0xD800 <= code < 0xE000:
            letter = chr(code)
            if (folded := fold(letter)) != letter:
                cases[folded] += letter
    return dict(cases)


def expression_of(needle: str) -> str:
    """
    Return a regular expression, for PostgreSQL and RE2, that matches a folded text in any case.
    """
    cases = _cases()
    return "".join(
        "."
        if letter == ANY_LETTER
        else f"[{letter}{cases[letter]}]"
        if letter in cases
        else f"\\{letter}"
        if letter.isascii() and not letter.isalnum()
        else letter
        for letter in needle
    )


def is_in(needle: str, body: Any) -> bool:
    """
    Tell whether *needle*, made by `needle_of`, occurs in the JSON of *body*.
    """
    return needle in fold(encode(body))


def is_equal(one: Any, other: Any) -> bool:
    """
    Compare as JSON: true is not 1, and 1 is 1.0.
    """
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_equal(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(is_equal, one, other))
    return bool(one == other)


def is_contained(part: Any, whole: Any, check: Callable[[], None] = go_on) -> bool:
    """
    Tell whether *whole* contains *part*: mappings by their keys, lists in any order.

    Args:
        part: The part.
        whole: The whole.
        check: Called now and then; may raise.
    """
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and is_contained(value, whole[key], check) for key, value in part.items()
        )
    if isinstance(part, list):
        if not isinstance(whole, list):
            return False
        nested = [one for one in part if isinstance(one, (dict, list))]
        if len(nested) < len(part):
            leaves = {leaf(one) for one in whole if not isinstance(one, (dict, list))}
            if not all(leaf(one) in leaves for one in part if not isinstance(one, (dict, list))):
                return False
        return all(_has_one(one, whole, check) for one in nested)
    return not isinstance(whole, (dict, list)) and is_equal(part, whole)


def _has_one(part: Any, whole: list[Any], check: Callable[[], None]) -> bool:
    for number, other in enumerate(whole):
        if not number & CHECKED:
            check()
        if type(other) is type(part) and is_contained(part, other, check):
            return True
    return False


def leaf(value: Any) -> Any:
    """
    Return a key for *value* in sets that is the same for equal values: true is not 1, 1 is 1.0.
    """
    return (value,) if isinstance(value, bool) else value
