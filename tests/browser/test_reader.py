"""
Readers as they are: without JavaScript, with a small screen, with a keyboard, elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.reading import ROWS, fill_in, go, overflow, press, types
from tests.browser.running import Explorer
from tests.browser.test_event_log import FAILED_4711


Open = Callable[..., Page]
Picture = Callable[[Page, str], None]

NARROW = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2}

VIEWS = ("stream", "filters", "event-log", "trace", "map", "empty")


def open_view(visit: Open, shop: Explorer, view: str, **options: object) -> Page:
    """
    Open one of the views as a reader does.
    """
    if view == "map":
        return visit(shop, "/map?since=8h", **options)
    if view == "stream":
        return visit(shop, "/?since=8h", **options)
    if view == "empty":
        return visit(shop, "/?event_type=nothing", **options)
    page = visit(shop, FAILED_4711, **options)
    if view == "filters":
        # without a click, which Tab would go on from
        page.locator(".search details").evaluate("details => details.open = true")
    else:
        go(page.locator(f"{ROWS} .time a" if view == "event-log" else f"{ROWS} .trace"))
    return page


class TestPictures:
    @pytest.mark.parametrize("view", ["stream", "event-log", "trace", "map"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_schemes(
        self, visit: Open, shop: Explorer, picture: Picture, view: str, scheme: str
    ) -> None:
        """
        Light and dark, as the reader's system is; nothing is wider than the window.
        """
        page = open_view(visit, shop, view, color_scheme=scheme)
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, re.findall(r"\d+", paper))) / 3

        assert brightness > 240 if scheme == "light" else brightness < 40
        assert 0 == overflow(page)
        picture(page, view if scheme == "light" else f"{view}-dark")

    @pytest.mark.parametrize("view", VIEWS)
    def test_narrow(self, visit: Open, shop: Explorer, picture: Picture, view: str) -> None:
        """
        On 360 pixels the page does not scroll sideways, and all of its controls are within.
        """
        page = open_view(visit, shop, view, **NARROW)
        assert 0 == overflow(page)
        # the drawing of the map is moved within its frame
        beyond = page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, summary')]
                .filter(one => one.checkVisibility() && !one.closest('.scrolls, .skip'))
                .filter(one => [...one.getClientRects()].some(
                    place => place.left < -1 || place.right > innerWidth + 1))
                .map(one => one.outerHTML)"""
        )
        assert [] == beyond
        picture(page, f"{view}-narrow")

    @pytest.mark.parametrize("width", [360, 480, 720, 1000, 1600])
    def test_widths(self, visit: Open, shop: Explorer, width: int) -> None:
        """
        Nor on any width between.
        """
        page = open_view(visit, shop, "stream", viewport={"width": width, "height": 700})

        assert 0 == overflow(page)


class TestWithoutJavaScript:
    def test_all(self, visit: Open, shop: Explorer) -> None:
        """
        Everything works but following and copying, which are not offered.
        """
        page = visit(shop, java_script_enabled=False)
        expect(page.get_by_role("button", name="Follow")).to_have_count(0)
        expect(page.locator("#keys")).not_to_be_visible()
        expect(page.locator("#zone")).to_have_text("Times are UTC.")
        fill_in(page, Event_type="payment_failed", Data="order=4711")
        assert ["payment_failed"] == types(page)
        go(page.locator(".histogram svg a"))
        assert ["payment_failed"] == types(page)
        url = page.url
        go(page.locator(f"{ROWS} .time a"))
        expect(page.get_by_role("button", name="Copy")).to_have_count(0)
        expect(page.locator(".body")).to_contain_text("insufficient funds")
        page.goto(url)
        go(page.locator(f"{ROWS} .trace"))
        expect(page.locator(".waterfall li")).to_have_count(6)
        go(page.get_by_role("link", name="Its event logs"))
        assert "order_received" == types(page)[0]
        page.goto(f"{shop.url}/?service=mailer")
        first = types(page)
        go(page.locator("a[rel=next]"))
        assert 100 == len(types(page)) == len(first)
        go(page.get_by_role("link", name="Map"))
        expect(page.locator(".map .box")).to_have_count(7)

    def test_before_scripts(self, visit: Open, shop: Explorer) -> None:
        """
        The content is there before any script has run, and all of the page weighs little.
        """
        page = visit(shop, "/map")
        held: list[Route] = []
        page.route("**/*.js", lambda route: held.append(route))
        path = "/?since=8h&service=shop&service=payments"
        page.goto(path, wait_until="commit")
        expect(page.locator(ROWS)).to_have_count(100)
        assert 1 == len(held)
        held[0].continue_()
        expect(page.get_by_role("button", name="Follow")).to_be_visible()

        assets = page.locator("[src], link[href]").evaluate_all(
            "all => all.map(one => one.getAttribute('src') ?? one.getAttribute('href'))"
        )
        assert {"/static/explorer.css", "/static/explorer.js", "/static/icon.svg"} == set(assets)
        weights = {one: len(page.request.get(one).body()) for one in (path, *assets)}
        for one, weight in weights.items():
            print(f"{weight:>8,} {one}")
        print(f"{sum(weights.values()):>8,} together")
        assert sum(weights.values()) < 150_000


class TestKeyboard:
    @pytest.mark.parametrize("view", ["stream", "filters", "event-log", "trace", "map"])
    def test_tab(self, visit: Open, shop: Explorer, view: str) -> None:
        """
        Tab reaches all that can be clicked, in order, and shows where it is.
        """
        page = open_view(visit, shop, view)
        wanted = page.evaluate(
            """() => [...document.querySelectorAll('a, button, input, summary')]
                .filter(one => one.checkVisibility() && !one.disabled)
                .map((one, number) => one.dataset.number = number).length"""
        )
        reached: list[int] = []
        for _ in range(min(wanted, 120)):
            page.keyboard.press("Tab")
            number, shows = page.evaluate(
                """() => {
                    const one = document.activeElement;
                    const looks = [one, ...one.querySelectorAll('rect, path')].map(of => {
                        const style = getComputedStyle(of);
                        return style.outlineStyle !== 'none' || parseFloat(style.strokeWidth) >= 2;
                    });
                    return [Number(one.dataset.number ?? -1), looks.some(Boolean)];
                }"""
            )
            assert shows, page.evaluate("document.activeElement.outerHTML")
            if number >= 0:
                reached.append(number)

        assert sorted(reached) == reached
        assert set(range(reached[0], reached[-1] + 1)) == set(reached)
        assert 0 == reached[0]
        assert len(reached) > min(wanted, 120) - 4  # regions that scroll are reached, too

    def test_skip(self, visit: Open, shop: Explorer) -> None:
        """
        The first Tab offers the way past the head.
        """
        page = visit(shop)
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to content")
        expect(page.locator(":focus")).to_be_in_viewport()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_attribute("name", "text")

    def test_shortcuts(self, visit: Open, shop: Explorer) -> None:
        """
        `/` goes to the search, `j` and `k` go through the rows, `?` says so; they can be turned
        off, and are letters where one types.
        """
        page = visit(shop, "/?since=8h")
        page.keyboard.press("/")
        expect(page.locator(":focus")).to_have_attribute("name", "text")
        page.keyboard.type("j?/f")
        expect(page.locator(":focus")).to_have_value("j?/f")
        page.locator(":focus").blur()
        page.keyboard.press("j")
        page.keyboard.press("j")
        expect(page.locator(f"{ROWS} .time a").nth(1)).to_be_focused()
        page.keyboard.press("k")
        expect(page.locator(f"{ROWS} .time a").first).to_be_focused()
        press(page, "Enter")
        expect(page.locator(".body")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_text("next and previous row")).to_be_visible()
        page.get_by_label("Keyboard shortcuts on").uncheck()
        page.reload()
        page.keyboard.press("?")
        expect(page.get_by_text("next and previous row")).not_to_be_visible()


class TestTimes:
    @pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
    def test_zone(self, visit: Open, shop: Explorer, zone: str) -> None:
        """
        Times are the reader's, UTC is in the tooltip.
        """
        page = visit(shop, FAILED_4711, timezone_id=zone)
        time = page.locator(f"{ROWS} time")
        moment = datetime.fromisoformat(time.get_attribute("datetime") or "")
        there = moment.astimezone(ZoneInfo(zone))

        shown = f"{there:%Y-%m-%d %H:%M:%S}.{there.microsecond // 1000:03}"
        expect(time).to_have_text(shown)
        utc = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03} UTC"
        expect(time).to_have_attribute("title", utc)
        expect(page.locator("#zone")).to_contain_text(zone)

    @pytest.mark.parametrize(
        ("typed", "sent"),
        [
            ("2026-01-02 08:00", "2026-01-01T23:00:00Z"),
            ("2026-01-02T08:00:30.5", "2026-01-01T23:00:30.500Z"),
            ("2026-01-02", "2026-01-01T15:00:00Z"),
            ("2026-01-02T08:00Z", "2026-01-02T08:00Z"),
            ("2026-01-02T08:00+01:00", "2026-01-02T08:00+01:00"),
            ("24h", "24h"),
        ],
    )
    def test_typed(self, visit: Open, shop: Explorer, typed: str, sent: str) -> None:
        """
        What is typed is a time of the zone in which times are shown.
        """
        page = visit(shop, timezone_id="Asia/Tokyo")
        page.locator(".search summary").click()
        expect(page.locator(".hint")).to_contain_text(
            "Times with a Z are UTC; times without are in Asia/Tokyo"
        )
        page.get_by_label("Since", exact=True).fill(typed)
        go(page.get_by_role("button", name="Search"))
        assert [sent] == parse_qs(urlsplit(page.url).query)["since"]
        page.goto(f"{shop.url}/map")
        page.get_by_label("Since", exact=True).fill(typed)
        go(page.get_by_role("button", name="Show"))
        assert [sent] == parse_qs(urlsplit(page.url).query)["since"]

    def test_chips(self, visit: Open, shop: Explorer) -> None:
        """
        A chip shows a point in time as the rows do.
        """
        path = "/?since=2026-01-01T23:00:00Z&until=1s"
        chips = visit(shop, path, timezone_id="Asia/Tokyo").locator(".chips li")
        expect(chips.nth(0)).to_contain_text("since 2026-01-02 08:00:00.000")
        expect(chips.nth(1)).to_contain_text("until 1s")
        chips = visit(shop, path, java_script_enabled=False).locator(".chips li")
        expect(chips.nth(0)).to_contain_text("since 2026-01-01 23:00:00.000")
