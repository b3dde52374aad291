"""
Marks: signatures that prove that we wrote an undelivered message into a log.

A log line may contain text from outsiders, line breaks included. `spool replay` recognises our
messages by an HMAC (RFC 2104). Its key is derived from the configuration.
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
# 16 MiB and about 50 ms for each guess (RFC 7914): the secret may be a broker's password, and
# somebody who can read the log could guess it
_COST = {"n": 1 << 14, "r": 8, "p": 1}


def replay_secret(config: Config, uri: str) -> str:
    """
    Return the secret for the mark's key: ``replay_key``, or the broker's user and password.

    The host is not part of it, because it has different names in different networks.

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
    Mark messages, and verify marks.

    Args:
        secret: The secret that the writer and the reader share.
    """

    def __init__(self, secret: str) -> None:
        # not with the first line: a log call must not wait for it
        self._key = _derive_key(secret)

    def mark(self, line: str) -> str:
        """
        Return *line*, a JSON object, with its mark added as the last key.
        """
        return f'{line[:-1]}, "mark": "{self._digest(json.loads(line))}"}}'

    def is_right(self, message: Mapping[str, Any]) -> bool:
        """
        Tell whether the mark of *message*, a decoded JSON object, is valid.
        """
        given = message.get("mark")
        if not isinstance(given, str):
            return False
        expected = self._digest({name: v for name, v in message.items() if name != "mark"})
        return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())

    def _digest(self, message: Mapping[str, Any]) -> str:
        written = json.dumps(message, sort_keys=True)
        return hmac.new(self._key, written.encode(), "sha256").hexdigest()
