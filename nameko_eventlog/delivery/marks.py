"""
The mark of a message that stands in a log: by whom it was written.

A log line may say anything that an outsider has got into it, line breaks included. What is to be
published again is told from that by an HMAC (RFC 2104) whose key only those know who know the
configuration.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from nameko_eventlog.config import Config


_SALT = b"nameko_eventlog.undelivered 1"
# 16 MiB and some 50 ms for each guess (RFC 7914): the secret may be the password of a broker, and
# who reads the log could try one after the other
_COST = {"n": 1 << 14, "r": 8, "p": 1}


def replay_secret(config: Config, uri: str) -> str:
    """
    Return what the mark's key is made of: ``replay_key``, or user and password for the broker.

    Its host has different names in different networks.

    Args:
        config: The dispatcher's configuration.
        uri: The broker's address.
    """
    if config.replay_key is not None:
        return config.replay_key
    try:
        address = urlsplit(uri.partition(";")[0])
        return f"{address.username or ''}:{address.password or ''}"
    except ValueError:
        return uri


@cache
def _derive_key(secret: str) -> bytes:
    return hashlib.scrypt(secret.encode(), salt=_SALT, dklen=32, **_COST)


class Marker:
    """
    Mark messages, and tell whether a mark is right.

    Args:
        secret: What writer and reader know.
    """

    def __init__(self, secret: str) -> None:
        # now, not with the first line: a log call must not wait for it
        self._key = _derive_key(secret)

    def mark(self, line: str) -> str:
        """
        Return *line*, a JSON object, with its mark as the last key.
        """
        return f'{line[:-1]}, "mark": "{self._digest(json.loads(line))}"}}'

    def is_right(self, message: Mapping[str, Any]) -> bool:
        """
        Tell whether *message*, a JSON object that was read, bears the mark that is its own.
        """
        given = message.get("mark")
        if not isinstance(given, str):
            return False
        expected = self._digest({name: one for name, one in message.items() if name != "mark"})
        return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())

    def _digest(self, message: Mapping[str, Any]) -> str:
        written = json.dumps(message, sort_keys=True)
        return hmac.new(self._key, written.encode(), "sha256").hexdigest()
