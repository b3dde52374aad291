"""
The lines of a spool's files: JSON objects, each with a checksum.

Any tool that reads lines of JSON can look into them. A file's first line says which format it
has; each other line is a message.
"""

from __future__ import annotations

import base64
from typing import Any
from zlib import crc32

import msgspec

from nameko_eventlog.amqp.message import shortstr
from nameko_eventlog.amqp.tables import SharedTable, decode_table, encode_table
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.limits import SPOOL_LINE_BYTES
from nameko_eventlog.plain_json import encode_plain, is_plain


VERSION = 1
"""Of the format. A file of another version is left alone."""

_CHECKSUM = b',"crc32":"'


class Corrupt(Exception):
    """
    A line is not what was written.
    """


class _Header(msgspec.Struct):
    nameko_eventlog_spool: int
    service: str


class _Stored(msgspec.Struct, omit_defaults=True):
    message_id: str
    event_type: str
    timestamp: float
    headers: dict[str, Any] | str
    body: str
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    body_encoding: str = "utf-8"


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_stored = msgspec.json.Decoder(_Stored).decode


def encode_header(service: str) -> bytes:
    """
    Return the first line of a file.
    """
    return with_checksum(encode_plain(_Header(VERSION, service)))


def decode_header(line: bytes) -> int:
    """
    Return the version of the format that the first line of a file states.

    Raises:
        Corrupt: If it is not what was written.
    """
    try:
        return _decode_header(_checked(line)).nameko_eventlog_spool
    except msgspec.MsgspecError as exc:
        raise Corrupt from exc


def encode(message: OutboxEntry) -> bytes:
    """
    Return *message* as a line.

    Headers of plain JSON types are stored as JSON, others as an AMQP table in base64. A body that
    is not text is stored in base64, too.

    Raises:
        Exception: If AMQP cannot encode a header's value; such a message cannot be sent anyway.
            Or if the line is longer than `SPOOL_LINE_BYTES`, and would not be read again.
    """
    found: Any = message.headers
    if type(found) is SharedTable:
        found = dict(found)
    stored = _Stored(
        str(message.message_id),
        shortstr(message.event_type),
        message.timestamp,
        found if type(found) is dict and is_plain(found) else _as_table(found),
        "",
        message.content_type,
        message.content_encoding,
    )
    try:
        stored.body = message.body.decode("utf-8")
    except UnicodeDecodeError:
        stored.body = base64.b64encode(message.body).decode("ascii")
        stored.body_encoding = "base64"
    try:
        line = encode_plain(stored)
    except UnicodeEncodeError:  # lone surrogates, which AMQP can encode
        stored.headers = _as_table(found)
        line = encode_plain(stored)
    line = with_checksum(line)
    if len(line) > SPOOL_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes, more than SPOOL_LINE_BYTES")
    return line


def _as_table(headers: Any) -> str:
    return base64.b64encode(encode_table(headers)).decode("ascii")


def decode(line: bytes) -> OutboxEntry:
    """
    Return the message in *line*.

    Args:
        line: As `encode` returns it, without the line feed.

    Raises:
        Corrupt: If it is not what was written.
    """
    try:
        stored = _decode_stored(_checked(line))
        headers = stored.headers
        if isinstance(headers, str):
            headers = decode_table(base64.b64decode(headers))
        body = stored.body.encode("utf-8")
        if stored.body_encoding == "base64":
            body = base64.b64decode(body)
    except Corrupt:
        raise
    except Exception as exc:
        raise Corrupt from exc
    return OutboxEntry(
        body,
        stored.content_type,
        stored.content_encoding,
        SharedTable(headers),
        stored.event_type,
        stored.timestamp,
        message_id=stored.message_id,
    )


def find(line: bytes) -> tuple[int, OutboxEntry | None]:
    """
    Return where in *line* the message begins, and the message, or None if there is none.

    A file that was cut and then written on has zeros in between, which JSON never has.
    """
    begin = line.rfind(b"\0") + 1
    try:
        return begin, decode(line[begin:])
    except Corrupt:
        return 0, None


def with_checksum(line: bytes) -> bytes:
    """
    Return a JSON object as a line.
    """
    line = line[:-1]
    return b'%b%b%08x"}\n' % (line, _CHECKSUM, crc32(line))


def _checked(line: bytes) -> bytes:
    end = line.rfind(_CHECKSUM)
    if end < 0 or line[end:] != b'%b%08x"}' % (_CHECKSUM, crc32(line[:end])):
        raise Corrupt
    return line
