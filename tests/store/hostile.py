"""
Messages that nobody should send.
"""

from __future__ import annotations

import gzip
import json
import pickle
import struct
from dataclasses import dataclass
from typing import Literal

import amqp
from hypothesis import strategies as st

from nameko_eventlog.consuming import ReceivedMessage
from tests.store.conftest import body


TEXT = st.text(max_size=20) | st.text("\0\ud800\udfff'\"\\é☃🐍", max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
BODIES = st.dictionaries(st.sampled_from([*body(), "level", "meta"]), JSON, max_size=5).map(
    lambda changes: json.dumps({**body(), **changes}).encode(errors="surrogatepass")
)
HOSTILE_MESSAGES = st.builds(
    ReceivedMessage,
    body=BODIES | JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=50),
    content_type=st.sampled_from(
        ["application/json", "application/x-yaml", "text/plain", "", None]
    ),
    content_encoding=st.sampled_from(["utf-8", "latin-1", "binary", "nonsense", None]),
    headers=st.dictionaries(TEXT, JSON, max_size=2)
    | st.just({"compression": "application/x-gzip"}),
    properties=st.dictionaries(
        st.sampled_from(["message_id", "type", "app_id"]), TEXT, max_size=3
    ),
    exchange=TEXT,
    routing_key=TEXT,
    redelivered=st.booleans(),
    delivery_tag=st.just(1),
)


@dataclass(frozen=True)
class WireMessage:
    """
    A message down to its bytes, as others than py-amqp may send it.

    Args:
        body: Its body.
        properties: AMQP's basic properties: what AMQP's types make of each, by its bit.
        message_id: What its message id begins with, or None for none.
    """

    body: bytes
    properties: dict[int, bytes]
    message_id: bytes | None

    def encode(self, number: int) -> bytes:
        """
        Return the properties as bytes, with a message id that no other number has.
        """
        fields = dict(self.properties)
        if self.message_id is not None:
            fields[_MESSAGE_ID] = _short(b"%d" % number + self.message_id[:240])
        flags = sum(1 << bit for bit in fields)
        return struct.pack(">H", flags) + b"".join(fields[bit] for bit in sorted(fields)[::-1])


class RawMessage(amqp.Message):  # type: ignore[misc]
    """
    What py-amqp publishes with properties as they are.
    """

    def __init__(self, body: bytes, encoded: bytes) -> None:
        super().__init__(body)
        self._encoded = encoded

    def _serialize_properties(self) -> bytes:
        return self._encoded


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


_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 15, 14, 13, 12, 11
_CORRELATION_ID, _REPLY_TO, _MESSAGE_ID, _TIMESTAMP, _TYPE, _APP_ID = 10, 9, 7, 6, 5, 3


def _short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def _long(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def _table(fields: dict[bytes, bytes]) -> bytes:
    return _long(b"".join(_short(key) + value for key, value in fields.items()))


def _floats(width: Literal[32, 64]) -> st.SearchStrategy[float]:
    return st.floats(width=width, allow_nan=False, allow_infinity=False)


# AMQP's types of fields, as RabbitMQ reads them; what it does not know ends the connection, as
# do floats that are no numbers or infinite, which Erlang has none of
_FIELDS = st.recursive(
    st.one_of(
        st.binary(max_size=20).map(lambda value: b"S" + _long(value)),
        st.binary(max_size=20).map(lambda value: b"x" + _long(value)),
        st.sampled_from(
            [b"V", b"t\0", b"t\1", b"t\7", b"b\xff", b"B\xff", b"s\x80\0", b"u\xff\xff"]
        ),
        st.binary(min_size=4, max_size=4).flatmap(
            lambda value: st.sampled_from([b"I" + value, b"i" + value])
        ),
        st.binary(min_size=8, max_size=8).flatmap(
            lambda value: st.sampled_from([b"l" + value, b"T" + value])
        ),
        _floats(64).map(lambda value: b"d" + struct.pack(">d", value)),
        _floats(32).map(lambda value: b"f" + struct.pack(">f", value)),
        st.binary(min_size=5, max_size=5).map(lambda value: b"D" + value),
    ),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda some: b"A" + _long(b"".join(some)))
        | st.dictionaries(st.binary(max_size=5), inner, max_size=3).map(
            lambda some: b"F" + _table(some)
        )
    ),
    max_leaves=5,
)
_NAMES = st.sampled_from(
    [
        b"compression",
        b"nameko.call_id_stack",
        b"x-delivery-count",
        b"x-death",
        b"",
        b"\xff",
        b"a" * 255,
    ]
)


def _nested(depth: int, inner: str = "1") -> bytes:
    return b'{"data": ' + b'{"a": ' * depth + inner.encode() + b"}" * depth + b"}"


def _with_data(data: str) -> bytes:
    return json.dumps(body(data=4711)).replace("4711", data).encode()


_GOOD = json.dumps(body()).encode()
_BODIES = st.one_of(
    JSON.map(lambda value: json.dumps(body(data={"x": value}, meta=value)).encode()),
    st.dictionaries(st.sampled_from([*body(), "level", "duration"]), JSON, max_size=4).map(
        lambda changes: json.dumps({**body(), **changes}).encode(errors="surrogatepass")
    ),
    st.dictionaries(
        st.sampled_from([*body(), "level"]),
        st.integers(490, 510).map(lambda many: "🐍" * many),
        max_size=2,
    ).map(lambda changes: json.dumps({**body(), **changes}, ensure_ascii=False).encode()),
    st.sampled_from(
        [
            *("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-24T25:00:00"),
            *("2026-11-24", "20261124T080000Z", "2026-W48-2", "", "now", "1e9", "\0", "\ud800"),
            *(0, -1, 1.5, 10**30, True, [], {}, "9" * 600),
        ]
    ).map(lambda time: json.dumps(body(timestamp=time)).encode()),
    st.sampled_from(
        [
            *(
                "NaN",
                "-Infinity",
                "1e400",
                "-0",
                "1" * 30,
                "1" * 5000,
                "1.0e-400",
                "0.1" + "7" * 400,
            ),
            *(
                '{"a": 1, "a": 2}',
                '"\\u0000"',
                '"\\ud800"',
                '"\\udfff\\ud800"',
                '{"\\u0000": "\\u0000"}',
            ),
            '{"__type__": "datetime", "__value__": "rubbish"}',
            '{"__type__": "decimal", "__value__": "1e999999"}',
            '{"__type__": "uuid", "__value__": {"hex": 5}}',
            '{"__type__": "nobody\'s", "__value__": null}',
            '{"__type__": [], "__value__": []}',
        ]
    ).map(_with_data),
    st.sampled_from([99, 150, 199, 200, 201, 900, 5000]).map(_nested),
    st.sampled_from([1_000, 130_000, 300_000]).map(
        lambda many: _with_data(json.dumps({"x": "y" * many}))
    ),
    st.sampled_from(
        [
            *(b"", b"\0", b"{", b"[]", b"null", b"{}", b"[" * 50_000, b"\xef\xbb\xbf" + _GOOD),
            *(
                _GOOD.decode().encode("utf-16"),
                _GOOD.decode().encode("utf-32-be"),
                _GOOD + b"\0",
                _GOOD * 2,
            ),
            *(gzip.compress(_GOOD), gzip.compress(b"x"), gzip.compress(_GOOD)[:-9], b"\x1f\x8b"),
            *(pickle.dumps(body()), pickle.dumps(ReceivedMessage), b"cos\nsystem\n(S'false'\ntR."),
        ]
    ),
    st.binary(max_size=50),
)
WIRE_MESSAGES = st.builds(
    WireMessage,
    body=_BODIES,
    properties=st.just(
        {_CONTENT_TYPE: _short(b"application/json"), _CONTENT_ENCODING: _short(b"utf-8")}
    )
    | st.fixed_dictionaries(
        {},
        optional={
            _CONTENT_TYPE: st.sampled_from(
                [b"application/json"] * 4
                + [
                    *(
                        b"application/x-python-serialize",
                        b"application/x-yaml",
                        b"application/data",
                    ),
                    *(b"application/x-msgpack", b"text/plain", b"", b"\xff", b"json", b"a" * 255),
                ]
            ).map(_short),
            _CONTENT_ENCODING: st.sampled_from(
                [b"utf-8"] * 4
                + [
                    *(b"latin-1", b"utf-16", b"binary", b"nonsense", b"", b"rot13", b"zlib_codec"),
                    *(b"unicode_escape", b"idna", b"\xc3", b"\0"),
                ]
            ).map(_short),
            _HEADERS: (
                st.dictionaries(_NAMES | st.binary(max_size=8), _FIELDS, max_size=3)
                | st.sampled_from(
                    [
                        b"application/x-gzip",
                        b"gzip",
                        b"bzip2",
                        b"application/x-lzma",
                        b"nonsense",
                        b"\xff",
                    ]
                ).map(lambda name: {b"compression": b"S" + _long(name)})
            ).map(_table),
            _DELIVERY_MODE: st.sampled_from([b"\1", b"\2"]),  # others RabbitMQ refuses
            _PRIORITY: st.sampled_from([b"\0", b"\xff"]),
            _CORRELATION_ID: st.binary(max_size=20).map(_short),
            _REPLY_TO: st.binary(max_size=20).map(_short),
            _TIMESTAMP: st.sampled_from([0, 1, 2**31, 2**33, 2**63 - 1, 2**64 - 1]).map(
                lambda time: struct.pack(">Q", time)
            ),
            _TYPE: st.binary(max_size=20).map(_short),
            _APP_ID: st.binary(max_size=255).map(_short),
        },
    ),
    message_id=st.none()
    | st.sampled_from(
        [b"", b"\0" * 80, b"\0" * 200, b"x" * 240, "☃".encode() * 80, b"\xed\xa0\x80"]
    )
    | st.binary(max_size=20),
)
