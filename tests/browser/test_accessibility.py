"""
What axe-core finds on each view: nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from tests.browser.running import Explorer
from tests.browser.test_reader import NARROW, VIEWS, open_view


Open = Callable[..., Page]

# WCAG 2.0 to 2.2, A and AA, and what axe-core recommends beyond them.
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]

READERS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "narrow": {"color_scheme": "light", **NARROW},
}


class TestAxe:
    @pytest.mark.parametrize("reader", READERS)
    @pytest.mark.parametrize("view", [*VIEWS, "keys", "problem"])
    def test_no_violation(self, visit: Open, shop: Explorer, view: str, reader: str) -> None:
        """
        No rule is broken. The page's policy keeps axe-core out, too: here alone it is bypassed.
        """
        options = {**READERS[reader], "bypass_csp": True}
        if view == "problem":
            page = visit(shop, "/?since=yesterday", status=400, **options)
        elif view == "stream":  # with rows of each level, and few: it looks at each pair of links
            page = visit(
                shop, "/?since=9m&event_type=payment_failed&event_type=order_*", **options
            )
        else:
            page = open_view(visit, shop, "empty" if view == "keys" else view, **options)
        if view == "keys":
            page.keyboard.press("?")
        found = Axe().run(page, options={"runOnly": TAGS}).response

        counts = {kind: len(found[kind]) for kind in ("violations", "passes", "incomplete")}
        print(f"axe-core {found['testEngine']['version']}: {view}, {reader}: {counts}")
        assert [] == [
            (one["id"], node["html"][:200], node["failureSummary"][:300])
            for one in found["violations"]
            for node in one["nodes"][:3]
        ]
        assert counts["passes"] > 20
