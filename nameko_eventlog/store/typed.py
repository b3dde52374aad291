"""
What people type on the command line and into a page: times, and paths with values.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from typing import Any

from nameko_eventlog.store.paths import split_path
from nameko_eventlog.store.times import read_iso


_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_duration(text: str) -> timedelta:
    """
    Read ``500ms``, ``90s``, ``5m``, ``2h``, ``7d``, ``1w``.

    Raises:
        ValueError: It is not a duration, or too long.
    """
    match = _AGO.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration: pass 90s, 5m, 2h, 7d or 1w")
    try:
        return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    except OverflowError:
        raise ValueError(f"{text!r} is too long") from None


def parse_moment(text: str) -> datetime:
    """
    Read how long ago, ``2h``, or ISO 8601; without an offset, it is local time.

    Raises:
        ValueError: It is not a time.
    """
    text = text.strip()
    try:
        if _AGO.fullmatch(text):
            return datetime.now(timezone.utc) - parse_duration(text)
        return read_iso(text).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise ValueError(
            f"{text!r} is not a time: pass how long ago (2h), or ISO 8601 (2026-11-24T08:00:00)"
        ) from None


def parse_equality(text: str) -> tuple[str, Any]:
    """
    Read ``customer.id=5``: a path and a JSON value, or text.

    Raises:
        ValueError: It has no path or no value, or the value is nested too deeply.
    """
    path, is_there, value = split_path(text)
    if not is_there or not path:
        raise ValueError(f"{text!r} is not PATH=VALUE, like customer.id=5")
    try:
        return path, json.loads(value)
    except RecursionError:
        raise ValueError(f"the value for {path} is nested too deeply") from None
    except ValueError:
        return path, value
