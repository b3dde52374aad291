"""
Conditions on bodies that mean in ClickHouse what they mean in the other databases.

Most are exact in SQL. For a few, SQL selects more, and Python tests what it has selected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Text, and_, func, literal, or_, select, true

from nameko_eventlog.store.clickhouse.schema import event_logs, series
from nameko_eventlog.store.comparing import INDEX, expression_of, is_at, is_contained, needle_of
from nameko_eventlog.store.packing import NAMES, PACKED_KEYS
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.paths import Keys


_BODY = event_logs.c.body
_LOWER = func.lower(_BODY, type_=Text())
_EXACT = 2**53  # integers up to this are exact as floats
_NOT_ITSELF = re.compile(r"[ik]|[^\x00-\x7f]+")
_LONGEST = 200  # characters of a pattern

Test = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class BodyConditions:
    """
    What filters ask of bodies.

    Args:
        in_sql: Conditions.
        tests: What complete bodies must pass as well.
    """

    in_sql: Sequence[ColumnElement[bool]]
    tests: Sequence[Test]

    def passes(self, body: dict[str, Any]) -> bool:
        """
        Tell whether a body passes all tests.
        """
        return all(test(body) for test in self.tests)


def body_conditions(filters: Filters) -> BodyConditions:
    """
    Make the conditions on bodies that *filters* stand for.
    """
    in_sql: list[ColumnElement[bool]] = []
    tests: list[Test] = []
    for ways, value in filters.equalities:
        exact = [_equals(keys, value) for keys in ways]
        in_sql.append(or_(*(_may_equal(keys, value) for keys in ways)))
        if any(one is None for one in exact):
            tests.append(_is_at_one(ways, value))
        else:
            in_sql.append(or_(*(one for one in exact if one is not None)))
    for part in filters.containments:
        exact_part = _contains(part)
        if exact_part is None:
            in_sql += _may_contain(part)
            tests.append(_has_part(part))
        else:
            in_sql += exact_part
    if filters.text:
        named = select(series.c.id).where(
            _matches(series.c.event_type, expression_of(needle_of(filters.text)))
        )
        in_sql.append(or_(event_logs.c.series_id.in_(named), has_text(filters.text)))
    return BodyConditions(in_sql, tests)


def has_text(text: str) -> ColumnElement[bool]:
    """
    Make the condition that *text* occurs in the JSON of a stored body, in any case.
    """
    needle = needle_of(text)
    return and_(_may_have(needle), _matches(_BODY, expression_of(needle)))


def is_named(column: ColumnElement[str], patterns: Sequence[str]) -> ColumnElement[bool]:
    """
    Make the condition that one of *patterns* matches the name in *column*: ``*`` is any text.
    """
    return or_(*(column.like(_quoted(pattern).replace("*", "%")) for pattern in patterns))


def _matches(column: ColumnElement[str], expression: str) -> ColumnElement[bool]:
    # RE2 takes time in proportion to the text, whatever the pattern
    condition: ColumnElement[bool] = func.match(column, f"(?s){expression}", type_=Boolean())
    return condition


def _quoted(text: str) -> str:
    return re.sub(r"[%_\\]", lambda one: f"\\{one[0]}", text)


def _may_have(needle: str) -> ColumnElement[bool]:
    """
    Make a condition that has an index, and that every body meets that has *needle* in any case.

    The lower case of ASCII letters only is compared. Two other letters have i and k as theirs.
    """
    parts = [_quoted(part) for part in _NOT_ITSELF.split(needle[:_LONGEST])]
    if not any(parts):
        return true()
    return _LOWER.like(f"%{'%'.join(parts)}%")


def _equals(keys: Keys, value: Any) -> ColumnElement[bool] | None:
    """
    Make the condition that the value at *keys* in the stored body equals *value*; None if SQL
    cannot tell.
    """
    if _is_packed(keys) or any(map(INDEX.fullmatch, keys)):
        return None
    path = [literal(key, Text()) for key in keys]
    kind = func.JSONType(_BODY, *path, type_=Text())
    if value is None:
        has: ColumnElement[bool] = func.JSONHas(_BODY, *path, type_=Boolean())
        return and_(kind == "Null", has)
    if isinstance(value, bool):
        return and_(kind == "Bool", func.JSONExtractBool(_BODY, *path) == int(value))
    if isinstance(value, str):
        return and_(kind == "String", func.JSONExtractString(_BODY, *path, type_=Text()) == value)
    if isinstance(value, (int, float)) and abs(value) < _EXACT:
        number = func.JSONExtractFloat(_BODY, *path) == float(value)
        return and_(kind.in_(["Int64", "UInt64", "Double"]), number)
    return None


def _may_equal(keys: Keys, value: Any) -> ColumnElement[bool]:
    """
    Make a condition that has an index, and that every event log meets with *value* at *keys*.
    """
    if _is_packed(keys):
        return _may_be_packed(keys[0], value)
    if INDEX.fullmatch(keys[-1]):
        return true()
    return _may_have(_written(keys[-1], value))


def _may_be_packed(name: str, value: Any) -> ColumnElement[bool]:
    """
    Make the condition that *name* was not taken out of the body, or that its series has *value*.
    """
    if name not in NAMES:
        return true()
    is_taken = func.bitAnd(event_logs.c.packed, int(NAMES[name])) != 0
    column = series.c[name]
    has_value = column.is_(None) if value is None else column == str(value)
    if name == "level":  # in the series it is normalized
        return true()
    return or_(event_logs.c.series_id.in_(select(series.c.id).where(has_value)), ~is_taken)


def _written(key: str, value: Any) -> str:
    """
    Return folded JSON that a body has with *value* at *key*; of a number only what is the same
    however it is written.
    """
    begin = f'"{needle_of(key)}":'
    if isinstance(value, str):
        return f'{begin}"{needle_of(value)}"'
    if value is None or isinstance(value, bool):
        return begin + {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and 0 < abs(value) < 10**15:
        return begin + str(value)
    return begin


def _contains(part: Any) -> list[ColumnElement[bool]] | None:
    """
    Make the conditions that a body contains *part*; None if SQL cannot tell.
    """
    found: list[ColumnElement[bool]] = []
    for keys, value in _leaves(part, ()):
        exact = None if isinstance(value, (dict, list)) else _equals(keys, value)
        if exact is None or any(map(INDEX.fullmatch, keys)):
            return None
        found += [_may_equal(keys, value), exact]
    return found


def _may_contain(part: Any) -> list[ColumnElement[bool]]:
    return [
        _may_equal(keys, value)
        for keys, value in _leaves(part, ())
        if not isinstance(value, (dict, list))
    ]


def _leaves(part: Any, keys: Keys) -> Any:
    for key, value in part.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*keys, key))
        else:
            yield (*keys, key), value


def _is_packed(keys: Keys) -> bool:
    return keys[0] in PACKED_KEYS and (keys[0] != "data" or len(keys) == 1)


def _is_at_one(ways: Sequence[Keys], value: Any) -> Test:
    return lambda body: any(is_at(body, keys, value) for keys in ways)


def _has_part(part: Any) -> Test:
    return lambda body: is_contained(part, body)
