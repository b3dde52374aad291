"""
Messages as they were received.
"""

from __future__ import annotations

import json
import zlib

import pytest
from kombu.compression import compress, encoders

from nameko_eventlog import limits
from nameko_eventlog.amqp.received import ReceivedMessage


def received(body: bytes, compression: str) -> ReceivedMessage:
    """
    Make a message with a compressed body.
    """
    headers = {"compression": compression}
    return ReceivedMessage(
        body, "application/json", "utf-8", headers, {}, "foo.events", "log_event", False, 1
    )


class TestDecompress:
    @pytest.mark.parametrize("method", [*encoders(), "gzip", "bzip2", "xz"])
    def test_methods(self, method: str) -> None:
        """
        What kombu has compressed is read, whatever it calls the method.
        """
        body, content_type = compress(json.dumps({"data": "x" * 10_000}), method)

        for name in (method, content_type):
            assert {"data": "x" * 10_000} == received(body, name).decode(["json"])

    @pytest.mark.parametrize("method", sorted({*encoders(), "gzip", "bzip2", "xz"}))
    def test_bomb(self, method: str) -> None:
        """
        A small body does not become so long that it fills the memory.
        """
        body, _ = compress(b"0" * (limits.BODY_BYTES + 1), method)
        assert len(body) < limits.BODY_BYTES // 500

        with pytest.raises(ValueError, match="has more than 33554432 bytes"):
            received(body, method).decode(["json"])

    def test_cut(self) -> None:
        """
        A truncated compressed body is refused, not decoded in part.
        """
        with pytest.raises(ValueError, match="the compressed body is incomplete"):
            received(zlib.compress(b"[1, 2, 3]" * 100)[:-5], "gzip").decode(["json"])

    def test_unknown(self) -> None:
        """
        A method that is not one of ours is refused, and named.
        """
        with pytest.raises(ValueError, match="'rar' is not supported"):
            received(b"x", "rar").decode(["json"])
