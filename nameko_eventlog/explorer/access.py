"""
Who may read.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict
from time import monotonic

from eventlet import tpool
from werkzeug.security import check_password_hash
from werkzeug.wrappers import Request, Response

from nameko_eventlog.explorer.config import CONFIG_KEY, ExplorerConfig, is_loopback_host


MOST_FAILURES = 10
"""Wrong passwords from one address, in a minute; and of those that are checked at once, too."""

_WINDOW = 60.0
_MOST_ADDRESSES = 10_000


class Access:
    """
    Checks the credentials of requests, by HTTP's basic authentication.

    The password's hash is slow on purpose: it is computed in a real thread, and what was right
    is remembered as a digest with a key that no other process has.

    Args:
        config: Who may read; everybody, if it names nobody.
    """

    def __init__(self, config: ExplorerConfig) -> None:
        self._config = config
        self._key = os.urandom(32)
        self._known: bytes | None = None
        self._failures: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def wrong_host(self, host: str | None) -> Response | None:
        """
        Return the answer for who asks for a host that cannot be, or that a page elsewhere may have
        made a name of this machine (DNS rebinding), or None.

        Args:
            host: The request's ``Host``; browsers always send one.
        """
        if host is None:
            return None
        try:
            host.encode("idna")  # as werkzeug does
        except UnicodeError:
            return Response("The Host of the request cannot be read.\n", 400)
        is_for_everybody = self._config.username is not None or self._config.allow_anonymous
        if is_for_everybody or is_loopback_host(host):
            return None
        return Response(
            f"Without credentials this is for localhost, not for {host[:200]!r}. Let a proxy pass"
            f" Host: localhost, or set {CONFIG_KEY}.username and {CONFIG_KEY}.password_hash, or"
            f" {CONFIG_KEY}.allow_anonymous: true.\n",
            403,
        )

    def refusal(self, request: Request) -> Response | None:
        """
        Return the answer for who may not read, or None.
        """
        if self._config.username is None:
            return None
        try:
            given = request.authorization
        except ValueError:  # what cannot be decoded names nobody
            given = None
        if given is None or given.username is None or given.password is None:
            return _unauthorized()
        digest = self._digest(given.username, given.password)
        if self._known is not None and hmac.compare_digest(digest, self._known):
            return None
        address = request.remote_addr or ""
        if self._is_throttled(address):
            return Response(
                "Too many wrong passwords: try again in a minute.\n",
                429,
                {"Retry-After": str(int(_WINDOW))},
            )
        self._count(address)  # before it is checked: many at once are no way around it
        is_right = tpool.execute(
            check_password_hash, self._config.password_hash or "", given.password
        )
        is_known = hmac.compare_digest(given.username.encode(), self._config.username.encode())
        if not (is_right and is_known):
            return _unauthorized()
        self._failures.pop(address, None)
        self._known = digest
        return None

    def _digest(self, username: str, password: str) -> bytes:
        text = f"{len(username)}:{username}:{password}".encode(errors="surrogatepass")
        return hmac.new(self._key, text, hashlib.sha256).digest()

    def _is_throttled(self, address: str) -> bool:
        since, count = self._failures.get(address, (0.0, 0))
        return count >= MOST_FAILURES and monotonic() - since < _WINDOW

    def _count(self, address: str) -> None:
        now = monotonic()
        since, count = self._failures.pop(address, (now, 0))
        if now - since >= _WINDOW:
            since, count = now, 0
        self._failures[address] = since, count + 1
        if len(self._failures) > _MOST_ADDRESSES:
            self._failures.popitem(last=False)


def _unauthorized() -> Response:
    return Response(
        "Name and password, please.\n",
        401,
        {"WWW-Authenticate": 'Basic realm="nameko-eventlog", charset="UTF-8"'},
    )
