"""
Rendering pages from templates; any value may come from a hostile sender.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup, escape

from nameko_eventlog.describing import shortened
from nameko_eventlog.explorer import views
from nameko_eventlog.store.answers import (
    ENTRYPOINT_FAILED,
    FAILURE_LEVELS,
    WARNING_LEVELS,
    Call,
    EventLogRow,
)
from nameko_eventlog.store.call_ids import names_of
from nameko_eventlog.store.dating import AHEAD, DIFFERS, PAST, UNREADABLE
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.visible import visible as make_visible


MOST_SHOWN = 20_000
"""How many characters of a value a page shows; the download has all."""

MOST_LINES = 500
"""How many lines of a body a page shows."""

_MOST_OF_BODY = 200_000
_SUMMARY = 200
_MOST_URL = 6500
# the fields that an event log's page shows above the body
_ABOVE = (
    "service_name",
    "entrypoint_protocol",
    "entrypoint_name",
    "call_id",
    "call_stack",
    "event_type",
    "timestamp",
)
_LEVELS = ("debug", "info", "warning", "error", "critical")


def visible(value: Any) -> Any:
    r"""
    Escape characters that are invisible, or change the text around them: ``\x1b``.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return make_visible(value, has_lines=True)


def exact(value: str) -> Markup:
    """
    Return an attribute's value for forms and for copying, in which nothing is escaped as visible.
    """
    # HTML has no other way to write C1 characters, so they stay
    return Markup(  # noqa: S704
        re.sub("[^ -~\x80-\x9f]", lambda match: f"&#{ord(match[0])};", str(escape(value)))
    )


def short(value: Any, most: int = 120) -> str:
    """
    Return a text, or the repr of another value, cut to a length.
    """
    return _cut(value if isinstance(value, str) else repr(value), most)


def bdi(text: str, kind: str = "") -> Markup:
    """
    Return *text* in an element that isolates its direction.
    """
    if not kind:
        return Markup("<bdi>{}</bdi>").format(visible(text))
    return Markup('<bdi class="{}">{}</bdi>').format(kind, visible(text))


def link(url: str | None, inner: Markup, title: str = "", current: bool = False) -> Markup:
    """
    Return a link, or only its content if there is no URL or the URL is too long.
    """
    if url is None or len(url) > _MOST_URL:
        return inner
    named = Markup(' title="{}"').format(visible(short(title, 500))) if title else ""
    here = Markup(' aria-current="true"') if current else ""
    return Markup('<a href="{}"{}{}>{}</a>').format(url, named, here, inner)


def call_name(call: Call) -> str:
    """
    Return the names of a call's service and entrypoint.
    """
    return ".".join(filter(None, (call["service_name"], call["entrypoint_name"])))


def readable(call_id: str) -> str:
    """
    Return a call id without the UUID.
    """
    return ".".join(filter(None, names_of(call_id)))


def summary(row: EventLogRow) -> list[tuple[str, str]]:
    """
    Return a summary of the event data for one line: keys and values.
    """
    data = row["body"].get("data")
    if not data:
        return _captured(row["body"])
    if not isinstance(data, Mapping):
        return [("", _cut(json.dumps(data, ensure_ascii=False), _SUMMARY))]
    pairs: list[tuple[str, str]] = []
    length = 0
    for key, value in data.items():
        if length > _SUMMARY:
            pairs.append(("", f"\N{HORIZONTAL ELLIPSIS} ({len(data) - len(pairs):,} more)"))
            break
        text = _typed(value)
        pairs.append((_cut(key, 60), _cut(text, _SUMMARY - min(length, _SUMMARY // 2))))
        length += len(pairs[-1][0]) + len(pairs[-1][1])
    return pairs


def _captured(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Return a summary of an event log without data, from auto capture: duration and exception.
    """
    pairs: list[tuple[str, str]] = []
    duration = body.get("duration")
    if isinstance(duration, (int, float)) and not isinstance(duration, bool):
        pairs.append(("duration", seconds(duration)))
    what, _ = raised(body)
    if what:
        pairs.append(("exception", _cut(what, _SUMMARY)))
    return pairs


def raised(body: Mapping[str, Any]) -> tuple[str, str]:
    """
    Return the exception of an event log, and where it was raised, or empty strings.
    """
    exception = body.get("exception")
    if isinstance(exception, list) and exception:
        exception = exception[0]  # its causes follow
    if not isinstance(exception, Mapping):
        return "", ""
    parts = (exception.get("exc_type"), exception.get("exc_value"))
    what = ": ".join(part for part in parts if isinstance(part, str) and part)
    frames = exception.get("frames")
    last = frames[-1] if isinstance(frames, list) and frames else None
    if not isinstance(last, Mapping):
        return what, ""
    return what, f"{last.get('filename')}:{last.get('lineno')} in {last.get('name')}"


def _typed(value: Any) -> str:
    """
    Write a value as it is typed into a filter: text in quotes if it would be read as another type
    without them.
    """
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if len(value) > _SUMMARY:
        return value
    try:
        json.loads(value)
    except ValueError:
        return value
    except RecursionError:
        pass
    return json.dumps(value, ensure_ascii=False)


def suggestions(rows: Sequence[EventLogRow]) -> dict[str, list[str]]:
    """
    Return suggestions for the filters: the names on the page, and the levels.
    """
    names = {
        "service": "service_name",
        "entrypoint": "entrypoint_name",
        "event_type": "event_type",
    }
    known = {
        name: {row["body"].get(of) for row in rows if len(row["body"].get(of) or "") < 100}
        for name, of in names.items()
    }
    return {
        **{
            name: sorted(one for one in of if one and visible(one) == one)[:30]
            for name, of in known.items()
        },
        "level": list(_LEVELS),
    }


@dataclass(frozen=True, slots=True)
class Line:
    """
    A line of a body.

    Args:
        depth: The depth of nesting.
        key: The key, or the index in a list.
        value: As JSON; None if the value has its own lines.
        kind: The kind of value: ``text``, ``number``, ``word`` or ``hollow``.
        url: The URL of the event logs with the same value.
    """

    depth: int
    key: str
    value: str | None = None
    kind: str = ""
    url: str | None = None


def body_lines(row: EventLogRow) -> tuple[list[Line], bool]:
    """
    Return the lines of a body, and whether there are more than a page shows.

    The data come first; the fields that the page shows above the body come last.
    """
    body: Mapping[str, Any] = row["body"]
    about = {name: value for name, value in body.items() if name not in _ABOVE}
    data = {"data": body["data"]} if "data" in body else {}
    body = {**data, **about, **{name: body[name] for name in _ABOVE if name in body}}
    lines: list[Line] = []
    length = 0
    for line in _lines(row, body, ()):
        length += len(line.key) + len(line.value or "")
        if len(lines) == MOST_LINES or length > _MOST_OF_BODY:
            return lines, True
        lines.append(line)
    return lines, False


def _lines(row: EventLogRow, value: Any, path: tuple[str, ...]) -> Iterator[Line]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, one in items:
        at = (*path, str(key))
        shown = _cut(str(key), 200)
        if isinstance(one, (dict, list)) and one:
            yield Line(len(path), shown)
            yield from _lines(row, one, at)
        else:
            text = _cut(json.dumps(one, ensure_ascii=False), MOST_SHOWN)
            yield Line(len(path), shown, text, _kind(one), views.field_url(row, at, one))


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if isinstance(value, (dict, list)):
        return "hollow"
    return "word" if value is None or isinstance(value, bool) else "number"


def level_class(level: Any) -> str:
    """
    Return the CSS class of a level: ``error``, ``warning`` or ``other``.
    """
    level = normal_level(level)
    if level in FAILURE_LEVELS:
        return "error"
    return "warning" if level in WARNING_LEVELS else "other"


def row_class(body: Mapping[str, Any]) -> str:
    """
    Return the CSS class of an event log; one of a failed call is an error at any level.
    """
    if body.get("event_type") == ENTRYPOINT_FAILED or body.get("exception"):
        return "error"
    return level_class(body.get("level"))


def seconds(value: float) -> str:
    """
    Format a duration: ``1.5 ms``, ``2.34 s``.
    """
    if value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if value < 120 else f"{value / 60:.1f} min"


def size(value: int) -> str:
    """
    Format a number of bytes: ``64 KiB``, ``8.0 MiB``.
    """
    return f"{value / 1024:.0f} KiB" if value < 1 << 20 else f"{value / (1 << 20):.1f} MiB"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"


_INSTEAD = "the time above is that of the message id, or when the store received it."
_CLOCK = {
    AHEAD: f"The body's time is ahead of the store's clock: {_INSTEAD}",
    PAST: f"The body's time is before the year 2000: {_INSTEAD}",
    UNREADABLE: f"The body has no readable time: {_INSTEAD}",
    DIFFERS: "The message id has another time than the body; the body's time is shown.",
}


def make_environment() -> Environment:
    """
    Make the Jinja environment: every value is escaped and made visible.
    """
    environment = Environment(
        loader=PackageLoader("nameko_eventlog.explorer"),
        autoescape=True,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shortened"] = shortened
    environment.globals.update(
        CLOCK=_CLOCK,
        FAILURE_LEVELS=FAILURE_LEVELS,
        WARNING_LEVELS=WARNING_LEVELS,
        event_log_url=views.event_log_url,
        trace_url=views.trace_url,
        call_url=views.call_url,
        field_url=views.field_url,
        stream_url=views.stream_url,
        bdi=bdi,
        call_name=call_name,
        readable=readable,
        summary=summary,
        exact=exact,
        level_class=level_class,
        row_class=row_class,
        link=link,
        short=short,
        seconds=seconds,
        size=size,
    )
    return environment
