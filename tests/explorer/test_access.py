"""
Who may read, by what a request says.
"""

from __future__ import annotations

from typing import Any

import eventlet
import pytest
from werkzeug.security import generate_password_hash
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from nameko_eventlog import limits
from nameko_eventlog.explorer.access import Access
from nameko_eventlog.explorer.config import parse_explorer_config
from tests.explorer.conftest import Start, Stored


HASH = generate_password_hash("secret", "pbkdf2:sha256:1")
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def request(method: str = "GET", **more: Any) -> Request:
    """
    Make a request: ``request(headers={"Sec-Fetch-Site": "none"})``.
    """
    return EnvironBuilder(
        method=method, environ_base={"REMOTE_ADDR": "10.0.0.9"}, **more
    ).get_request()


def access(connections: int = 16, **section: Any) -> Access:
    """
    Make what decides, for a section ``EVENTLOG_EXPLORER``.
    """
    return Access(parse_explorer_config({"EVENTLOG_EXPLORER": section}), connections)


class TestHost:
    def test_none(self) -> None:
        """
        A request without a host is of HTTP/1.0, and of no browser.
        """
        assert access().wrong_host(None) is None


class TestWrongSite:
    @pytest.mark.parametrize("site", ["same-origin", "none", None])
    def test_own(self, site: str | None) -> None:
        """
        What this site's own pages load, what was typed, and what is no browser's is let in.
        """
        headers = {} if site is None else {"Sec-Fetch-Site": site, "Sec-Fetch-Dest": "script"}

        assert access().wrong_site(request(headers=headers)) is None

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "none, cross-site"])
    def test_link(self, site: str) -> None:
        """
        Pages of other sites may link to a page.
        """
        headers = {"Sec-Fetch-Site": site, **LINK}

        assert access().wrong_site(request(headers=headers)) is None

    @pytest.mark.parametrize(
        ("method", "changes"),
        [
            ("POST", {}),
            ("GET", {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}),
            ("GET", {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}),
            ("GET", {"Sec-Fetch-Dest": "iframe"}),
            ("GET", {"Sec-Purpose": "prefetch;prerender"}),
            ("GET", {"Purpose": "prefetch"}),
        ],
    )
    def test_loaded(self, method: str, changes: dict[str, str]) -> None:
        """
        They may have nothing sent, loaded, framed or fetched ahead.
        """
        headers = {"Sec-Fetch-Site": "cross-site", **LINK, **changes}
        answer = access().wrong_site(request(method, headers=headers))

        assert answer is not None
        assert 403 == answer.status_code
        assert "Other sites may link to this page, and nothing else.\n" == (
            answer.get_data(as_text=True)
        )


class TestAsksFirst:
    def test_again_and_again(self) -> None:
        """
        A site that opens page after page without a click has so many; readers' own clicks, and
        pages of this site, are not counted.
        """
        decides = access()
        opened = request(headers={"Sec-Fetch-Site": "cross-site", **LINK})
        clicked = request(headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-User": "?1", **LINK})
        own = request(headers={"Sec-Fetch-Site": "same-origin", **LINK})
        most = limits.CROSS_SITE_NAVIGATIONS_AT_ONCE

        assert [False] * most + [True] == [decides.asks_first(opened) for _ in range(most + 1)]
        assert [False, False] == [decides.asks_first(one) for one in (clicked, own)]


class TestRefusal:
    def test_nobody(self) -> None:
        """
        Where nobody is named, nobody is asked for a password.
        """
        assert access().refusal(request()) is None

    @pytest.mark.parametrize(
        ("auth", "status"), [(("ops", "secret"), None), (("ops", "x"), 401), (None, 401)]
    )
    def test_password(self, auth: tuple[str, str] | None, status: int | None) -> None:
        """
        The right name and password are let in, and all others are asked for them.
        """
        answer = access(username="ops", password_hash=HASH).refusal(request(auth=auth))

        assert status == (answer and answer.status_code)
        if answer is not None:
            assert answer.headers["WWW-Authenticate"].startswith("Basic ")

    def test_no_place(self) -> None:
        """
        Where too many passwords wait already, a request is told to come again.
        """
        decides = access(4, username="ops", password_hash=HASH)
        waiting = eventlet.spawn(decides.refusal, request(auth=("ops", "first")))
        eventlet.sleep(0)
        answer = decides.refusal(request(auth=("ops", "second")))

        assert answer is not None
        assert (429, "5") == (answer.status_code, answer.headers["Retry-After"])
        assert "Too many logins are waiting: try again in a few seconds.\n" == (
            answer.get_data(as_text=True)
        )
        assert 401 == waiting.wait().status_code


class TestConfirmation:
    def test_page(self, explorer: Start, stored: Stored) -> None:
        """
        The reader is asked before the page that another site opens again, and goes on by a link.
        """
        stored()
        running = explorer()
        headers = {"Sec-Fetch-Site": "cross-site", **LINK}
        for path in ["/map"] * limits.CROSS_SITE_NAVIGATIONS_AT_ONCE:
            assert 200 == running.get(path, headers=headers).status
        asked = running.get("/?level=error&text=x", headers=headers)
        loaded = running.get("/", headers={**headers, "Sec-Fetch-Dest": "image"})

        assert (429, "6") == (asked.status, asked.headers["Retry-After"])
        assert 'href="/?level=error&amp;text=x"' in asked.text
        assert 403 == loaded.status
