"""
The columns of an archive in CSV or Parquet, and cells for spreadsheets.
"""

from __future__ import annotations

import json
import re
from typing import Any

from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.levels import normal_level
from nameko_eventlog.visible import visible


COLUMNS = (
    "message_id",
    "time",
    "time_note",
    "service_name",
    "event_type",
    "entrypoint_name",
    "level",
    "call_id",
    "body",
)

# what spreadsheets take for the beginning of a formula, also after blanks or as wide characters
_FORMULA = re.compile(r"\s*[=+\-@\uff0b\uff0d\uff1d\uff20]|[\t\r\n]")
# a cell separator for spreadsheets in many countries, even within our quotes
_SEPARATOR = re.compile(r";(?=[\s\"']*[=+\-@\uff0b\uff0d\uff1d\uff20])")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def values_of(row: EventLogRow) -> tuple[Any, ...]:
    """
    Return the values of the columns; ``level`` is the name by which the store finds it.
    """
    body = row["body"]
    return (
        row["message_id"],
        row["time"],
        row.get("time_note"),
        body.get("service_name"),
        body.get("event_type"),
        body.get("entrypoint_name"),
        normal_level(body.get("level")),
        body.get("call_id"),
        body,
    )


def csv_cell(value: Any) -> str:
    """
    Return a value as a cell of CSV that no spreadsheet takes for a formula.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        return _SEPARATOR.sub(r"\\u003b", json.dumps(value))
    # https://owasp.org/www-community/attacks/CSV_Injection; a number is no formula
    is_formula = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    shown = _SEPARATOR.sub(r"\\x3b", visible(value))
    return f"'{shown}" if is_formula else shown
