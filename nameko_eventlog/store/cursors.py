"""
Cursors: where a page ended, so that the next one begins there.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import msgspec

from nameko_eventlog.store.parameters import Filters, InvalidQuery
from nameko_eventlog.store.rows import escape_unstorable


_LONGEST = 10_000
_EXPECTED = "pass the cursor of a page, unchanged"


@dataclass(frozen=True, slots=True)
class Cursor:
    """
    Where a page ended, and the time range of the pages.
    """

    order: str
    since: int | None
    until: int | None
    time_ms: int
    message_id: str

    def encode(self, filters: Filters) -> str:
        """
        Return the cursor as text, which is valid for these filters only.
        """
        parts = [
            filters.digest, self.order, self.since, self.until, self.time_ms, self.message_id,
        ]  # fmt: skip
        return encode_parts(parts)

    @classmethod
    def decode(cls, text: Any, filters: Filters, order: str) -> Cursor:
        """
        Read a cursor from text.

        Raises:
            InvalidQuery: It is not a cursor, or belongs to another query.
        """
        parts = decode_parts(text, tuple[str, str, int | None, int | None, int, str])
        digest, order_then, since, until, time_ms, message_id = parts
        cursor = cls(order_then, since, until, time_ms, message_id)
        if digest != filters.digest or cursor.order != order:
            raise foreign(text)
        times = (cursor.time_ms, cursor.since or 0, cursor.until or 0)
        if (
            not all(-(2**63) <= one < 2**63 - 1 for one in times)  # the query adds 1
            or escape_unstorable(message_id) != message_id
        ):
            raise InvalidQuery("cursor", text, _EXPECTED)
        return cursor


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
