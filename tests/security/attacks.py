"""
Messages that are small on the wire and large, or slow, when they are decoded.
"""

from __future__ import annotations

import bz2
import functools
import json
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any

from nameko_eventlog.consuming import ReceivedMessage


MIB = 1 << 20
JSON = "application/json"
YAML = "application/x-yaml"


def message(
    body: bytes,
    content_type: Any = JSON,
    content_encoding: Any = "utf-8",
    message_id: str | None = "attack",
    **headers: Any,
) -> ReceivedMessage:
    """
    Make a message as the broker delivers it.
    """
    return ReceivedMessage(
        body=body,
        content_type=content_type,
        content_encoding=content_encoding,
        headers=headers,
        properties={} if message_id is None else {"message_id": message_id},
        exchange="shop.events",
        routing_key="log_event",
        redelivered=False,
        delivery_tag=1,
    )


def with_data(data: bytes) -> bytes:
    """
    Make the body of an event log, valid but for what its data are.
    """
    begin = json.dumps(
        {
            "service_name": "shop",
            "event_type": "paid",
            "timestamp": "2026-11-30T08:00:00+00:00",
            "call_stack": [],
        }
    )
    return begin[:-1].encode() + b', "data": ' + data + b"}"


def repeated(part: bytes, size: int, begin: bytes = b"[", end: bytes = b"]") -> bytes:
    """
    Make an array of *size* bytes.
    """
    part += b","
    return begin + part * (size // len(part)) + part[:-1] + end


def numbered_keys(size: int, value: bytes = b"0") -> bytes:
    """
    Make an object of *size* bytes, each key of which is another.
    """
    count = size // (len(value) + 10)
    return b"{" + b",".join(b'"%06x":%b' % (n, value) for n in range(count)) + b"}"


@functools.cache
def bomb(codec: Callable[[bytes], bytes], size: int) -> bytes:
    """
    Compress zeros.
    """
    return codec(b"0" * size)


def streams() -> bytes:
    """
    Compress zeros that take little time to compress: one stream behind the other.
    """
    return bomb(bz2.compress, MIB) * 256


def large_dictionary() -> bytes:
    """
    Compress an event log in a way that asks for 1.5 GiB to decompress it.
    """
    found = lzma.compress(with_data(b"{}"), format=lzma.FORMAT_ALONE)
    return found[:1] + struct.pack("<I", 1536 * MIB) + found[5:]


ATTACKS: dict[str, Callable[[], ReceivedMessage]] = {
    # codecs of Python in the place of a character set
    "data-bz2": lambda: message(streams(), "application/data", "bz2"),
    "data-zlib": lambda: message(bomb(zlib.compress, 40 * MIB), "application/data", "zlib"),
    "text-bz2": lambda: message(streams(), "application/text", "bz2"),
    "none-bz2": lambda: message(streams(), None, "bz2"),
    "json-bz2": lambda: message(streams(), JSON, "bz2"),
    "data-punycode": lambda: message(b"a" * 150_000 + b"-" + b"b" * 150_000, None, "punycode"),
    "data-idna": lambda: message(b"a." * 100_000, "application/data", "idna"),
    "data-escape": lambda: message(b"\\n" * MIB, "application/data", "unicode_escape"),
    # compressed bodies
    "zlib": lambda: message(bomb(zlib.compress, 40 * MIB), compression="gzip"),
    "bz2": lambda: message(bomb(bz2.compress, 40 * MIB), compression="bzip2"),
    "lzma": lambda: message(bomb(lzma.compress, 40 * MIB), compression="xz"),
    "lzma-dictionary": lambda: message(large_dictionary(), compression="lzma"),
    "refused-type": lambda: message(
        bomb(zlib.compress, 31 * MIB), "application/x-python-serialize", compression="gzip"
    ),
    # many values
    "lists": lambda: message(
        zlib.compress(with_data(repeated(b"[]", 30 * MIB))), compression="gzip"
    ),
    "objects": lambda: message(
        zlib.compress(with_data(repeated(b'{"":0}', 30 * MIB))), compression="gzip"
    ),
    "keys": lambda: message(zlib.compress(with_data(numbered_keys(30 * MIB))), compression="gzip"),
    "floats": lambda: message(
        zlib.compress(with_data(repeated(b"1.5", 30 * MIB))), compression="gzip"
    ),
    "not-finite": lambda: message(
        zlib.compress(with_data(repeated(b"NaN", 30 * MIB))), compression="gzip"
    ),
    "tagged": lambda: message(
        zlib.compress(with_data(repeated(b'{"__type__":"decimal","__value__":"1"}', 30 * MIB))),
        compression="gzip",
    ),
    "unknown-tag": lambda: message(
        zlib.compress(
            with_data(b'{"__type__":"nothing","__value__":' + repeated(b"[]", 1_000_000) + b"}")
        ),
        compression="gzip",
    ),
    # what is within the limits, and has the most values
    "most-lists": lambda: message(with_data(repeated(b"[]", MIB - 200))),
    "most-objects": lambda: message(with_data(repeated(b'{"":0}', MIB - 200))),
    "most-keys": lambda: message(with_data(numbered_keys(10 * MIB, b'"12345678"'))),
    "most-escaped": lambda: message(with_data(numbered_keys(10 * MIB, b'"1234\\u0000"'))),
    "most-text": lambda: message(
        with_data(b'{"a":"\xf0\x9f\x90\x8d' + b"\xc3\xa9" * 15 * MIB + b'"}')
    ),
    # one value
    "digits": lambda: message(with_data(b'{"a":' + b"7" * 30 * MIB + b"}")),
    "deep": lambda: message(with_data(b"[" * 15 * MIB)),
    "deep-objects": lambda: message(with_data(b'{"":' * 5 * MIB)),
    "not-utf-8": lambda: message(with_data(b'{"a":"' + b"\xff" * 30 * MIB + b'"}')),
    "no-mapping": lambda: message(b'["' + b"\\n" * 15 * MIB + b'"]'),
    "too-large": lambda: message(with_data(b'{"a":"' + b"a" * 64 * MIB + b'"}')),
    "event-type": lambda: message(
        with_data(b"{}")[:-1] + b', "event_type": "' + b"\\u0001" * 5 * MIB + b'"}'
    ),
    "not-text": lambda: message(
        with_data(b"{}")[:-1] + b', "event_type": ' + repeated(b"[[[]]]", MIB) + b"}"
    ),
}


def billion_laughs() -> bytes:
    """
    Make YAML whose aliases stand for a billion values.
    """
    lines = ["data:", "  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for number in range(1, 9):
        inner = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"  a{number}: &a{number} [{inner}]")
    return "\n".join(lines).encode()


def merged_keys() -> bytes:
    """
    Make YAML whose merge keys double what is merged 24 times.
    """
    lines = ["a0: &a0 {x: 1}"]
    for number in range(1, 25):
        lines.append(f"a{number}: &a{number} {{<<: [*a{number - 1}, *a{number - 1}]}}")
    return "\n".join(lines).encode()


YAML_ATTACKS: dict[str, Callable[[], ReceivedMessage]] = {
    "yaml-aliases": lambda: message(billion_laughs(), YAML),
    "yaml-text": lambda: message(
        b"text: &a " + b"x" * 500_000 + b"\ndata: [" + b"*a," * 60_000 + b"]", YAML
    ),
    "yaml-keys": lambda: message(
        b"text: &a " + b"x" * 500_000 + b"\ndata: [" + b"{? *a : 1}," * 20_000 + b"]", YAML
    ),
    "yaml-bytes": lambda: message(
        b"data: &a !!binary " + b"A" * 500_000 + b"\nall: [" + b"*a," * 60_000 + b"]", YAML
    ),
    "yaml-merge": lambda: message(merged_keys(), YAML),
    "yaml-sexagesimal": lambda: message(b"data: {a: 1" + b":1" * 300_000 + b"}", YAML),
    "yaml-lists": lambda: message(b"data: " + repeated(b"[]", 2 * MIB), YAML),
    "yaml-collisions": lambda: message(
        b"{" + b", ".join(b"%d: 0" % (k * (2**61 - 1)) for k in range(1, 5_000)) + b"}", YAML
    ),
    "yaml-deep": lambda: message(b"data: " + b"[" * 100_000, YAML),
    "yaml-large": lambda: message(
        zlib.compress(b"data: " + repeated(b"[]", 30 * MIB)), YAML, compression="gzip"
    ),
}
