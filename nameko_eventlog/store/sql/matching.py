"""
Conditions on JSON that mean the same on PostgreSQL and on SQLite.

PostgreSQL has operators for them. SQLite calls the functions of `sqlite_functions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Dialect,
    Integer,
    LargeBinary,
    Text,
    and_,
    case,
    cast,
    collate,
    func,
    literal,
    or_,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB

from nameko_eventlog.store.comparing import ANY_LETTER, INDEX, expression_of, fold, needle_of
from nameko_eventlog.store.json_text import encode
from nameko_eventlog.store.packing import PACKED_KEYS
from nameko_eventlog.store.paths import Keys
from nameko_eventlog.store.sql import packed_matching
from nameko_eventlog.store.sql.schema import calls, event_logs


_BODY = cast(event_logs.c.body, Text)
_ASCII = re.compile(r"[\0-\x7f]+")
_LONGEST = 32  # of a pattern: a LIKE that nearly matches everywhere costs its length each time
_LIKED = 16_384  # bytes of a body that LIKE searches: it cannot be interrupted
_NOT_ITSELF = re.compile(r"[ikIK%_~]")
ZERO, NUMBER_END = "\1", "\2"
"""Stand for the first character of 0, and for one after a number, in texts that a body has."""

_WORD = re.compile("[a-z0-9]{3}")  # of what PostgreSQL takes trigrams: letters and digits
_EXPONENTS = 10**15  # a smaller integer is written without an exponent, with or without ".0"


def equals(dialect: Dialect, ways: Sequence[Keys], value: Any) -> ColumnElement[bool]:
    """
    Make the condition that the value at a path in the body, read in one of *ways*, equals *value*.

    On PostgreSQL the condition tests containment, which has an index, unless the path may lead
    through a list. For a value that is neither a mapping nor a list, both mean the same.
    """
    packed = [packed_matching.equals(keys, value) for keys in ways]
    elements = [keys for keys in ways if keys[0] == "call_stack" and len(keys) > 1]
    if elements:  # of the two forms of `packing.CallContext.stored`
        shorter = [keys[1:] for keys in elements]
        is_element = _has_value(dialect, calls.c.context, [*elements, *shorter], value)
        packed.append(packed_matching.call_stack_meets(is_element))
    in_body = _has_value(dialect, event_logs.c.body, ways, value)
    if dialect.name != "postgresql":
        in_body = and_(_may_have(_common_text(ways, value)), in_body)
    return or_(in_body, *(one for one in packed if one is not None))


def _has_value(
    dialect: Dialect, column: ColumnElement[Any], ways: Sequence[Keys], value: Any
) -> ColumnElement[bool]:
    if dialect.name == "postgresql":
        return or_(*(_equals_on_postgresql(column, keys, value) for keys in ways))
    return _function("eventlog_equals", column, encode(ways), encode(value))


def _equals_on_postgresql(
    column: ColumnElement[Any], keys: Keys, value: Any
) -> ColumnElement[bool]:
    found = func.jsonb_extract_path(column, *keys, type_=JSONB)
    exact: ColumnElement[bool] = found == literal(value, JSONB(none_as_null=False))
    if any(map(INDEX.fullmatch, keys)):
        return exact
    part = value
    for key in reversed(keys):
        part = {key: part}
    contained = _contains_on_postgresql(column, part)
    return and_(contained, exact) if isinstance(value, (dict, list)) else contained


def _contains_on_postgresql(column: ColumnElement[Any], part: Any) -> ColumnElement[bool]:
    return column.op("@>", return_type=Boolean())(literal(part, JSONB()))


def contains(dialect: Dialect, part: dict[str, Any]) -> ColumnElement[bool]:
    """
    Make the condition that the body contains *part*, by the rules of PostgreSQL's ``@>``.
    """
    rest = {key: value for key, value in part.items() if key not in PACKED_KEYS}
    every = [_body_contains(dialect, rest)] if rest else []
    for key in part.keys() - rest.keys():
        value = part[key]
        ways = [_body_contains(dialect, {key: value}), packed_matching.equals((key,), value)]
        if key == "call_stack" and isinstance(value, list):
            context = calls.c.context
            has_all = [
                _json_contains(dialect, context, one) for one in (value, {"call_stack": value})
            ]
            ways.append(packed_matching.call_stack_meets(or_(*has_all)))
        every.append(or_(*(one for one in ways if one is not None)))
    return and_(*every)


def _body_contains(dialect: Dialect, part: dict[str, Any]) -> ColumnElement[bool]:
    contained = _json_contains(dialect, event_logs.c.body, part)
    if dialect.name == "postgresql":
        return contained
    return and_(_may_have(max(_texts(part), key=len, default="")), contained)


def texts_of_equality(ways: Sequence[Keys], value: Any) -> Iterator[str]:
    """
    Yield folded texts that every stored body has with *value* at one of *ways*. There is none if
    the value may be elsewhere. `ZERO` and `NUMBER_END` may be in them.
    """
    if any(map(packed_matching.is_packed, ways)):
        return
    if isinstance(value, (dict, list)):
        yield from map(fold, _texts(value, ZERO, NUMBER_END))
    else:
        yield fold(_common_text(ways, value, ZERO, NUMBER_END))


def texts_of_containment(part: dict[str, Any]) -> Iterator[str]:
    """
    Yield folded texts, as `texts_of_equality`, that every stored body has that contains *part*.
    """
    for key, value in part.items():
        if not packed_matching.is_packed((key,)) or (key == "data" and value != {}):
            yield from map(fold, _texts({key: value}, ZERO, NUMBER_END))


def equals_by_index(ways: Sequence[Keys], value: Any) -> bool:
    """
    Tell whether PostgreSQL's index of bodies finds *value* at one of *ways*.
    """
    return _has_leaf(value) and not any(
        packed_matching.is_packed(keys) or any(map(INDEX.fullmatch, keys)) for keys in ways
    )


def contains_by_index(part: dict[str, Any]) -> bool:
    """
    Tell whether PostgreSQL's index of bodies finds what contains *part*.
    """
    return any(
        _has_leaf(value)
        for key, value in part.items()
        if key == "data" or not packed_matching.is_packed((key,))
    )


def _has_leaf(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    return any(map(_has_leaf, value)) if isinstance(value, list) else True


def _json_contains(dialect: Dialect, column: ColumnElement[Any], part: Any) -> ColumnElement[bool]:
    if dialect.name == "postgresql":
        return _contains_on_postgresql(column, part)
    return _function("eventlog_contains", column, encode(part))


def has_text(dialect: Dialect, text: str, unlike: str | None = None) -> ColumnElement[bool]:
    """
    Make the condition that *text* occurs in the JSON of a stored body, in any case.

    Args:
        dialect: Of the database.
        text: The text.
        unlike: Where PostgreSQL may use its index by trigrams: the letters that this does not find
            in any case.
    """
    needle = needle_of(text)
    if dialect.name == "postgresql":
        found = _matches(_BODY, expression_of(needle))
        if unlike is not None:
            blurred = _blurred(needle, unlike)
            if blurred == needle:
                return found
            return and_(_matches(_BODY, expression_of(blurred)), found)
        # as a number, because the planner assumes that the operator matches next to nothing
        return cast(found, Integer) > literal(0)
    return and_(_may_have(needle), _function("eventlog_has_text", event_logs.c.body, needle))


def is_part(dialect: Dialect, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """
    Make the condition that *text* occurs in the name in *column*, in any case.
    """
    needle = fold(text)
    if dialect.name == "postgresql":
        return _matches(column, expression_of(needle))
    return _function("eventlog_has_text", column, needle)


def is_named(
    dialect: Dialect, column: ColumnElement[str], patterns: Sequence[str]
) -> ColumnElement[bool]:
    """
    Make the condition that one of *patterns* matches the name in *column*: ``*`` is any text.
    """
    if dialect.name == "postgresql":
        return or_(*(column.like(_liked(pattern), escape="~") for pattern in patterns))
    function = func.eventlog_is_named(column, encode(list(patterns)), type_=Boolean())
    return function == literal(1)


def _liked(pattern: str) -> str:
    return re.sub("[%_~]", lambda one: f"~{one[0]}", pattern).replace("*", "%")


def _function(name: str, column: ColumnElement[Any], *arguments: str) -> ColumnElement[bool]:
    value = cast(column, Text)
    condition: ColumnElement[bool] = getattr(func, name)(value, *arguments, type_=Boolean())
    return condition == literal(1)


def _matches(column: ColumnElement[str], expression: str) -> ColumnElement[bool]:
    # lower() depends on the database's locale; a regular expression takes time in proportion to
    # the text, whatever the pattern, and can be interrupted
    pattern = literal(expression, Text)
    return collate(column, "C").op("~", return_type=Boolean())(pattern)


def _blurred(needle: str, unlike: str) -> str:
    return "".join(
        letter if letter.isascii() and letter not in unlike else ANY_LETTER for letter in needle
    )


def has_trigrams(text: str, unlike: str) -> bool:
    """
    Tell whether PostgreSQL's index by trigrams can find *text*; *unlike* as in `has_text`.
    """
    return _WORD.search(_blurred(needle_of(text), unlike)) is not None


def _may_have(needle: str) -> ColumnElement[bool]:
    """
    Make a condition that SQLite tests without Python, and that excludes most bodies without
    *needle*.

    Every body that contains *needle*, in any case, meets the condition. So does every large body,
    because LIKE cannot be interrupted. LIKE ignores the case of ASCII letters only. Two other
    characters are ASCII in lower case: the Kelvin sign is k, and a capital I with a dot is i.
    """
    longest = max(_ASCII.findall(needle), key=len, default="")[:_LONGEST]
    pattern = _NOT_ITSELF.sub(lambda one: "_" if one[0] in "ikIK" else f"~{one[0]}", longest)
    # CASE, not OR: SQLite would look for an index for each side of each OR
    # a BLOB: SQLite would count the characters of a text, which takes as long as LIKE does
    is_large = (func.length(cast(event_logs.c.body, LargeBinary)) > literal(_LIKED), true())
    return case(is_large, else_=_BODY.like(f"%{pattern}%", escape="~"))


def _texts(part: Any, zero: str = "", end: str = "") -> Iterator[str]:
    """
    Yield the leaves of *part* as the store encodes them: every body that contains it has them.
    """
    if isinstance(part, dict) and part:
        for key, value in part.items():
            if isinstance(value, (dict, list)) and value:
                yield from _texts(value, zero, end)
            else:
                # without the first quote: LIKE is slower where many keys begin like the pattern
                yield f'{_as_json(key)}":{_text(value, zero, end)}'
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value, zero, end)
    else:
        yield _text(part, zero, end)


def _common_text(ways: Sequence[Keys], value: Any, zero: str = "", end: str = "") -> str:
    """
    Return a text that every body has with *value* at one of *ways*, as the store encodes it.
    """
    if isinstance(value, (dict, list)) and value:
        return max(_texts(value, zero, end), key=len, default="")
    text = _text(value, zero, end)
    texts = [
        # an element of a list has no key
        text if INDEX.fullmatch(keys[-1]) else f'{_as_json(keys[-1])}":{text}'
        for keys in ways
    ]
    ends = zip(*map(reversed, texts), strict=False)
    common = takewhile(lambda letters: len(set(letters)) == 1, ends)
    return "".join(letters[0] for letters in common)[::-1]


def _text(value: Any, zero: str, end: str) -> str:
    """
    Return the JSON that every value equal to *value* has or begins with; empty if it may differ.

    Args:
        value: The value.
        zero: The text of 0.
        end: The text after any other number.
    """
    if isinstance(value, (dict, list)):
        return ""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value == 0:  # which -0.0 equals
            return zero
        if abs(value) >= _EXPONENTS:  # 1e16 equals an integer
            return ""
        return encode(int(value) if value == int(value) else value) + end
    return encode(value)


def _as_json(text: str) -> str:
    return encode(text)[1:-1]
