"""
Event logs as text for a terminal or a pipe, with control characters escaped.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.visible import visible


_LEVEL = 8  # cells: critical
_COLOURS = {
    "debug": "dim",
    "info": "green",
    "warning": "yellow",
    "error": "red",
    "critical": "bold red",
}


def printable(text: str) -> str:
    r"""
    Escape what a terminal would obey or not show, including line breaks, as ``\x1b``.
    """
    return visible(text)


def column(text: str, width: int) -> str:
    """
    Return *text* cut or padded to *width* cells of a terminal.
    """
    text = printable(text)
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    encoding = getattr(sys.stdout, "encoding", None) or ""
    more = "…" if encoding.lower().startswith("utf") else "~"
    return set_cell_size(text, width - 1) + more


def console(is_wide: bool = False) -> Console:
    """
    Return a console to print with; in a pipe, without colours and with unlimited width.

    Args:
        is_wide: Whether the width is unlimited on a terminal, too.
    """
    width = None if sys.stdout.isatty() and not is_wide else 100_000
    return Console(highlight=False, markup=False, width=width, soft_wrap=width is not None)


def error_progress(is_quiet: bool = False) -> Progress:
    """
    Return a progress bar on standard error, which shows nothing if that is not a terminal.

    Args:
        is_quiet: Whether it shows nothing on a terminal, either.
    """
    return Progress(
        console=Console(stderr=True), disable=is_quiet or not sys.stderr.isatty(), transient=True
    )


def json_line(value: Any) -> str:
    """
    Return *value* as a JSON line of ASCII, which is safe on a terminal.
    """
    return json.dumps(value)


def local_time(text: str) -> str:
    """
    Return an ISO time as local time.
    """
    return datetime.fromisoformat(text).astimezone().isoformat(" ", timespec="milliseconds")[:23]


def event_line(time: str, body: dict[str, Any]) -> Text:
    """
    Return an event log as one line: time, level, service and entrypoint, event type, data.
    """
    level = body.get("level")
    level = level if isinstance(level, str) else ""
    where = ".".join(
        str(part) for part in (body.get("service_name"), body.get("entrypoint_name")) if part
    )
    line = Text(no_wrap=True, overflow="ignore")
    line.append(printable(time), style="dim")
    line.append(f" {column(level, _LEVEL)} ", style=_COLOURS.get(normal_level(level) or "", ""))
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
        line.append(f"  ({row['omitted_bytes']:,} bytes: --json prints them)", style="dim")
    if "time_note" in row:
        line.append(f"  (sender's clock: {row['time_note']})", style="dim")
    return line
