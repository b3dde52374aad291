"""
The functions that SQLite calls to test a body, which is JSON text.

A large body is decoded piece by piece: decoding all of it at once would block other threads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store.comparing import (
    CHECKED,
    fold,
    go_on,
    index_in,
    is_at,
    is_contained,
    leaf,
)
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.patterns import Patterns
from nameko_eventlog.store.positions import time_of
from nameko_eventlog.store.summaries import bucket_of


_SCANNED = 262_144  # characters of a body between two checks of the deadline
_WHOLE = 65_536  # characters of a body that is decoded as a whole


def register_sqlite_functions(connection: Any, deadline: Deadline | None = None) -> None:
    """
    Register the functions that the conditions of `matching` call.

    Args:
        connection: A connection of sqlite3.
        deadline: Checked by the functions; SQLite itself cannot interrupt them.
    """
    check = go_on if deadline is None else deadline.check

    def equals(body: str, ways: str, value: str) -> bool:
        return _is_at(body, decode_json(ways), decode_json(value), check)

    def contains(body: str, part: str) -> bool:
        return _contains(decode_json(part), body, check)

    def has_text(body: str, needle: str) -> bool:
        check()
        return _is_in_text(needle, body, check)

    def is_named(name: str, patterns: str) -> bool:
        check()
        return _patterns(patterns).fullmatch(name)

    for name, function, arguments in (
        ("eventlog_equals", equals, 3),
        ("eventlog_contains", contains, 2),
        ("eventlog_has_text", has_text, 2),
        ("eventlog_is_named", is_named, 2),
        ("eventlog_time", time_of, 1),
        ("eventlog_bucket", bucket_of, 1),
    ):
        connection.create_function(name, arguments, function, deterministic=True)


@lru_cache(maxsize=16)
def _patterns(patterns: str) -> Patterns:
    return Patterns(decode_json(patterns))


def _contains(part: Any, whole: Any, check: Callable[[], None]) -> bool:
    """
    Tell whether *whole*, which is JSON text, contains *part*.
    """
    check()
    if _size(whole) <= _WHOLE:
        return is_contained(part, decode_json(whole), check)
    try:
        if isinstance(part, dict):
            inside = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
            return all(
                key in inside and _contains(value, inside[key], check)
                for key, value in part.items()
            )
        if isinstance(part, list):
            return _contains_all(part, whole, check)
        return isinstance(part, str) and part == msgspec.json.decode(whole, type=str)
    except msgspec.ValidationError:  # the types differ
        return False


def _contains_all(part: list[Any], whole: Any, check: Callable[[], None]) -> bool:
    leaves = {leaf(one) for one in part if not isinstance(one, (dict, list))}
    nested = [one for one in part if isinstance(one, (dict, list))]
    for number, element in enumerate(msgspec.json.decode(whole, type=list[msgspec.Raw])):
        if not number & CHECKED:
            check()
        if not leaves and not nested:
            break
        if _size(element) > _WHOLE:
            nested = [one for one in nested if not _contains(one, element, check)]
            leaves = {one for one in leaves if not _contains(one, element, check)}
            continue
        value = decode_json(element)
        if isinstance(value, (dict, list)):
            nested = [
                one
                for one in nested
                if type(one) is not type(value) or not is_contained(one, value, check)
            ]
        else:
            leaves.discard(leaf(value))
    return not leaves and not nested


def _is_at(
    body: Any, ways: Sequence[Sequence[str]], value: Any, check: Callable[[], None]
) -> bool:
    """
    Tell whether the value at one of *ways* in *body*, which is JSON text, equals *value*.
    """
    check()
    if _size(body) <= _WHOLE:
        found = decode_json(body)
        return any(is_at(found, keys, value) for keys in ways)
    below: dict[str, list[Sequence[str]]] = defaultdict(list)
    for keys in ways:
        if keys:  # a value that a filter may have is smaller than this body
            below[keys[0]].append(keys[1:])
    try:
        inside = _values_at(body, below)
    except msgspec.ValidationError:  # neither a mapping nor a list
        return False
    return any(_is_at(one, below[key], value, check) for key, one in inside.items())


def _values_at(body: Any, keys: Iterable[str]) -> dict[str, Any]:
    """
    Return the values, as JSON, at *keys* of a mapping or a list, which is JSON text.
    """
    if _begins(body) == "{":
        mapping = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return {key: mapping[key] for key in keys if key in mapping}
    values = msgspec.json.decode(body, type=list[msgspec.Raw])
    places = {key: index_in(key, len(values)) for key in keys}
    return {key: values[at] for key, at in places.items() if at is not None}


def _begins(text: Any) -> str:
    return str(text[0]) if isinstance(text, str) else chr(memoryview(text)[0])


def _size(text: Any) -> int:
    return len(text) if isinstance(text, str) else memoryview(text).nbytes


def _is_in_text(needle: str, body: str, check: Callable[[], None]) -> bool:
    """
    Tell whether *needle* occurs in a body; search it piece by piece, so that other threads run.
    """
    for at in range(0, max(len(body), 1), _SCANNED):
        if at:
            check()
        # folding keeps the number of characters, so a piece has every match that begins in it
        if needle in fold(body[at : at + _SCANNED + len(needle) - 1]):
            return True
    return False
