"""
Fixtures: a browser, explorers in processes of their own, and pages that must not complain.

These tests run in a process of their own, without the conftest.py above, which patches the
standard library for green threads: Playwright does not survive that. ``make browser`` does it.
"""

from __future__ import annotations

import io
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest


if "eventlet" in sys.modules and sys.modules["eventlet"].patcher.is_monkey_patched("socket"):
    raise pytest.UsageError(
        "tests/browser runs in a process of its own, which eventlet has not patched: make browser"
    )

from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.browser.chromium import ARGUMENTS, find_chromium
from tests.browser.contents import shop_messages, store, store_bodies
from tests.browser.hostile import hostile_messages
from tests.browser.running import Explorer
from tests.postgresql import PostgreSQL


SCREENSHOTS = pathlib.Path(__file__).parent.parent.parent / "docs" / "screenshots"

# Those that the documentation shows.
PICTURES = ("stream", "stream-dark", "stream-narrow", "event-log", "trace", "map")

_NOT_LOADED = "Failed to load resource"

# What a page may be opened with, beside Playwright's own options.
Open = Callable[..., Page]


def pytest_addoption(parser: pytest.Parser) -> None:
    """
    Let the tests renew the pictures that the documentation shows.
    """
    parser.addoption("--screenshots", action="store_true", help="write docs/screenshots")


def failures(log: str) -> list[str]:
    """
    Return the tracebacks in a log, but for those of readers who went before they had it all.
    """
    found = re.findall(r"^Traceback .*?\n(?=\S)[^\n]*", log, re.M | re.S)
    return [one for one in found if not re.search(r"\n(ConnectionReset|BrokenPipe)Error.*$", one)]


def listen(page: Page, url: str, complaints: list[str], refused: str | None = None) -> None:
    """
    Note what a page complains about: errors, violations of the policy, dialogs, requests to
    anybody but *url*.

    Args:
        page: The page.
        url: The explorer's.
        complaints: Where to note it.
        refused: The path that is not to be answered with 200, which Chromium complains about.
    """

    def hear(message: ConsoleMessage) -> None:
        is_of_refused = refused is not None and message.location["url"] == f"{url}{refused}"
        if not (is_of_refused and message.text.startswith(_NOT_LOADED)):
            complaints.append(f"{page.url}: {message.text}")

    page.on("pageerror", lambda error: complaints.append(f"{page.url}: {error}"))
    page.on("console", hear)
    page.on("dialog", lambda dialog: complaints.append(f"{page.url}: {dialog.message}"))
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(url)
            else complaints.append(f"{page.url}: {request.url}")
        ),
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """
    A headless Chromium.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def explore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Explorer]]:
    """
    Start an explorer over a database. It must not have failed when all tests are through.
    """
    running: list[Explorer] = []

    def start(uri: str) -> Explorer:
        running.append(Explorer(tmp_path_factory.mktemp("explorer"), uri))
        return running[-1]

    yield start
    for one in running:
        one.close()
    assert [] == [failure for one in running for failure in failures(one.log)]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, explore: Callable[[str], Explorer]) -> Explorer:
    """
    An explorer over the shop's afternoon, which nobody adds to.
    """
    uri = f"sqlite:///{tmp_path_factory.mktemp('shop')}/eventlog.db"
    store(uri, shop_messages(datetime.now(timezone.utc)))
    return explore(uri)


@pytest.fixture(scope="session")
def postgresql_shop(explore: Callable[[str], Explorer]) -> Iterator[Explorer]:
    """
    The same over PostgreSQL.
    """
    with PostgreSQL() as server:
        uri = server.create_database()
        store(uri, shop_messages(datetime.now(timezone.utc)))
        yield explore(uri)


@pytest.fixture(scope="session")
def any_shop(request: pytest.FixtureRequest) -> Explorer:
    """
    One of the two.
    """
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def scratch(
    tmp_path_factory: pytest.TempPathFactory, explore: Callable[[str], Explorer]
) -> Explorer:
    """
    An explorer over a database that tests write into: each its own service's event logs.
    """
    uri = f"sqlite:///{tmp_path_factory.mktemp('scratch')}/eventlog.db"
    store_bodies(uri)
    return explore(uri)


@pytest.fixture(scope="session")
def hostile(
    tmp_path_factory: pytest.TempPathFactory, explore: Callable[[str], Explorer]
) -> Explorer:
    """
    An explorer over what somebody hostile has sent.
    """
    uri = f"sqlite:///{tmp_path_factory.mktemp('hostile')}/eventlog.db"
    store(uri, hostile_messages())
    return explore(uri)


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """
    Open a page in a browser that knows nothing: ``visit(explorer, "/", **options)``.

    Whatever a page complains about fails the test.
    """
    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(explorer: Explorer, path: str = "/", status: int = 200, **options: Any) -> Page:
        context = browser.new_context(
            **{
                "viewport": {"width": 1280, "height": 800},
                "timezone_id": "Europe/Berlin",
                "locale": "en-GB",
                "base_url": explorer.url,
                **options,
            }
        )
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = context.new_page()
        listen(page, explorer.url, complaints, refused=path if status >= 400 else None)
        answer = page.goto(path)
        assert answer is not None
        assert status == answer.status
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [] == complaints


@pytest.fixture
def picture(request: pytest.FixtureRequest) -> Callable[[Page, str], None]:
    """
    Keep what a page looks like for the documentation, if pytest is told to.
    """

    def take(page: Page, name: str) -> None:
        if name in PICTURES and request.config.getoption("--screenshots"):
            image = Image.open(io.BytesIO(page.screenshot()))
            SCREENSHOTS.mkdir(exist_ok=True)
            image.convert("RGB").quantize(256).save(SCREENSHOTS / f"{name}.png", optimize=True)

    return take
