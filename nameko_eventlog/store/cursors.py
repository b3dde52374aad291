"""
Cursors: where a page ended, so that the next one begins there.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Any

import msgspec

from nameko_eventlog.store.parameters import Filters, InvalidQuery


_LONGEST = 10_000
_LATEST = 2**53  # milliseconds
_POSITION = re.compile("[0-9a-f]{32}")
_EXPECTED = "pass the cursor of a page, unchanged"


@dataclass(frozen=True, slots=True)
class Cursor:
    """
    Where a page of event logs ended, and the time range of the pages.
    """

    order: str
    since: int | None
    until: int | None
    position: bytes

    def encode(self, filters: Filters) -> str:
        """
        Return the cursor as text, which is valid for these filters only.
        """
        return encode_parts(
            [filters.digest, self.order, self.since, self.until, self.position.hex()]
        )

    @classmethod
    def decode(cls, text: Any, filters: Filters, order: str) -> Cursor:
        """
        Read a cursor from text.

        Raises:
            InvalidQuery: It is not a cursor, or belongs to another query.
        """
        digest, order_then, since, until, position = decode_parts(
            text, tuple[str, str, int | None, int | None, str]
        )
        if digest != filters.digest or order_then != order:
            raise foreign(text)
        if not all(abs(one or 0) < _LATEST for one in (since, until)):
            raise InvalidQuery("cursor", text, _EXPECTED)
        return cls(order_then, since, until, read_position(position, text))


def read_position(value: str, text: Any) -> bytes:
    """
    Read a position, which a cursor has as hexadecimal digits.

    Raises:
        InvalidQuery: It is none; *text* is the cursor.
    """
    if not _POSITION.fullmatch(value):
        raise InvalidQuery("cursor", text, _EXPECTED)
    return bytes.fromhex(value)


def encode_parts(parts: Any) -> str:
    """
    Return a cursor's values as text.
    """
    return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")


def decode_parts(text: Any, types: Any) -> Any:
    """
    Read a cursor's values from text.

    Raises:
        InvalidQuery: It is not a cursor with values of these types.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError
        padded = text + "=" * (-len(text) % 4)
        return msgspec.json.decode(
            base64.b64decode(padded, altchars=b"-_", validate=True), type=types
        )
    except Exception:
        raise InvalidQuery("cursor", text, _EXPECTED) from None


def foreign(text: Any) -> InvalidQuery:
    """
    Make the error for a cursor of another query.
    """
    return InvalidQuery(
        "cursor", text, "it belongs to another query: pass the same filters and order"
    )
