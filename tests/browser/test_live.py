"""
Services that log, the store, and the explorer, as they run together.
"""

from __future__ import annotations

import pathlib
import urllib.request
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.reading import ROWS, go
from tests.browser.running import Explorer, Running


Open = Callable[..., Page]

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """
    The database of the store.
    """
    return f"sqlite:///{tmp_path_factory.mktemp('live')}/eventlog.db"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, uri: str) -> Iterator[Running]:
    """
    The services of the examples and the store, with the broker within the process.
    """
    running = Running(
        tmp_path_factory.mktemp("services"),
        ["foo", "bar", "nameko_eventlog.store"],
        ROOT / "example_config.yaml",
        {
            "AMQP_URI": "memory://",
            "EVENTLOG_STORE_URI": uri,
            "EVENTLOG_AUTO_CAPTURE": "true",
        },
        cwd=ROOT / "docs" / "examples",
    )
    yield running
    running.close()


class TestLive:
    def test_payment(
        self, visit: Open, explore: Callable[[str], Explorer], services: Running, uri: str
    ) -> None:
        """
        Somebody pays, and whoever follows sees it, its data, and the way that it took.
        """
        page = visit(explore(uri), "/?data=payment%3D%224711%22")
        page.get_by_role("button", name="Follow").click()
        request = urllib.request.Request(f"{services.url}/payments/4711", method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert 200 == answer.status

        made = page.locator(ROWS).filter(has_text="payment_made")
        expect(made).to_have_count(1)
        expect(made.locator(".where")).to_have_text("foo.pay")
        expect(made.locator(".data")).to_contain_text('payment="4711"')
        go(made.locator(".trace"))
        expect(page.locator(".waterfall li.asked .call a")).to_have_text("foo.pay")
        expect(page.locator(".waterfall .call a")).to_contain_text(["foo.pay", "bar."])
        ticks = page.locator(".waterfall li.asked svg a")
        assert any(
            (tick.get_attribute("aria-label") or "").startswith("account_changed, ")
            for tick in ticks.all()
        )
