"""
Decompress and decode received bodies within bounds.

kombu's ``loads`` does not check ``application/data`` against the accepted content types, and
decodes it with any of Python's codecs: some decompress (``bz2``, ``zlib``), some take quadratic
time (``punycode``). So it is called only with accepted content types and with names of character
sets.
"""

from __future__ import annotations

import bz2
import json
import lzma
import math
import re
import sys
import zlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Any

import msgspec
from kombu.exceptions import ContentDisallowed
from kombu.serialization import loads, registry

from nameko_eventlog import limits
from nameko_eventlog.describing import describe_value


zstd: Any = None
with suppress(ImportError):  # where kombu finds it
    zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

JSON = "application/json"
YAML = "application/x-yaml"

UNREADABLE = "x-eventlog-unreadable-properties"
"""The only header of a message with unreadable properties; it has the bytes, or the error."""

VALUE_BYTES = 128
"""How many bytes a decoded value counts as: twice an empty list, half an object of one key."""

# in bodies up to so many bytes values are not counted, and each byte has this weight: counting
# takes a twentieth of the time of decoding
_SMALL, _SMALL_WEIGHT = 4096, 16

_USUAL_ENCODINGS = frozenset({"utf-8", None, "binary", "us-ascii", ""})
_ENCODING = re.compile(
    r"utf-?(8|16|32)(-?[lb]e)?|utf-8-sig|(us-)?ascii|ascii-8bit|binary"
    r"|latin-?1|iso-8859-[0-9]{1,2}|(windows-|cp)125[0-9]"
)

_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TOO_MANY_DIGITS = b"0" * (limits.INTEGER_DIGITS + 1)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


# msgspec takes up to 0.1 ms for a number such as 1e308, Python's float() less than a microsecond
decode_json = msgspec.json.Decoder(float_hook=_finite).decode
"""
Decode plain JSON like ``msgspec.json.decode``, in a time bounded by its size.
"""


def _lzma() -> Any:
    return lzma.LZMADecompressor(memlimit=limits.LZMA_BYTES)


def _zstd() -> Any:
    longest = limits.LZMA_BYTES.bit_length() - 1
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: longest})


# kombu's compression methods, by name and content type
_DECOMPRESSORS: dict[str, Any] = {
    **dict.fromkeys(("gzip", "zlib", "application/x-gzip"), zlib.decompressobj),
    **dict.fromkeys(("bzip2", "bzip", "application/x-bz2"), bz2.BZ2Decompressor),
    **dict.fromkeys(("lzma", "xz", "application/x-lzma"), _lzma),
}
if zstd is not None:
    _DECOMPRESSORS |= dict.fromkeys(("zstd", "zstandard", "application/zstd"), _zstd)


def payload_of(
    body: bytes,
    content_type: str | None,
    content_encoding: str | None,
    headers: Mapping[Any, Any],
    accept: Collection[str],
) -> bytes:
    """
    Return a decompressed body, after checking that it may be decoded and is within bounds.

    Args:
        body: The body as it was sent.
        content_type: Its content type.
        content_encoding: The character set of text.
        headers: The message's headers.
        accept: The content types that may be decoded.

    Raises:
        ContentDisallowed: Its content type is not accepted.
        ValueError: It is too large, or its encoding or compression is unknown.
    """
    if type(content_type) is not str or content_type not in accept:
        if UNREADABLE in headers:
            raise ValueError("its properties cannot be read")
        raise ContentDisallowed(f"the content type {describe_value(content_type)} is not accepted")
    if content_encoding not in _USUAL_ENCODINGS and not _is_text_encoding(content_encoding):
        raise ValueError(
            f"the content encoding {describe_value(content_encoding)} is not a character set"
        )
    compression = headers.get("compression")
    if compression:
        body = _decompressed(body, compression)
    size = len(body)
    if size > limits.BODY_VALUES:  # a value takes at least a byte
        if size > limits.BODY_BYTES:
            raise ValueError(f"the body has {size} bytes, more than {limits.BODY_BYTES}")
        values = limits.count_values(body, content_type)
        if values > limits.BODY_VALUES:
            raise ValueError(f"the body has up to {values} values, more than {limits.BODY_VALUES}")
    return body


def weight_of(payload: bytes, content_type: str) -> int:
    """
    Return about how many bytes *payload* takes when it is decoded.
    """
    size = len(payload)
    if size <= _SMALL:
        return _SMALL_WEIGHT * size
    return size + VALUE_BYTES * limits.count_values(payload, content_type)


def load(payload: bytes, content_type: str, content_encoding: str | None) -> Any:
    """
    Decode a payload that `payload_of` returned.

    Raises:
        Exception: Any error of decoding: the payload came from outside.
    """
    if content_type == JSON:
        _check_digits(payload)
    elif content_type == YAML and _is_yaml_of_kombu():
        from nameko_eventlog.amqp.yaml_bodies import load_yaml

        return load_yaml(payload)
    return loads(payload, content_type, content_encoding or "utf-8", accept={content_type})


def load_untagged(payload: bytes) -> Any:
    """
    Decode JSON without interpreting kombu's tags: an object that has ``__type__`` remains one.

    Raises:
        ValueError: It is not JSON, or a number is too long.
        RecursionError: It is nested too deeply.
    """
    _check_digits(payload)
    return json.loads(payload)


def _check_digits(payload: bytes) -> None:
    if len(payload) > limits.INTEGER_DIGITS and _has_long_number(payload):
        raise ValueError(f"a number has more than {limits.INTEGER_DIGITS} digits")


def _is_yaml_of_kombu() -> bool:
    # False if the service has registered its own
    decoder = registry._decoders.get(YAML)
    return getattr(decoder, "__module__", None) in ("kombu.serialization", "yaml")


def _is_text_encoding(name: Any) -> bool:
    return isinstance(name, str) and bool(_ENCODING.fullmatch(name[:32].lower().replace("_", "-")))


def _decompressed(body: bytes, method: Any) -> bytes:
    make = _DECOMPRESSORS.get(method) if isinstance(method, str) else None
    if make is None:
        raise ValueError(
            f"the compression {describe_value(method)} is not supported; supported are gzip,"
            " bzip2, lzma and, where it is installed, zstd"
        )
    decompressor = make()
    found: bytes = decompressor.decompress(body, limits.BODY_BYTES + 1)
    if len(found) > limits.BODY_BYTES:
        raise ValueError(f"the decompressed body has more than {limits.BODY_BYTES} bytes")
    if not decompressor.eof:
        raise ValueError("the compressed body is incomplete")
    if decompressor.unused_data:
        raise ValueError("the compressed body is followed by other data")
    return found


def _are_integers_bounded() -> bool:
    # Python's own limit, because parsing takes quadratic time; a service may have turned it off
    limit = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else 0
    return 0 < limit <= limits.INTEGER_DIGITS


def _has_long_number(payload: bytes) -> bool:
    return len(payload) > limits.INTEGER_DIGITS and _TOO_MANY_DIGITS in payload.translate(
        _DIGITS_AS_ZEROS
    )
