"""
Conditions on JSON that mean the same on PostgreSQL, which knows them, and on SQLite, which is
taught.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

import msgspec
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

from nameko_eventlog.amqp.decoding import decode_json
from nameko_eventlog.store.deadlines import Deadline
from nameko_eventlog.store.parameters import Patterns, compile_patterns
from nameko_eventlog.store.paths import Keys
from nameko_eventlog.store.schema import event_logs


_decode = decode_json
_BODY = cast(event_logs.c.body, Text)
_ASCII = re.compile(r"[\0-\x7f]+")
_LONGEST = 32  # of a pattern: LIKE takes as many times as long where all begin to match
_LIKED = 16_384  # bytes of a body that LIKE goes through: nothing stops it in between
_SCANNED = 262_144  # characters of a body between two looks at the clock, and at other threads
_WHOLE = 65_536  # characters of a body that is decoded as a whole
_CHECKED = 255  # elements, a mask, between two looks at the clock
_NOT_ITSELF = re.compile(r"[ikIK%_~]")
_LAST_CASED = 0x1F000  # no letter behind it has a case
_EXPONENTS = 10**15  # below it an integer is written as one, with or without ".0"
# what C's strtol reads, and so PostgreSQL: https://www.postgresql.org/docs/current/functions-json.html
_INDEX = re.compile(r"[ \t\n\v\f\r]*([+-]?)0*(\d{1,10})", re.ASCII)


def equals(dialect: Dialect, ways: Sequence[Keys], value: Any) -> ColumnElement[bool]:
    """
    Make the condition that the value at a path in the body, read in one of *ways*, is *value*.

    On PostgreSQL, unless the path may lead through a list, it asks for containment, which has an
    index. Of a value that is no mapping and no list, that is the same.
    """
    if dialect.name == "postgresql":
        return or_(*(_equals_on_postgresql(keys, value) for keys in ways))
    may_equal = _may_have(_common_text(ways, value))
    return and_(may_equal, _function("eventlog_equals", _encode(ways), _encode(value)))


def _equals_on_postgresql(keys: Keys, value: Any) -> ColumnElement[bool]:
    found = func.jsonb_extract_path(event_logs.c.body, *keys, type_=JSONB)
    exact: ColumnElement[bool] = found == literal(value, JSONB(none_as_null=False))
    if any(map(_INDEX.fullmatch, keys)):
        return exact
    part = value
    for key in reversed(keys):
        part = {key: part}
    contained = _contains_on_postgresql(part)
    return and_(contained, exact) if isinstance(value, (dict, list)) else contained


def _contains_on_postgresql(part: dict[str, Any]) -> ColumnElement[bool]:
    return event_logs.c.body.op("@>", return_type=Boolean())(literal(part, JSONB()))


def contains(dialect: Dialect, part: dict[str, Any]) -> ColumnElement[bool]:
    """
    Make the condition that the body contains *part*, as PostgreSQL's ``@>`` has it.
    """
    if dialect.name == "postgresql":
        return _contains_on_postgresql(part)
    may_contain = _may_have(max(_texts(part), key=len, default=""))
    return and_(may_contain, _function("eventlog_contains", _encode(part)))


def has_text(dialect: Dialect, text: str) -> ColumnElement[bool]:
    """
    Make the condition that *text* is somewhere in the body as JSON, whatever its case.
    """
    needle = needle_of(text)
    if dialect.name == "postgresql":
        # not its lower, which knows as many letters as the database's locale; its regular
        # expressions take as long as the body is, whatever is looked for, and can be given up
        pattern = literal(_expression(needle), Text)
        found = collate(_BODY, "C").op("~", return_type=Boolean())(pattern)
        # as a number, for of the operator it would think that next to nothing matches
        return cast(found, Integer) > literal(0)
    return and_(_may_have(needle), _function("eventlog_has_text", needle))


def is_named(
    dialect: Dialect, column: ColumnElement[str], patterns: Sequence[str]
) -> ColumnElement[bool]:
    """
    Make the condition that one of *patterns* means the name in *column*: ``*`` is any text.
    """
    if dialect.name == "postgresql":
        return or_(*(column.like(_liked(pattern), escape="~") for pattern in patterns))
    function = func.eventlog_is_named(column, _encode(list(patterns)), type_=Boolean())
    return function == literal(1)


def _liked(pattern: str) -> str:
    return re.sub("[%_~]", lambda one: f"~{one[0]}", pattern).replace("*", "%")


@lru_cache(maxsize=16)
def _compiled(patterns: str) -> Patterns:
    return compile_patterns(_decode(patterns))


def register_sqlite_functions(connection: Any, deadline: Deadline | None = None) -> None:
    """
    Give a connection of sqlite3's the functions that `equals` and its like call.

    Args:
        connection: The connection.
        deadline: What they look at; SQLite itself cannot give them up.
    """
    check = _go_on if deadline is None else deadline.check

    def equals(body: str, ways: str, value: str) -> bool:
        return _is_at_in(body, _decode(ways), _decode(value), check)

    def contains(body: str, part: str) -> bool:
        return _is_contained_in(_decode(part), body, check)

    def has_text(body: str, needle: str) -> bool:
        check()
        return _is_in_text(needle, body, check)

    def is_named(name: str, patterns: str) -> bool:
        check()
        return _compiled(patterns).fullmatch(name)

    for name, function, arguments in (
        ("eventlog_equals", equals, 3),
        ("eventlog_contains", contains, 2),
        ("eventlog_has_text", has_text, 2),
        ("eventlog_is_named", is_named, 2),
    ):
        connection.create_function(name, arguments, function, deterministic=True)


def _go_on() -> None:
    pass


def _function(name: str, *arguments: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = getattr(func, name)(_BODY, *arguments, type_=Boolean())
    return condition == literal(1)


@lru_cache(maxsize=1)
def _cases() -> dict[str, str]:
    """
    Return what else is the same as a letter in lower case.
    """
    cases: dict[str, str] = defaultdict(str)
    for code in range(_LAST_CASED):
        if not 0xD800 <= code < 0xE000:
            letter = chr(code)
            if (folded := fold(letter)) != letter:
                cases[folded] += letter
    return dict(cases)


def _expression(needle: str) -> str:
    """
    Return a regular expression of PostgreSQL's for a folded text in any case.
    """
    cases = _cases()
    return "".join(
        f"[{letter}{cases[letter]}]"
        if letter in cases
        else f"\\{letter}"
        if letter.isascii() and not letter.isalnum()
        else letter
        for letter in needle
    )


def _may_have(needle: str) -> ColumnElement[bool]:
    """
    Make a condition that no body fails that has *needle* in it, whatever its case, and that SQLite
    denies without Python; a large one it does not deny, for LIKE cannot be given up.

    LIKE knows the case of ASCII alone. Of other letters two are ASCII in lower case: the sign of
    Kelvin is k, and a capital I with a dot is i.
    """
    longest = max(_ASCII.findall(needle), key=len, default="")[:_LONGEST]
    pattern = _NOT_ITSELF.sub(lambda one: "_" if one[0] in "ikIK" else f"~{one[0]}", longest)
    # not OR: SQLite would look for an index for each side of each
    # of a text SQLite would count the letters, which takes as long as LIKE does
    is_large = (func.length(cast(event_logs.c.body, LargeBinary)) > literal(_LIKED), true())
    return case(is_large, else_=_BODY.like(f"%{pattern}%", escape="~"))


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


def _common_text(ways: Sequence[Keys], value: Any) -> str:
    """
    Return what stands in every body that has *value* at one of *ways*, as the store encodes it.
    """
    if isinstance(value, (dict, list)) and value:
        return max(_texts(value), key=len, default="")
    texts = [
        # where it leads into a list, there is no key
        _text(value) if _INDEX.fullmatch(keys[-1]) else f'{_as_json(keys[-1])}":{_text(value)}'
        for keys in ways
    ]
    ends = zip(*map(reversed, texts), strict=False)
    common = takewhile(lambda letters: len(set(letters)) == 1, ends)
    return "".join(letters[0] for letters in common)[::-1]


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


def _is_contained_in(part: Any, whole: Any, check: Callable[[], None]) -> bool:
    """
    Tell whether *whole*, which is JSON, contains *part*.

    What is large is decoded piece by piece: all of it at once would keep other threads waiting.
    """
    check()
    if _size(whole) <= _WHOLE:
        return is_contained(part, _decode(whole), check)
    try:
        if isinstance(part, dict):
            inside = msgspec.json.decode(whole, type=dict[str, msgspec.Raw])
            return all(
                key in inside and _is_contained_in(value, inside[key], check)
                for key, value in part.items()
            )
        if isinstance(part, list):
            return _are_contained_in(part, whole, check)
        return isinstance(part, str) and part == msgspec.json.decode(whole, type=str)
    except msgspec.ValidationError:  # it is something else
        return False


def _are_contained_in(part: list[Any], whole: Any, check: Callable[[], None]) -> bool:
    leaves = {_leaf(one) for one in part if not isinstance(one, (dict, list))}
    nested = [one for one in part if isinstance(one, (dict, list))]
    for number, element in enumerate(msgspec.json.decode(whole, type=list[msgspec.Raw])):
        if not number & _CHECKED:
            check()
        if not leaves and not nested:
            break
        if _size(element) > _WHOLE:
            nested = [one for one in nested if not _is_contained_in(one, element, check)]
            leaves = {one for one in leaves if not _is_contained_in(one, element, check)}
            continue
        value = _decode(element)
        if isinstance(value, (dict, list)):
            nested = [
                one
                for one in nested
                if type(one) is not type(value) or not is_contained(one, value, check)
            ]
        else:
            leaves.discard(_leaf(value))
    return not leaves and not nested


def _is_at_in(
    body: Any, ways: Sequence[Sequence[str]], value: Any, check: Callable[[], None]
) -> bool:
    """
    Tell whether the value at one of *ways* in *body*, which is JSON, is *value*.
    """
    check()
    if _size(body) <= _WHOLE:
        found = _decode(body)
        return any(is_at(found, keys, value) for keys in ways)
    below: dict[str, list[Sequence[str]]] = defaultdict(list)
    for keys in ways:
        if keys:  # of what may be asked for nothing is so large
            below[keys[0]].append(keys[1:])
    try:
        inside = _values_at(body, below)
    except msgspec.ValidationError:  # it has no values
        return False
    return any(_is_at_in(one, below[key], value, check) for key, one in inside.items())


def _values_at(body: Any, keys: Iterable[str]) -> dict[str, Any]:
    """
    Return those values of a mapping or a list, which is JSON, that keys of paths lead to.
    """
    if _begins(body) == "{":
        mapping = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        return {key: mapping[key] for key in keys if key in mapping}
    values = msgspec.json.decode(body, type=list[msgspec.Raw])
    places = {key: _index(key, len(values)) for key in keys}
    return {key: values[at] for key, at in places.items() if at is not None}


def _begins(text: Any) -> str:
    return str(text[0]) if isinstance(text, str) else chr(memoryview(text)[0])


def _size(text: Any) -> int:
    return len(text) if isinstance(text, str) else memoryview(text).nbytes


def _is_in_text(needle: str, body: str, check: Callable[[], None]) -> bool:
    """
    Tell whether *needle* is in a body: piece by piece, so that other threads have their turn.
    """
    for at in range(0, max(len(body), 1), _SCANNED):
        if at:
            check()
        # a letter in lower case is one letter, so that a piece has all that begins in it
        if needle in fold(body[at : at + _SCANNED + len(needle) - 1]):
            return True
    return False


def is_at(body: Any, path: Sequence[str], value: Any) -> bool:
    """
    Tell whether the value at *path* in *body* is *value*, as `equals` has it.
    """
    found = body
    for key in path:
        if isinstance(found, list):
            at = _index(key, len(found))
            if at is None:
                return False
            found = found[at]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return False
    return is_equal(found, value)


def _index(key: str, length: int) -> int | None:
    """
    Return where in a list of that length a path's key leads, or None.
    """
    index = _INDEX.fullmatch(key)
    if index is None:
        return None
    at = int(index[1] + index[2])
    return at if -length <= at < length else None


def needle_of(text: str) -> str:
    """
    Return what stands in JSON for *text*, whatever its case.
    """
    return fold(_as_json(text))


def fold(text: str) -> str:
    """
    Write *text* in lower case, letter by letter, the same on every database.

    Python's own has two exceptions to that: a capital I with a dot becomes two letters, and a
    capital sigma depends on what is beside it.
    """
    if not text.isascii():
        text = text.replace("\u0130", "i").replace("\u03a3", "\u03c3")
    return text.lower()


def is_in(needle: str, body: Any) -> bool:
    """
    Tell whether *needle*, which is of `needle_of`, is in *body* as JSON.
    """
    return needle in fold(_encode(body))


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


def is_contained(part: Any, whole: Any, check: Callable[[], None] = _go_on) -> bool:
    """
    Tell whether *whole* contains *part*: mappings by their keys, lists in any order.

    Args:
        part: What is looked for.
        whole: Where.
        check: Is called now and then, and may raise.
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
            leaves = {_leaf(one) for one in whole if not isinstance(one, (dict, list))}
            if not all(_leaf(one) in leaves for one in part if not isinstance(one, (dict, list))):
                return False
        return all(_has_one(one, whole, check) for one in nested)
    return not isinstance(whole, (dict, list)) and is_equal(part, whole)


def _has_one(part: Any, whole: list[Any], check: Callable[[], None]) -> bool:
    for number, other in enumerate(whole):
        if not number & _CHECKED:
            check()
        if type(other) is type(part) and is_contained(part, other, check):
            return True
    return False


def _leaf(value: Any) -> Any:
    """
    Return what has the same hash as what equals *value*: true is not 1, and 1 is 1.0.
    """
    return (value,) if isinstance(value, bool) else value
