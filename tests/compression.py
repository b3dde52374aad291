"""
What HTTP bodies are compressed with, for `tests.clickhouse_server`.
"""

from __future__ import annotations

import contextlib
import sys
import zlib
from collections.abc import Callable
from typing import Any


def decompressor(encoding: str) -> Callable[[], Any]:
    """
    Return what makes a decompressor of a single frame.

    Raises:
        LookupError: The encoding is unknown.
    """
    if encoding == "gzip":
        return lambda: _Inflater(31)
    if encoding == "deflate":
        return lambda: _Inflater(15)
    if encoding == "lz4":
        import lz4.frame

        return lz4.frame.LZ4FrameDecompressor  # type: ignore[no-any-return]
    if encoding == "zstd":
        return zstd().ZstdDecompressor  # type: ignore[no-any-return]
    raise LookupError(f"Unknown compression method: {encoding}.")


class _Inflater:
    """
    zlib's, with the interface of the others.
    """

    def __init__(self, wbits: int) -> None:
        self._inflater = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes) -> bytes:
        return self._inflater.decompress(data)


class _Lz4:
    """
    A compressor of a single frame, with zlib's interface.
    """

    def __init__(self) -> None:
        import lz4.frame

        self._compressor = lz4.frame.LZ4FrameCompressor()
        self._head = self._compressor.begin()

    def compress(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        return bytes(head + self._compressor.compress(data))

    def flush(self) -> bytes:
        return bytes(self._compressor.flush())


def make_compressor(encoding: str) -> Any:
    """
    Make a compressor with ``compress`` and ``flush``; None when it is unknown.
    """
    if encoding in ("gzip", "deflate"):
        return zlib.compressobj(1, zlib.DEFLATED, 31 if encoding == "gzip" else 15)
    with contextlib.suppress(ImportError):
        if encoding == "lz4":
            return _Lz4()
        if encoding == "zstd":
            return zstd().ZstdCompressor()
    return None


def zstd() -> Any:
    """
    Import the library of Zstandard, which came to the standard library with Python 3.14.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
