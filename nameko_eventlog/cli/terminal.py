"""
Event data on a terminal, and in a pipe: nothing in it reaches either raw.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from nameko_eventlog.store.answers import EventLogRow


# C0 and C1, which terminals obey, and what turns the direction of writing round
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_COLOURS = {
    "debug": "dim",
    "info": "green",
    "warning": "yellow",
    "warn": "yellow",
    "error": "red",
    "exception": "red",
    "critical": "bold red",
    "fatal": "bold red",
}


def printable(text: str) -> str:
    r"""
    Write control characters as ``\x1b``; ends of lines stay in messages of ours only.
    """
    return _CONTROL.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def console(is_wide: bool = False) -> Console:
    """
    Return what is printed with: in a pipe without colours, and as wide as it takes.

    Args:
        is_wide: Whether it is so on a terminal, too.
    """
    width = None if sys.stdout.isatty() and not is_wide else 100_000
    return Console(highlight=False, markup=False, width=width, soft_wrap=width is not None)


def json_line(value: Any) -> str:
    """
    Return *value* as one line of ASCII: a terminal cannot be led astray by it.
    """
    return json.dumps(value)


def local_time(text: str) -> str:
    """
    Return an ISO time in the zone of who reads it.
    """
    return datetime.fromisoformat(text).astimezone().isoformat(" ", timespec="milliseconds")[:23]


def event_line(time: str, body: dict[str, Any]) -> Text:
    """
    Return an event log as one line: time, level, where, what, data.
    """
    level = body.get("level")
    level = level if isinstance(level, str) else ""
    where = ".".join(
        str(part) for part in (body.get("service_name"), body.get("entrypoint_name")) if part
    )
    line = Text(no_wrap=True, overflow="ignore")
    line.append(printable(time), style="dim")
    line.append(f" {printable(level):<8}", style=_COLOURS.get(level, ""))
    line.append(printable(where), style="cyan")
    line.append(f"  {printable(str(body.get('event_type')))}", style="bold")
    data = body.get("data")
    if data:
        line.append(f"  {printable(json.dumps(data, ensure_ascii=False, default=repr))}")
    return line


def row_line(row: EventLogRow) -> Text:
    """
    Return a stored event log as one line.
    """
    line = event_line(local_time(row["time"]), row["body"])
    if "omitted_bytes" in row:
        line.append(f"  ({row['omitted_bytes']:,} bytes: --json has them)", style="dim")
    return line
