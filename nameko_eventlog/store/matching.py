"""
Conditions on JSON that mean the same on PostgreSQL, which knows them, and on SQLite, which is
taught.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Boolean, ColumnElement, Dialect, Text, and_, cast, collate, func, literal
from sqlalchemy.dialects.postgresql import JSONB

from nameko_eventlog.store.schema import event_logs


_decode = msgspec.json.decode
_BODY = cast(event_logs.c.body, Text)
_ASCII = re.compile(r"[\0-\x7f]+")
_LONGEST = 1_000  # of a pattern: SQLite takes 50,000 bytes
_NOT_ITSELF = re.compile(r"[ikIK%_~]")
_ITSELF = re.compile(r"[\0-hjl-\x7f]{3,}")  # shorter ones are in most bodies
_EXPONENTS = 10**15  # below it an integer is written as one, with or without ".0"
# what C's strtol reads, and so PostgreSQL: https://www.postgresql.org/docs/current/functions-json.html
_INDEX = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*(\d{1,10})", re.ASCII)


def equals(dialect: Dialect, path: Sequence[str], value: Any) -> ColumnElement[bool]:
    """
    Make the condition that the value at *path* in the body is *value*.

    Unless the path may lead through a list, it asks for containment, which PostgreSQL has an index
    of, and SQLite is quick to deny. Of a value that is no mapping and no list, that is the same.
    """
    exact: ColumnElement[bool]
    if dialect.name == "postgresql":
        found = func.jsonb_extract_path(event_logs.c.body, *path, type_=JSONB)
        exact = found == literal(value, JSONB(none_as_null=False))
    else:
        exact = _function("eventlog_equals", _encode(list(path)), _encode(value))
    if any(map(_INDEX.fullmatch, path)):
        return exact
    part = value
    for key in reversed(path):
        part = {key: part}
    contained = contains(dialect, part)
    return and_(contained, exact) if isinstance(value, (dict, list)) else contained


def contains(dialect: Dialect, part: dict[str, Any]) -> ColumnElement[bool]:
    """
    Make the condition that the body contains *part*, as PostgreSQL's ``@>`` has it.
    """
    if dialect.name == "postgresql":
        return event_logs.c.body.op("@>", return_type=Boolean())(literal(part, JSONB()))
    may_contain = _may_have(max(_texts(part), key=len, default=""))
    return and_(may_contain, _function("eventlog_contains", _encode(part)))


def has_text(dialect: Dialect, text: str) -> ColumnElement[bool]:
    """
    Make the condition that *text* is somewhere in the body as JSON, whatever its case.
    """
    needle = needle_of(text)
    if dialect.name == "postgresql":
        # not our lower: that of a database with the locale C knows ASCII alone
        found = _is_in_lower(func.lower(literal(_as_json(text), Text)), _BODY)
        longest = max(_ITSELF.findall(needle), key=len, default="")
        # which other locales take several times as long for
        may_have = _is_in_lower(literal(longest, Text), collate(_BODY, "C"))
        return and_(may_have, found) if longest else found
    return and_(_may_have(needle), _function("eventlog_has_text", needle))


def teach_sqlite(connection: Any) -> None:
    """
    Give a connection of sqlite3's the functions that `equals` and its like call.
    """
    for name, function in (
        ("eventlog_equals", _equals),
        ("eventlog_contains", _contains),
        ("eventlog_has_text", _has_text),
    ):
        arguments = function.__code__.co_argcount
        connection.create_function(name, arguments, function, deterministic=True)


def _function(name: str, *arguments: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = getattr(func, name)(_BODY, *arguments, type_=Boolean())
    return condition == literal(1)


def _is_in_lower(needle: ColumnElement[str], body: ColumnElement[str]) -> ColumnElement[bool]:
    return func.strpos(func.lower(body), needle) > 0


def _may_have(needle: str) -> ColumnElement[bool]:
    """
    Make a condition that no body fails that has *needle* in it, whatever its case, and that SQLite
    denies without Python.

    LIKE knows the case of ASCII alone. Of other letters two are ASCII in lower case: the sign of
    Kelvin is k, and a capital I with a dot is i, with the dot behind it.
    """
    longest = max(_ASCII.findall(needle), key=len, default="")[:_LONGEST]
    pattern = _NOT_ITSELF.sub(lambda one: "_" if one[0] in "ikIK" else f"~{one[0]}", longest)
    return _BODY.like(f"%{pattern}%", escape="~")


def _texts(part: Any) -> Iterator[str]:
    """
    Yield what stands in every body that contains *part*, as the store has encoded it: its leaves.
    """
    if isinstance(part, dict) and part:
        for key, value in part.items():
            if isinstance(value, (dict, list)) and value:
                yield from _texts(value)
            else:
                # without the quote: what begins like many others is longer to deny
                yield f'{_as_json(key)}":{_text(value)}'
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value)
    else:
        yield _text(part)


def _text(value: Any) -> str:
    """
    Return what stands for whatever equals *value*, or begins it; nothing if that may differ.
    """
    if isinstance(value, (dict, list)):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0 or abs(value) >= _EXPONENTS:  # -0.0 is 0, and 1e16 is an integer, too
            return ""
        return _encode(int(value) if value == int(value) else value)
    return _encode(value)


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _as_json(text: str) -> str:
    return _encode(text)[1:-1]


def _equals(body: str, path: str, value: str) -> bool:
    return is_at(_decode(body), _decode(path), _decode(value))


def _contains(body: str, part: str) -> bool:
    return is_contained(_decode(part), _decode(body))


def _has_text(body: str, needle: str) -> bool:
    return needle in body.lower()


def is_at(body: Any, path: Sequence[str], value: Any) -> bool:
    """
    Tell whether the value at *path* in *body* is *value*, as `equals` has it.
    """
    found = body
    for key in path:
        if isinstance(found, list):
            index = _INDEX.fullmatch(key)
            if index is None:
                return False
            at = int(index[1] + index[2])
            if not -len(found) <= at < len(found):
                return False
            found = found[at]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return False
    return is_equal(found, value)


def needle_of(text: str) -> str:
    """
    Return what stands in JSON for *text*, whatever its case.
    """
    return _as_json(text).lower()


def is_in(needle: str, body: Any) -> bool:
    """
    Tell whether *needle*, which is of `needle_of`, is in *body* as JSON.
    """
    return _has_text(_encode(body), needle)


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


def is_contained(part: Any, whole: Any) -> bool:
    """
    Tell whether *whole* contains *part*: mappings by their keys, lists in any order.
    """
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and is_contained(value, whole[key]) for key, value in part.items()
        )
    if isinstance(part, list):
        return isinstance(whole, list) and all(
            any(is_contained(one, other) for other in whole) for one in part
        )
    return not isinstance(whole, (dict, list)) and is_equal(part, whole)
