"""
The view that a URL asks for, and the URLs of narrower, wider and other views.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from nameko_eventlog.limits import PATTERN_WILDCARDS
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.dating import EARLIEST_MS
from nameko_eventlog.store.parameters import MAX_PATH_LEVELS, InvalidQuery
from nameko_eventlog.store.paths import write_path
from nameko_eventlog.store.rows import MAX_TEXT
from nameko_eventlog.store.times import format_time, parse_time
from nameko_eventlog.store.typed import parse_duration, parse_equality, parse_moment


NAMES = (
    "service", "entrypoint", "event_type", "caller", "level", "call_id", "origin_call_id",
    "time_note",
)  # fmt: skip
EQUALITIES = ("data", "metadata")
CONTAINMENTS = ("data_contains", "metadata_contains")
RANGE = ("since", "until")
FILTERS = (*NAMES, *EQUALITIES, *CONTAINMENTS, "text", *RANGE)

PAGE = 100
"""How many event logs are on a page."""

_MOST_QUOTED = 600
_MOST_TYPED = 250
_AROUND = timedelta(hours=12)

# the store dates nothing earlier
_EARLIEST = datetime.fromtimestamp(EARLIEST_MS / 1000, timezone.utc)

# fields of the body that have their own filter and index
_OWN_FILTERS = {
    "service_name": "service",
    "entrypoint_name": "entrypoint",
    "event_type": "event_type",
    "level": "level",
    "call_id": "call_id",
}


@dataclass(frozen=True, slots=True)
class Chip:
    """
    An active filter, and the URL without it.
    """

    name: str
    value: str
    without: str
    moment: str | None = None
    """ISO 8601, UTC, if the value is a point in time."""


@dataclass(frozen=True)
class View:
    """
    The stream as a URL asks for it.

    Args:
        filters: Pairs of a filter's name and the typed value.
        order: ``newest`` or ``oldest`` first.
        cursor: The cursor of the previous page.
    """

    filters: tuple[tuple[str, str], ...] = ()
    order: str = "newest"
    cursor: str | None = None

    ALTERNATIVES: ClassVar[tuple[str, ...]] = NAMES
    """Of several values of these filters, one must match; of the other filters, all."""

    @classmethod
    def read(cls, arguments: Any) -> View:
        """
        Read a URL's arguments, ignoring empty fields of a form.
        """
        return cls(
            tuple(
                (name, value.strip())
                for name in FILTERS
                for value in arguments.getlist(name)
                if value.strip()
            ),
            arguments.get("order") or "newest",
            arguments.get("cursor") or None,
        )

    def parameters(self) -> dict[str, Any]:
        """
        Return the parameters of `EventLogQuery.query` and `count`, without order and cursor.

        Raises:
            InvalidQuery: A typed value is invalid.
        """
        given: dict[str, Any] = {}
        typed: dict[tuple[str, ...], str] = {}
        for name, value in self.filters:
            try:
                _check_once(typed, name, value)
                if name in NAMES:
                    given.setdefault(name, []).append(_read_name(value))
                elif name in EQUALITIES:
                    path, wanted = parse_equality(value)
                    given.setdefault(name, {})[path] = wanted
                elif name in CONTAINMENTS:
                    given[name] = json.loads(value)
                elif name in RANGE:
                    given[name] = _moment(name, value)
                else:
                    given[name] = value
            except RecursionError:
                raise InvalidQuery(name, value, "it is nested too deeply") from None
            except ValueError as exc:
                raise InvalidQuery(name, value, str(exc)) from None
        if len(bounds := [parse_time(given[name]) for name in RANGE if name in given]) == 2:
            since, until = (self.values(name)[0] for name in RANGE)
            if bounds[0] >= bounds[1]:
                raise InvalidQuery("until", until, f"pass a time after since, which is {since!r}")
        return given

    def values(self, name: str) -> list[str]:
        """
        Return the values typed for a filter.
        """
        return [value for of, value in self.filters if of == name]

    def chips(self) -> list[Chip]:
        """
        Return the active filters.
        """
        return [
            Chip(
                name.replace("_", " "),
                value,
                self._url(pair for pair in self.filters if pair != (name, value)),
                _iso(value) if name in RANGE else None,
            )
            for name, value in self.filters
        ]

    def title(self) -> str:
        """
        Return the active filters for the title of the page.
        """
        return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in self.filters)

    def url(self, **changes: str | None) -> str:
        """
        Return the URL of the first page with some filters set or removed.
        """
        kept = [pair for pair in self.filters if pair[0] not in changes]
        new = [(name, value) for name, value in changes.items() if value is not None]
        return self._url([*kept, *new])

    def narrowed(self, **changes: str | None) -> str | None:
        """
        Return what `url` returns for names, or None if a name is invalid, or too long for a page
        full of such URLs.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        if any(len(quote(value)) > _MOST_QUOTED for value in given.values()):
            return None
        if not all(_can_ask(name, value) for name, value in given.items()):
            return None
        return self.url(**{**changes, **{name: write_name(one) for name, one in given.items()}})

    def with_other(self, name: str, value: str, other: str) -> str:
        """
        Return the URL with one name replaced by another.
        """
        return self._url(
            (of, write_name(other) if (of, _read_name(text)) == (name, value) else text)
            for of, text in self.filters
        )

    def url_of_levels(self, *levels: str) -> str:
        """
        Return the URL with the levels replaced by these.
        """
        kept = [pair for pair in self.filters if pair[0] != "level"]
        return self._url([*kept, *(("level", level) for level in levels)])

    def page_url(self, cursor: str, given: Mapping[str, Any]) -> str:
        """
        Return the URL of the next page.

        It has this page's absolute time range, to which the cursor belongs: ``24h`` would be
        another range for each page.

        Args:
            cursor: The cursor of this page.
            given: The result of `parameters` for this page.
        """
        kept = [pair for pair in self.filters if pair[0] not in RANGE]
        times = [(name, typed_time(given[name])) for name in RANGE if name in given]
        return self._url([*kept, *times], cursor=cursor)

    def other_order(self) -> str:
        """
        Return the URL with the opposite order.
        """
        order = "newest" if self.order == "oldest" else "oldest"
        return View(self.filters, order)._url(self.filters)

    def _url(self, filters: Iterable[tuple[str, str]], **more: str) -> str:
        pairs = [*filters, *more.items()]
        if self.order != "newest":
            pairs.append(("order", self.order))
        return f"/?{urlencode(pairs)}" if pairs else "/"


def _check_once(typed: dict[tuple[str, ...], str], name: str, value: str) -> None:
    """
    Note the value typed for a filter that takes one value.

    Raises:
        ValueError: There was a different value before.
    """
    if name in NAMES:
        return
    key: tuple[str, ...] = (name,)
    wanted = value
    if name in EQUALITIES:
        path, one = parse_equality(value)
        key, wanted = (name, path), json.dumps(one, sort_keys=True)
    if typed.setdefault(key, wanted) != wanted:
        raise ValueError(f"given twice: remove one of the values of {'.'.join(key)}")


def _iso(text: str) -> str | None:
    """
    Return the typed point in time, or None if it is relative or not a time.
    """
    try:
        parse_duration(text)
    except ValueError:
        try:
            return format_time(parse_time(parse_moment(text)))
        except ValueError:
            return None
    return None


def _moment(name: str, text: str) -> datetime:
    """
    Read a bound of a time range. A range may begin before the store's earliest time.

    Raises:
        ValueError: It is not a time, or the range would end before the earliest time.
    """
    moment = parse_moment(text)
    if moment <= _EARLIEST and name == "until":
        raise ValueError("the store has nothing from before the year 2000: pass a later time")
    return max(moment, _EARLIEST)


def typed_time(moment: datetime) -> str:
    """
    Write a point in time as it is typed: ``2026-11-24T08:00:00Z``.
    """
    return format_time(parse_time(moment)).replace(".000+00:00", "Z")


def map_url(**times: str) -> str:
    """
    Return the URL of the map of a time range.
    """
    return f"/map?{urlencode(times)}"


def write_name(name: str) -> str:
    """
    Write a name as it is typed into a filter: in quotes if it would be read differently without.
    """
    return json.dumps(name) if name != name.strip() or name.startswith('"') else name


def _read_name(text: str) -> str:
    """
    Read a typed name; a name in quotes is taken literally.
    """
    if len(text) > 1 and text[0] == text[-1] == '"':
        with suppress(ValueError):
            return str(json.loads(text))
    return text


def _can_ask(name: str, value: str) -> bool:
    """
    Tell whether the store accepts a name in a filter.
    """
    return 0 < len(value) <= MAX_TEXT and (
        name != "event_type" or value.count("*") <= PATTERN_WILDCARDS
    )


def stream_url(filters: Mapping[str, str]) -> str:
    """
    Return the URL of the stream with these filters; names are taken literally.
    """
    return View(
        tuple(
            (name, write_name(value) if name in NAMES else value)
            for name, value in filters.items()
        )
    ).url()


def call_url(call_id: str) -> str | None:
    """
    Return the URL of the event logs of a call, or None if the store cannot have that id.
    """
    return stream_url({"call_id": call_id}) if _can_ask("call_id", call_id) else None


def event_log_url(message_id: str) -> str:
    """
    Return the URL of an event log.
    """
    return f"/event-log?{urlencode({'id': message_id})}"


def event_log_file_url(message_id: str) -> str:
    """
    Return the URL of an event log as a file.
    """
    return f"/event-log.json?{urlencode({'id': message_id})}"


def trace_url(call_id: str) -> str:
    """
    Return the URL of a call's trace.
    """
    return f"/trace?{urlencode({'call': call_id})}"


def field_url(row: EventLogRow, path: tuple[str, ...], value: Any) -> str | None:
    """
    Return the URL of the event logs with the same value in a field of the body, or None if no
    filter can express it.

    Args:
        row: One of these event logs.
        path: The path of the field.
        value: Its value.
    """
    at, now = datetime.fromisoformat(row["time"]), datetime.now(timezone.utc)
    if isinstance(value, str):
        name = _own_filter(row["body"], path, value)
        if name is not None and _can_ask(name, value):
            is_ahead = at > now and name not in ("call_id", "origin_call_id")
            return stream_url({name: value, **(_range_around(at) if is_ahead else {})})
    if isinstance(value, (dict, list)) or "omitted_bytes" in row:  # a summary is not the body
        return None
    kind, keys = ("data", path[1:]) if path[0] == "data" and path[1:] else ("metadata", path)
    typed = f"{write_path(keys)}={json.dumps(value)}"
    if len(keys) > MAX_PATH_LEVELS or len(typed) > _MOST_TYPED:
        return None
    # without a range the last 24 hours are searched
    is_recent = now - _AROUND < at <= now
    return stream_url({kind: typed, **({} if is_recent else _range_around(at))})


def _own_filter(body: Mapping[str, Any], path: tuple[str, ...], value: str) -> str | None:
    """
    Return the filter that has an index for a field of the body, or None.
    """
    if path[0] == "call_stack":
        if value == body.get("call_id"):
            return "call_id"
        return "origin_call_id" if path[1:] == ("0",) else None
    return _OWN_FILTERS.get(path[0]) if len(path) == 1 else None


def _range_around(at: datetime) -> dict[str, str]:
    return {"since": typed_time(at - _AROUND), "until": typed_time(at + _AROUND)}
