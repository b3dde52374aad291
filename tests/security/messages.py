"""
Messages that nobody should send, down to their bytes: seeded, so that each can be made again.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import amqp

from nameko_eventlog.consuming import ReceivedMessage
from tests.store.conftest import body


CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE, PRIORITY = 15, 14, 13, 12, 11
CORRELATION_ID, REPLY_TO, EXPIRATION, MESSAGE_ID, TIMESTAMP, TYPE = 10, 9, 8, 7, 6, 5
USER_ID, APP_ID, CLUSTER_ID = 4, 3, 2
"""AMQP's basic properties: the bits that say which of them there are."""

BOMB_BYTES = 40 << 20
"""What bombs become: more than is allowed, and nothing that would hurt where it is allowed."""

Make = Callable[[Random], bytes]


@dataclass(frozen=True)
class WireMessage:
    """
    A message as its sender writes it.

    Args:
        body: Its body.
        properties: Its property flags and properties: all of the content header behind the size.
        size: The size that the content header tells, or None for that of the body.
        fragments: The sizes of the first body frames; the last one takes what is left.
        is_refused: Whether RabbitMQ is expected to refuse it.
    """

    body: bytes
    properties: bytes
    size: int | None = None
    fragments: tuple[int, ...] = ()
    is_refused: bool = False


def short(value: bytes) -> bytes:
    """
    Encode a short string.
    """
    return bytes([len(value)]) + value


def long(value: bytes) -> bytes:
    """
    Encode a long string.
    """
    return struct.pack(">I", len(value)) + value


def table(fields: list[tuple[bytes, bytes]]) -> bytes:
    """
    Encode a table: names, which may come twice, and encoded values.
    """
    return long(b"".join(short(key) + value for key, value in fields))


def encode(fields: dict[int, bytes], flags: int = 0) -> bytes:
    """
    Encode properties: by their bits, what is encoded already; and flags that are none.
    """
    flags |= sum(1 << bit for bit in fields)
    return struct.pack(">H", flags) + b"".join(fields[bit] for bit in sorted(fields)[::-1])


def properties(**changes: bytes | None) -> bytes:
    """
    Encode the usual properties: ``properties(content_type=b"text/plain", reply_to=b"x")``.

    ``headers`` is an encoded table; what is None is left out.
    """
    usual: dict[str, bytes | None] = {
        "content_type": b"application/json",
        "content_encoding": b"utf-8",
    }
    fields = {}
    for name, value in {**usual, **changes}.items():
        if value is not None:
            bit = globals()[name.upper()]
            fields[bit] = value if name in ("headers", "timestamp") else short(value)
    return encode(fields)


def readable_id(encoded: bytes) -> str | None:
    """
    Return the message id, as far as py-amqp can read the properties.
    """
    message = amqp.Message()
    try:
        message.inbound_header(struct.pack(">HHQ", 60, 0, 1) + encoded)
    except Exception:
        return None
    found: str | None = message.properties.get("message_id")
    return found


def hostile_messages(seed: int, make_body: Make | None = None) -> Iterator[WireMessage]:
    """
    Make messages for ever; each bears a message id that none before it has, or none.

    Args:
        seed: The same messages come of the same seed.
        make_body: Makes a body that the receiver reads; default: those of event logs.
    """
    number = 0
    while True:
        yield hostile_message(Random(f"{seed} {number}"), number, make_body or _body)
        number += 1


def hostile_message(random: Random, number: int, make_body: Make) -> WireMessage:
    """
    Make one.
    """
    kind = random.random()
    fields = {CONTENT_TYPE: short(b"application/json"), CONTENT_ENCODING: short(b"utf-8")}
    content = make_body(random) if random.random() < 0.9 else random.choice(_RUBBISH)(random)
    if kind < 0.15:  # of the usual kind, but for the body
        pass
    elif kind < 0.4:
        fields |= _codec(random)
        if random.random() < 0.5:
            content = _packed(random, content)
    elif kind < 0.5:
        content, name = random.choice(_COMPRESSED)(content)
        if random.random() < 0.3:
            name = random.choice([b"gzip", b"bzip2", b"nonsense", b"\xff", b"", b"brotli"])
        fields[HEADERS] = table([(b"compression", random.choice([b"S", b"x"]) + long(name))])
    elif kind < 0.75:
        fields[HEADERS] = _headers(random)
    else:
        fields |= {bit: make(random) for bit, make in _OTHERS.items() if random.random() < 0.4}
        if random.random() < 0.3:
            fields |= _codec(random)
    if random.random() < 0.8:
        fields[MESSAGE_ID] = short(b"%d-" % number + random.choice(_IDS)(random)[:240])
    if kind > 0.985:
        return _refused(random, content, fields)
    sizes = random.choices(range(5000), k=random.choice([0, 0, 0, 1, 5]))
    return WireMessage(content, encode(fields), fragments=tuple(sizes))


def _refused(random: Random, content: bytes, fields: dict[int, bytes]) -> WireMessage:
    many = random.randrange(8)
    if many == 0:
        return WireMessage(content, encode(fields, 1), is_refused=True)  # another word of flags
    if many == 1:
        return WireMessage(content, encode(fields), size=len(content) // 2, is_refused=True)
    if many == 2:
        return WireMessage(content, encode(fields)[:-1], is_refused=True)
    if many == 3:
        return WireMessage(content, encode(fields) + b"\0", is_refused=True)
    value: dict[int, bytes] = {
        4: {HEADERS: table([(b"x", b"?" + random.randbytes(4))])},
        5: {HEADERS: table([(b"x", b"d" + struct.pack(">d", float("nan")))])},
        6: {HEADERS: long(b"")[:-1] + b"\x05"},
        7: {USER_ID: short(b"somebody")},
    }[many]
    return WireMessage(content, encode(fields | value), is_refused=True)


def _codec(random: Random) -> dict[int, bytes]:
    fields = {
        CONTENT_TYPE: short(random.choice(_CONTENT_TYPES)),
        CONTENT_ENCODING: short(random.choice(_ENCODINGS)),
    }
    return {bit: value for bit, value in fields.items() if random.random() < 0.85}


def _packed(random: Random, content: bytes) -> bytes:
    """
    Return what a codec of Python's, or of a serializer, makes much of.
    """
    return random.choice(
        [
            lambda: content,
            lambda: _BOMB_BZ2,
            lambda: _BOMB_ZLIB,
            lambda: bz2.compress(content),
            lambda: zlib.compress(content),
            lambda: content.hex().encode(),
            lambda: b"a-" + b"9" * random.choice([10, 5_000, 20_000]),  # punycode
            lambda: b"+AAA" * 5_000,
            lambda: content.decode("latin-1").encode("utf-16"),
            lambda: content.decode("latin-1").encode("utf-32-be"),
            lambda: pickle.dumps({"event_type": "x"}),
            lambda: b"cos\nsystem\n(S'false'\ntR.",
            lambda: b"!!python/object/apply:os.system ['false']",
            lambda: b"a: &a [x]\n" + b"b: [*a, *a, *a]\n" * 50,
            lambda: b"\x81\xa1a\xc1",  # no msgpack
            lambda: b"\xdd\xff\xff\xff\xff",  # a list of msgpack's, of four thousand million
            lambda: b"\x91" * 5_000,
        ]
    )()


_BOMB_BZ2 = bz2.compress(bytes(BOMB_BYTES))
_BOMB_ZLIB = zlib.compress(bytes(BOMB_BYTES))
_BOMB_GZIP = gzip.compress(b"[" + b"[]," * (BOMB_BYTES // 3))
_BOMB_LZMA = lzma.compress(b" " * BOMB_BYTES, preset=0)

_COMPRESSED: list[Callable[[bytes], tuple[bytes, bytes]]] = [
    lambda content: (zlib.compress(content), b"application/x-gzip"),
    lambda content: (gzip.compress(content), b"gzip"),
    lambda content: (bz2.compress(content), b"application/x-bz2"),
    lambda content: (lzma.compress(content), b"application/x-lzma"),
    lambda content: (zlib.compress(content)[:-3], b"zlib"),
    lambda content: (zlib.compress(content) * 2, b"zlib"),
    lambda content: (content, b"zlib"),
    lambda content: (_BOMB_ZLIB, b"application/x-gzip"),
    lambda content: (_BOMB_BZ2, b"bzip2"),
    lambda content: (_BOMB_GZIP, b"gzip"),
    lambda content: (_BOMB_LZMA, b"xz"),
]

_CONTENT_TYPES = [
    *[b"application/json"] * 4,
    *[b"application/data"] * 4,
    *(b"application/x-python-serialize", b"application/x-yaml", b"application/x-msgpack"),
    *(b"text/plain", b"", b"\xff", b"json", b"APPLICATION/JSON", b"application/json; charset=x"),
    *(b"a" * 255, b"\0", b"binary", b"yaml", b"application/text"),
]

_ENCODINGS = [
    *(b"utf-8", b"UTF8", b"latin-1", b"utf-16", b"utf-32", b"utf-7", b"utf-8-sig", b"ascii"),
    *(b"binary", b"ascii-8bit", b"nonsense", b"", b"rot13", b"zlib", b"zlib_codec", b"ZLIB-codec"),
    *(b"bz2", b"bz2", b"bz2_codec", b"hex", b"base64", b"quopri", b"uu", b"punycode", b"punycode"),
    *(b"idna", b"unicode_escape", b"raw_unicode_escape", b"undefined", b"charmap", b"mbcs"),
    *(b"\xc3", b"\0", b"utf-8\0", b"../x", b"encodings", b"a" * 255, b"cp037", b"iso2022_jp"),
]

_IDS: list[Make] = [
    lambda random: b"",
    lambda random: b"\0" * random.choice([1, 80, 240]),
    lambda random: b"x" * 240,
    lambda random: "☃".encode() * 80,
    lambda random: b"\xed\xa0\x80",
    lambda random: random.randbytes(random.randrange(20)),
    lambda random: b"'; DROP TABLE event_logs; --",
]


# AMQP's types of fields, as RabbitMQ reads them; what it does not know ends the connection, as
# do floats that are no numbers or infinite, which Erlang has none of
def _field(random: Random, depth: int = 0) -> bytes:
    kinds = _FIELDS if depth > 3 else [*_FIELDS, *_NESTED]
    made: bytes = random.choice(kinds)(random, depth + 1)
    return made


_FIELDS: list[Callable[[Random, int], bytes]] = [
    lambda random, _: b"S" + long(random.randbytes(random.randrange(20))),
    lambda random, _: b"x" + long(random.randbytes(random.randrange(20))),
    lambda random, _: b"S" + long(b"5" * random.choice([0, 1, 300, 30_000])),
    lambda random, _: random.choice([b"V", b"t\0", b"t\1", b"t\7", b"b\xff", b"B\xff"]),
    lambda random, _: random.choice(
        [b"s\x80\0", b"u\xff\xff", b"I\x80\0\0\0", b"i\xff\xff\xff\xff"]
    ),
    lambda random, _: b"l" + random.randbytes(8),
    lambda random, _: b"T" + random.choice([random.randbytes(8), b"\xff" * 8, bytes(8)]),
    lambda random, _: b"d" + struct.pack(">d", random.choice([0.0, -0.0, 1e308, 5e-324, 1.5])),
    lambda random, _: b"f" + struct.pack(">f", random.choice([0.0, 3e38, 1.5])),
    lambda random, _: b"D" + random.randbytes(5),
]
_NESTED: list[Callable[[Random, int], bytes]] = [
    lambda random, depth: (
        b"A" + long(b"".join(_field(random, depth) for _ in range(random.randrange(4))))
    ),
    lambda random, depth: (
        b"F" + table([(_name(random), _field(random, depth)) for _ in range(random.randrange(4))])
    ),
]


def _name(random: Random) -> bytes:
    return (
        random.choice(_NAMES) if random.random() < 0.7 else random.randbytes(random.randrange(9))
    )


_NAMES = [
    *(b"compression", b"nameko.call_id_stack", b"nameko.call_id_stack", b"nameko.user"),
    *(b"nameko.", b"nameko.\xff", b"x-delivery-count", b"x-death", b"x-match", b"content_type"),
    *(b"x-eventlog-reason", b"x-eventlog-unreadable-properties", b"", b"\xff", b"\xed\xa0\x80"),
    *(b"a" * 255, b"\0", b"__class__", b"\xff\xfe" * 100),
]


def _headers(random: Random) -> bytes:
    kind = random.random()
    if kind < 0.05:  # nested as deep as a frame has room for
        deep = b"V"
        for _ in range(random.choice([100, 900, 2_000])):
            deep = b"A" + long(deep)
        return table([(b"x", deep)])
    if kind < 0.1:
        return table([(b"%d" % number, b"V") for number in range(_many(random, 500, 8_000))])
    fields = [(_name(random), _field(random)) for _ in range(random.randrange(1, 6))]
    if kind < 0.2:
        fields *= 2
    return table(fields)


_OTHERS: dict[int, Make] = {
    HEADERS: _headers,
    DELIVERY_MODE: lambda random: random.choice([b"\1", b"\2"]),  # others RabbitMQ refuses
    PRIORITY: lambda random: random.randbytes(1),
    CORRELATION_ID: lambda random: short(random.randbytes(random.choice([0, 20, 255]))),
    REPLY_TO: lambda random: short(random.randbytes(random.choice([0, 20, 255]))),
    EXPIRATION: lambda random: short(b"99999999"),
    TIMESTAMP: lambda random: struct.pack(
        ">Q", random.choice([0, 1, 2**31, 2**33, 253402300800, 2**63 - 1, 2**64 - 1])
    ),
    TYPE: lambda random: short(random.randbytes(random.choice([0, 20, 255]))),
    USER_ID: lambda random: short(b"guest"),
    APP_ID: lambda random: short(random.randbytes(random.choice([0, 20, 255]))),
    CLUSTER_ID: lambda random: short(random.randbytes(random.choice([0, 20, 255]))),
}


def value(random: Random, depth: int = 0) -> Any:
    """
    Make any value of JSON's.
    """
    kind = random.randrange(12 if depth < 4 else 8)
    if kind >= 10:
        return {text(random): value(random, depth + 1) for _ in range(random.randrange(4))}
    if kind >= 8:
        return [value(random, depth + 1) for _ in range(random.randrange(4))]
    return random.choice(
        [
            *(None, True, False, 0, -1, 1.5, 1e308, 10**30, 2**53, -(2**63), [], {}),
            *(float("nan"), float("inf"), "", "\0", "9" * 600, text(random)),
        ]
    )


def text(random: Random) -> str:
    """
    Make any text.
    """
    letters = "aé☃🐍\0\n\r\x1b[31m\ud800\udfff'\"\\<script>=+-@\u202e\u200b"
    return "".join(random.choices(letters, k=random.choice([0, 1, 5, 20, 600])))


def _many(random: Random, few: int, many: int) -> int:
    return many if random.random() < 0.1 else few


def _body(random: Random) -> bytes:
    return random.choice(_BODIES)(random)


def _with_data(data: str) -> bytes:
    return json.dumps(body(data=4711)).replace("4711", data).encode()


_RUBBISH: list[Make] = [
    lambda random: random.randbytes(random.randrange(50)),
    lambda random: random.choice([b"", b"\0", b"{", b"[]", b"null", b"{}", b"5", b'"x"', b"NaN"]),
    lambda random: b"[" * _many(random, 5_000, 50_000),
    lambda random: b'{"a":' * random.choice([100, 5_000]),
    lambda random: b"\xef\xbb\xbf" + json.dumps(body()).encode(),
    lambda random: json.dumps(body()).encode() + b"\0",
    lambda random: json.dumps(body()).encode() * 2,
    lambda random: json.dumps(body()).encode()[: random.randrange(100)],
    lambda random: json.dumps(value(random)).encode(),
    lambda random: b"[" + b"[]," * _many(random, 10, 100_000) + b"1]",
]

_TIMES = [
    *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-24T25:00:00"),
    *("2026-11-24", "20261124T080000Z", "2026-W48-2", "", "now", "1e9", "\0", "\ud800"),
    *(0, -1, 1.5, 10**30, True, [], {}, "9" * 600, None, 1e308),
]
_TAGGED = [
    *('"datetime", "__value__": "rubbish"', '"decimal", "__value__": "1e999999"'),
    *('"uuid", "__value__": {"hex": 5}', '"unknown", "__value__": null'),
    *('[], "__value__": []', '"date", "__value__": 5', '"datetime"', '{"a": 1}, "__value__": 1'),
    *('"bytes", "__value__": "x"', '"base64", "__value__": "?"', '5, "__value__": {}'),
]
_NUMBERS = [
    *("NaN", "-Infinity", "1e400", "-0", "1" * 30, "1" * 5000, "1.0e-400", "0.1" + "7" * 400),
    *('{"a": 1, "a": 2}', '"\\u0000"', '"\\ud800"', '"\\udfff\\ud800"', '{"\\u0000": 0}'),
]
_BODIES: list[Make] = [
    lambda random: json.dumps(body(data={"x": value(random)}, meta=value(random))).encode(),
    lambda random: json.dumps(
        body(**{name: value(random) for name in random.choices([*body(), "level"], k=2)})
    ).encode(),
    lambda random: json.dumps(
        {name: item for name, item in body().items() if random.random() < 0.8}
    ).encode(),
    lambda random: json.dumps(
        body(**{random.choice([*body(), "level"]): "🐍" * random.randrange(490, 510)}),
        ensure_ascii=False,
    ).encode(),
    lambda random: json.dumps(body(timestamp=random.choice(_TIMES))).encode(),
    lambda random: _with_data(random.choice(_NUMBERS)),
    lambda random: _with_data('{"__type__": %s}' % random.choice(_TAGGED)),  # noqa: UP031
    lambda random: _with_data(
        '{"a":' * (depth := random.choice([90, 150, 201, 900, 5_000])) + "1" + "}" * depth
    ),
    lambda random: _with_data(json.dumps({"x": "y" * _many(random, 1_000, 300_000)})),
    lambda random: _with_data("[" + "[]," * _many(random, 100, 50_000) + "1]"),
    lambda random: _with_data(json.dumps([0] * _many(random, 100, 50_000))),
    lambda random: _with_data(json.dumps({f"k{n}": n for n in range(_many(random, 9, 20_000))})),
    lambda random: json.dumps(body(call_stack=["a.b.c"] * _many(random, 5, 5_000))).encode(),
    lambda random: json.dumps(body(call_stack=[value(random)], call_id=value(random))).encode(),
    lambda random: json.dumps(body(**{text(random): 1 for _ in range(5)})).encode(),
    lambda random: json.dumps(body(event_type=text(random), service_name=text(random))).encode(),
    lambda random: pickle.dumps(ReceivedMessage),
]
