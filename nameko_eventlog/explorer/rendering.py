"""
Pages out of templates; every value is text that somebody hostile may have sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from nameko_eventlog.explorer import views
from nameko_eventlog.store.answers import FAILURE_LEVELS, EventLogRow


MOST_SHOWN = 20_000
"""Characters of one value on a page; all of it is in the download."""

_ESSENCE = 200

# control characters, and those that turn the direction of the text behind them
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(value: Any) -> Any:
    r"""
    Write what would change the look of the text around it as an escape: ``\x1b``.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return _INVISIBLE.sub(lambda match: repr(match[0])[1:-1], value)


def essence(row: EventLogRow) -> str:
    """
    Return the event data on one line.
    """
    data = row["body"].get("data")
    if not isinstance(data, Mapping):
        return _cut(json.dumps(data, ensure_ascii=False), _ESSENCE)
    parts: list[str] = []
    length = 0
    for key, value in data.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts.append(f"{key}={_cut(text, _ESSENCE)}")
        length += len(parts[-1])
        if length > _ESSENCE:
            break
    return _cut("  ".join(parts), _ESSENCE)


def fields(value: Any, path: tuple[str, ...] = ()) -> list[tuple[int, str, Any, str | None]]:
    """
    Return the lines of a body: how deep, the key, the value, and the URL of the same value.
    """
    lines: list[tuple[int, str, Any, str | None]] = []
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, one in items:
        at = (*path, str(key))
        depth, shown = len(path), _cut(str(key), 200)
        if isinstance(one, (dict, list)) and one:
            lines.append((depth, shown, None, None))
            lines += fields(one, at)
        else:
            text = json.dumps(one, ensure_ascii=False)
            lines.append((depth, shown, _cut(text, MOST_SHOWN), views.field_url(at, one)))
    return lines


def level_class(level: Any) -> str:
    """
    Return what a level is drawn as: ``error``, ``warning`` or ``other``.
    """
    if level in FAILURE_LEVELS:
        return "error"
    return "warning" if level in ("warning", "warn") else "other"


def seconds(value: float) -> str:
    """
    Write a duration: ``1.5 ms``, ``2.34 s``.
    """
    if value < 1:
        return f"{value * 1000:.1f} ms"
    return f"{value:.2f} s" if value < 120 else f"{value / 60:.1f} min"


def shortened(text: str, most: int) -> str:
    """
    Return a name that fits where there is room for *most* characters.
    """
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"


def make_environment() -> Environment:
    """
    Make Jinja's environment: everything is escaped, and visible.
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
        event_log_url=views.event_log_url,
        trace_url=views.trace_url,
        stream_url=views.stream_url,
        essence=essence,
        fields=fields,
        level_class=level_class,
        seconds=seconds,
    )
    return environment
