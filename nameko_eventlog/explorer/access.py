"""
Access control: which requests are answered.
"""

from __future__ import annotations

import base64
import binascii
import re

from werkzeug.wrappers import Request, Response

from nameko_eventlog import limits
from nameko_eventlog.explorer.config import CONFIG_KEY, ExplorerConfig, is_loopback_host
from nameko_eventlog.explorer.pacing import Pace
from nameko_eventlog.explorer.passwords import PasswordChecks


_BASIC = re.compile(r"basic +([A-Za-z0-9+/=]+)", re.IGNORECASE)
_OWN_SITES = {"same-origin", "none"}  # "none": typed, or a bookmark


class Access:
    """
    Decides which requests are answered.

    Args:
        config: The credentials; without any, everybody may read.
        connections: The maximum number of connections.
    """

    def __init__(self, config: ExplorerConfig, connections: int) -> None:
        self._config = config
        self._passwords: PasswordChecks | None = None
        if config.username is not None and config.password_hash is not None:
            self._passwords = PasswordChecks(config.username, config.password_hash, connections)
        self._navigations = Pace(
            limits.CROSS_SITE_NAVIGATIONS_AT_ONCE, limits.CROSS_SITE_PAUSE_SECONDS
        )

    def wrong_host(self, host: str | None) -> Response | None:
        """
        Return the refusal of a request for an invalid host, or for a host name that another site
        may have pointed to this machine (DNS rebinding); or None.

        Args:
            host: The request's ``Host``; browsers always send it.
        """
        if host is None:
            return None
        try:
            host.encode("idna")  # as werkzeug does
        except UnicodeError:
            return Response("Invalid Host header.\n", 400)
        is_for_everybody = self._config.username is not None or self._config.allow_anonymous
        if is_for_everybody or is_loopback_host(host):
            return None
        return Response(
            f"Without credentials the explorer answers only for localhost, not for {host[:200]!r}."
            f" Let a proxy send Host: localhost, or set {CONFIG_KEY}.username and"
            f" {CONFIG_KEY}.password_hash, or {CONFIG_KEY}.allow_anonymous: true.\n",
            403,
        )

    def wrong_site(self, request: Request) -> Response | None:
        """
        Return the refusal of a request that another site made in the reader's browser, or None.

        Links are allowed: the browser opens the page, and the other site does not see it. Images,
        scripts, frames and prefetches are refused. Browsers send these headers to localhost and
        over HTTPS: https://www.w3.org/TR/fetch-metadata/
        """
        if not _is_of_other_site(request):
            return None
        headers = request.headers
        is_page = (
            request.method == "GET"
            and headers.get("Sec-Fetch-Mode") == "navigate"
            and headers.get("Sec-Fetch-Dest") == "document"
            and not (headers.get("Sec-Purpose") or headers.get("Purpose"))
        )
        if is_page:
            return None
        return Response("Other sites may link to this page, and nothing else.\n", 403)

    def asks_first(self, request: Request) -> bool:
        """
        Tell whether the reader must confirm a page that another site opened: a site that opens
        page after page, without clicks, could overload the database.
        """
        if not _is_of_other_site(request) or request.headers.get("Sec-Fetch-User") == "?1":
            return False
        if self._navigations.delay():
            return True
        self._navigations.count()
        return False

    def refusal(self, request: Request) -> Response | None:
        """
        Return the refusal of a request without valid credentials, or None.
        """
        if self._passwords is None:
            return None
        credentials = read_credentials(request.headers.get("Authorization", ""))
        if credentials is None:
            return _unauthorized()
        client = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()[:100]
        is_right = self._passwords.check(*credentials, request.remote_addr or "", client)
        if is_right is None:
            return Response(
                "Too many logins are waiting: try again in a few seconds.\n",
                429,
                {"Retry-After": "5"},
            )
        return None if is_right else _unauthorized()


def read_credentials(header: str) -> tuple[str, str] | None:
    """
    Read the user name and the password of HTTP basic authentication.

    Args:
        header: The value of ``Authorization``. Clients that ignore the requested charset send
            ISO 8859-1.

    Returns:
        Both, or None if the header is missing or unreadable.
    """
    match = _BASIC.fullmatch(header.strip())
    if match is None:
        return None
    try:
        decoded = base64.b64decode(match[1])
    except binascii.Error:
        return None
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        text = decoded.decode("latin-1")
    username, colon, password = text.partition(":")
    return (username, password) if colon else None


def _is_of_other_site(request: Request) -> bool:
    return request.headers.get("Sec-Fetch-Site", "none") not in _OWN_SITES


def _unauthorized() -> Response:
    return Response(
        "Authentication required\n",
        401,
        {"WWW-Authenticate": 'Basic realm="nameko-eventlog", charset="UTF-8"'},
    )
