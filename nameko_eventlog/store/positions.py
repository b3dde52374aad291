"""
Positions: sixteen bytes that identify an event log, and sort by its time.

A position has six bytes of time, milliseconds since 1970, as a UUID of version 7 has
(https://www.rfc-editor.org/rfc/rfc9562#name-uuid-version-7). Nearly always it is the message id.
"""

from __future__ import annotations

import hashlib
import re
from uuid import UUID


LAST_TIME = 2**48 - 1
"""The latest time of a position, in milliseconds since 1970."""

_REST = 10  # bytes behind the time
_blake2b = hashlib.blake2b
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def digest(text: str) -> bytes:
    """
    Return sixteen bytes that stand for *text*.
    """
    return _blake2b(text.encode(), digest_size=16).digest()


def uuid_bytes(message_id: str) -> bytes | None:
    """
    Return the bytes of a message id that is a UUID in its usual form, or None.
    """
    if _UUID.fullmatch(message_id):
        return bytes.fromhex(message_id.replace("-", ""))
    return None


def position_of(message_id: str, time_ms: int, salt: int = 0) -> bytes:
    """
    Return the position of the event log with a message id and a time.

    Args:
        message_id: The id. Of a UUID all but the time is kept, and with it the order of a sender.
        time_ms: The time, in milliseconds since 1970.
        salt: Another number gives another position.
    """
    uuid = uuid_bytes(message_id)
    if uuid is None or salt:
        rest = _blake2b(f"{salt} {message_id}".encode(), digest_size=_REST).digest()
    else:
        rest = uuid[-_REST:]
    return first_at(time_ms)[:-_REST] + rest


def message_id_of(position: bytes) -> str:
    """
    Return the message id that is a position.
    """
    return str(UUID(bytes=position))


def time_of(position: bytes) -> int:
    """
    Return the time of a position, in milliseconds since 1970.
    """
    return int.from_bytes(position[:-_REST], "big")


def first_at(time_ms: int) -> bytes:
    """
    Return the first position of a millisecond.
    """
    return min(max(time_ms, 0), LAST_TIME).to_bytes(6, "big") + bytes(_REST)


def following(position: bytes) -> bytes:
    """
    Return the position that follows directly.
    """
    return (int.from_bytes(position, "big") + 1).to_bytes(len(position), "big")
