"""
The parameters of queries, validated.
"""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import msgspec

from nameko_eventlog.exceptions import EventLogValueError
from nameko_eventlog.limits import (
    AHEAD_SECONDS,
    FILTER_CHARACTERS,
    FILTER_VALUES,
    PAGE_ROWS,
    PATTERN_WILDCARDS,
    SEARCH_CHARACTERS,
)
from nameko_eventlog.store.dating import NOTES
from nameko_eventlog.store.levels import expand_levels, level_number
from nameko_eventlog.store.paths import Keys, read_path
from nameko_eventlog.store.positions import LAST_TIME
from nameko_eventlog.store.rows import (
    MAX_DEPTH,
    MAX_TEXT,
    Unstorable,
    escape_unstorable,
    make_plain,
)
from nameko_eventlog.store.times import now_ms, parse_time


MAX_LIMIT = PAGE_ROWS
"""How many rows a page may have."""

MAX_VALUES = 100
"""How many values one filter may have."""

MAX_PATHS = 50
"""How many paths one filter may have: SQLite cannot bind the values of many more."""

MAX_PATH_LEVELS = 50
"""How many keys a path may have: PostgreSQL's functions take a hundred arguments."""

DEFAULT_RANGE_MS = 86_400_000
"""The default time range for filters on the content of bodies: the last 24 hours."""

ORDERS = ("newest", "oldest")

COLUMNS = {
    "service": "service_name",
    "entrypoint": "entrypoint_name",
    "event_type": "event_type",
    "caller": "caller",
    "level": "level",
    "call_id": "call_id",
    "origin_call_id": "origin_call_id",
    "time_note": "time_note",
}
"""The filters that have their own column and index."""

_LONGEST_TIME = 100
_LONGEST_INTEGER = 4_000  # digits
_PARAMETERS = 4  # the mappings of the four parameters, which do not count as values

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200


class InvalidQuery(EventLogValueError):
    """
    A parameter is invalid: the text names it, shows its value and says what to pass.

    .. versionadded:: 0.1.0
    """

    def __init__(self, name: str, value: Any, expected: str) -> None:
        super().__init__(f"{name[:200]}={_shown(value)}: {expected}")


def _shown(value: Any) -> str:
    """
    Return the beginning of the value's repr, without computing all of it.
    """
    try:
        shown = _repr.repr(value)
    except Exception:  # an integer of thousands of digits has no repr
        shown = f"<{type(value).__name__}>"
    return escape_unstorable(shown[:200])


@dataclass(frozen=True)
class Filters:
    """
    Which event logs: the parameters of `EventLogQuery.query`, validated.
    """

    columns: Mapping[str, tuple[str, ...]]
    patterns: tuple[str, ...]
    since: int | None
    until: int | None
    equalities: tuple[tuple[tuple[Keys, ...], Any], ...]
    containments: tuple[Mapping[str, Any], ...]
    text: str | None
    digest: str = field(compare=False)
    least_level: int | None = None
    """The severity from which unnamed levels are selected, in addition to those in ``columns``."""

    @classmethod
    def parse(
        cls,
        *,
        service: Any = None,
        entrypoint: Any = None,
        event_type: Any = None,
        caller: Any = None,
        level: Any = None,
        call_id: Any = None,
        origin_call_id: Any = None,
        time_note: Any = None,
        since: Any = None,
        until: Any = None,
        data: Any = None,
        data_contains: Any = None,
        metadata: Any = None,
        metadata_contains: Any = None,
        text: Any = None,
    ) -> Filters:
        """
        Validate parameters.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        given = {name: value for name, value in locals().items() if name != "cls"}
        columns = {
            column: _values(name, given[name])
            for name, column in COLUMNS.items()
            if given[name] is not None
        }
        least_level: int | None = None
        if "level" in columns:
            names, least_level = expand_levels(columns["level"])
            columns["level"] = tuple(sorted(names))
        for note in columns.get("time_note", ()):
            check_choice("time_note", note, NOTES)
        patterns: tuple[str, ...] = ()
        if any("*" in one for one in columns.get("event_type", ())):
            patterns = columns.pop("event_type")
        if any(one.count("*") > PATTERN_WILDCARDS for one in patterns):
            raise InvalidQuery("event_type", event_type, f"pass at most {PATTERN_WILDCARDS} *")
        if text is not None and (not isinstance(text, str) or not text):
            raise InvalidQuery("text", text, "pass a non-empty string")
        if text is not None and len(text) > SEARCH_CHARACTERS:
            raise InvalidQuery("text", text, f"pass at most {SEARCH_CHARACTERS} characters")
        since_ms, until_ms = _time("since", since), _time("until", until)
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            raise InvalidQuery("until", until, f"pass a time after since, which is {since!r}")
        # each value is compared with every element of a list in a body
        size = _Size()
        for name in ("data", "metadata", "data_contains", "metadata_contains"):
            if isinstance(given[name], Mapping):
                size.add(name, given[name])
        containments = []
        if data_contains is not None:
            containments.append({"data": _mapping("data_contains", data_contains)})
        if metadata_contains is not None:
            containments.append(_mapping("metadata_contains", metadata_contains))
        equalities = [
            *_equalities("data", data, ("data",)),
            *_equalities("metadata", metadata, ()),
        ]
        encoded = msgspec.json.encode(
            [
                sorted(columns.items()), patterns, equalities, containments,
                text and escape_unstorable(text), since_ms, until_ms, least_level,
            ]
        )  # fmt: skip
        return cls(
            columns=columns,
            patterns=patterns,
            since=since_ms,
            until=until_ms,
            equalities=tuple(equalities),
            containments=tuple(containments),
            text=text and escape_unstorable(text),
            digest=hashlib.sha256(encoded).hexdigest()[:16],
            least_level=least_level,
        )

    @property
    def needs_range(self) -> bool:
        """
        Whether the content of bodies is searched: not every search of it has an index.
        """
        return bool(self.equalities or self.containments or self.text)

    @property
    def range(self) -> tuple[int, int]:
        """
        The time range, with both ends.
        """
        since = self.since or 0
        return since, LAST_TIME if self.until is None else max(self.until, since)

    def within(self, since: int | None, until: int | None) -> Filters:
        """
        Return the filters with another time range.
        """
        return replace(self, since=since, until=until)

    def beyond(self, time_ms: int, is_newest: bool) -> Filters:
        """
        Return the filters for the times up to *time_ms*, or from it, if the oldest come first.
        """
        return self.within(*((self.since, time_ms + 1) if is_newest else (time_ms, self.until)))

    def takes_level(self, level: str | None) -> bool:
        """
        Tell whether the filters select a level, given by its normalized name.
        """
        if "level" not in self.columns or level in self.columns["level"]:
            return True
        number = None if self.least_level is None or level is None else level_number(level)
        return number is not None and self.least_level is not None and number >= self.least_level

    def up_to_now(self) -> Filters:
        """
        Return the filters without event logs dated in the future, unless a time or an id selects
        them; few event logs have the same id.
        """
        end = now_ms() + AHEAD_SECONDS * 1000
        if self.until is not None or (self.since is not None and self.since >= end):
            return self
        if "call_id" in self.columns or "origin_call_id" in self.columns:
            return self
        return replace(self, until=end)


def check_limit(limit: Any) -> int:
    """
    Return how many rows to return: at most `MAX_LIMIT`.

    Raises:
        InvalidQuery: *limit* is not a positive integer.
    """
    if type(limit) is not int or limit < 1:
        raise InvalidQuery("limit", limit, f"pass an integer from 1 to {MAX_LIMIT}")
    return min(limit, MAX_LIMIT)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """
    Return *value*, if it is one of *choices*.

    Raises:
        InvalidQuery: It is not.
    """
    if not isinstance(value, str) or value not in choices:
        raise InvalidQuery(name, value, f"pass one of {', '.join(choices)}")
    return value


def check_id(name: str, value: Any) -> str:
    """
    Return *value*, if it is a non-empty string.

    Raises:
        InvalidQuery: It is not.
    """
    if not isinstance(value, str) or not value:
        raise InvalidQuery(name, value, "pass an id, a non-empty string")
    return escape_unstorable(value)


def _values(name: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else value
    if (
        not isinstance(values, (list, tuple, set, frozenset))
        or not all(isinstance(one, str) and one for one in values)
        or not 0 < len(values) <= MAX_VALUES
    ):
        raise InvalidQuery(
            name, value, f"pass a non-empty string, or a list of 1 to {MAX_VALUES} of them"
        )
    if any(len(one) > MAX_TEXT for one in values):
        raise InvalidQuery(name, value, f"pass at most {MAX_TEXT} characters")
    return tuple(sorted({escape_unstorable(one) for one in values}))


def _time(name: str, value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, datetime) or (isinstance(value, str) and len(value) <= _LONGEST_TIME):
        try:
            return parse_time(value)
        except (ValueError, OverflowError):
            pass
    raise InvalidQuery(name, value, "pass a datetime, or ISO 8601 like 2026-11-24T08:00:00+00:00")


class _Size:
    """
    Counts the values and characters in all filters of a query.
    """

    def __init__(self) -> None:
        self._values = self._characters = 0

    def add(self, name: str, value: Any) -> None:
        """
        Count what *value* contains.

        Raises:
            InvalidQuery: The total exceeds a limit.
        """
        waiting = [value]
        while waiting:
            one = waiting.pop()
            self._values += 1
            inside: Sequence[Any] = ()
            if isinstance(one, Mapping):
                inside = tuple(one.values())
                self._characters += sum(map(_length, one))
            elif isinstance(one, (list, tuple, set, frozenset)):
                inside = tuple(one)
            else:
                self._characters += _length(one)
            if self._values + len(waiting) + len(inside) > FILTER_VALUES + _PARAMETERS:
                raise InvalidQuery(name, value, f"pass at most {FILTER_VALUES} values in all")
            if self._characters > FILTER_CHARACTERS:
                raise InvalidQuery(
                    name, value, f"pass at most {FILTER_CHARACTERS:,} characters in all"
                )
            waiting += inside


def _length(value: Any) -> int:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, int):  # an integer of thousands of digits cannot be converted
        digits = value.bit_length() // 3
        return digits if digits < _LONGEST_INTEGER else FILTER_CHARACTERS + 1
    return 1


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidQuery(name, value, "pass a non-empty mapping")
    try:
        plain: dict[str, Any] = make_plain(value)
    except Unstorable:
        raise InvalidQuery(name, value, f"pass at most {MAX_DEPTH} levels") from None
    except Exception:  # the repr of a value failed
        raise InvalidQuery(name, value, "pass values of JSON's types") from None
    return plain


def _equalities(name: str, value: Any, at: Keys) -> list[tuple[tuple[Keys, ...], Any]]:
    if value is None:
        return []
    given = _mapping(name, value)
    if len(given) > MAX_PATHS:
        raise InvalidQuery(name, value, f"pass at most {MAX_PATHS} paths")
    found = []
    for path, one in given.items():
        ways = read_path(path)
        if len(ways[0]) > MAX_PATH_LEVELS:
            raise InvalidQuery(name, value, f"pass paths of at most {MAX_PATH_LEVELS} levels")
        kept = tuple((*at, *keys) for keys in ways if len(keys) <= MAX_PATH_LEVELS)
        found.append((kept, one))
    return found


def default_since(until: int | None) -> int:
    """
    Return where the default time range begins.
    """
    return (now_ms() if until is None else until) - DEFAULT_RANGE_MS
