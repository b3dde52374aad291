"""
Points in time: milliseconds since 1970 in the tables, ISO 8601 outside.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from time import time


_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MILLISECOND = timedelta(milliseconds=1)


def parse_time(value: str | datetime) -> int:
    """
    Return the milliseconds since 1970 of a point in time.

    Args:
        value: ISO 8601, or a datetime; UTC if it has no offset.

    Raises:
        ValueError: It is not a time.
    """
    if isinstance(value, str):
        value = read_iso(value)
    if value.tzinfo is None:
        value = value.replace(tzinfo=timezone.utc)
    return (value - _EPOCH) // _MILLISECOND


def read_iso(text: str) -> datetime:
    """
    Read ISO 8601, with ``Z`` for UTC, which Python 3.10 does not accept.

    Raises:
        ValueError: It is not ISO 8601.
    """
    return datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in ("Z", "z") else text)


def format_time(milliseconds: int, timespec: str = "milliseconds") -> str:
    """
    Return a point in time as ISO 8601, UTC.

    Args:
        milliseconds: Since 1970.
        timespec: As of `datetime.isoformat`; what is smaller is cut off.
    """
    return (_EPOCH + milliseconds * _MILLISECOND).isoformat(timespec=timespec)


def now_ms() -> int:
    """
    Return the current time in milliseconds since 1970.
    """
    return int(time() * 1000)
