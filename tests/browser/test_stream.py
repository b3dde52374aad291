"""
The stream, as a reader uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.contents import make_body, store_bodies
from tests.browser.reading import ROWS, fill_in, go, press, row_ids, types
from tests.browser.running import Explorer


Open = Callable[..., Page]


class TestFilters:
    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    def test_form(self, visit: Open, any_shop: Explorer) -> None:
        """
        What is filled in narrows the stream, stands in the form again, and is a chip.
        """
        page = visit(any_shop)
        fill_in(page, Event_type="payment_*", Data="order=4711")

        assert ["payment_failed"] == types(page)
        assert "/?event_type=payment_*&data=order%3D4711" == page.url.removeprefix(any_shop.url)
        expect(page.get_by_label("Event type", exact=True)).to_have_value("payment_*")
        chips = page.locator(".chips bdi")
        assert ["payment_*", "order=4711"] == chips.all_inner_texts()
        go(page.get_by_role("link", name="data order=4711"))
        assert {"payment_failed", "payment_charged"} == set(types(page))

    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    def test_search(self, visit: Open, any_shop: Explorer) -> None:
        """
        The field at the top looks everywhere.
        """
        page = visit(any_shop)
        page.get_by_label("Text anywhere").fill("RemoteError")
        press(page, "Enter")

        assert {"entrypoint_failed"} == set(types(page))
        assert {"shop.place_order"} == set(page.locator(f"{ROWS} .where").all_inner_texts())

    def test_several(self, visit: Open, shop: Explorer) -> None:
        """
        A second value of a filter is an alternative; one that is emptied is left out.
        """
        page = visit(shop, "/?service=mailer")
        fill_in(page, **{"or Service": "stock"})
        places = set(page.locator(f"{ROWS} .where").all_inner_texts())

        assert {"mailer.confirm_order", "stock.reserve"} <= places
        assert places <= {"mailer.confirm_order", "stock.reserve", "stock.synchronise"}
        fill_in(page, Service="")
        assert f"{shop.url}/?service=stock" == page.url

    def test_row(self, visit: Open, shop: Explorer) -> None:
        """
        What a row says leads to those that say the same.
        """
        page = visit(shop, "/?event_type=payment_failed")
        go(page.locator(f"{ROWS} .level").first)
        go(page.locator(f"{ROWS} .where a").first)

        assert f"{shop.url}/?event_type=payment_failed&level=error&service=payments" == page.url
        assert {"payment_failed"} == set(types(page))

    def test_shared(self, visit: Open, shop: Explorer) -> None:
        """
        The URL alone shows the same to somebody else.
        """
        page = visit(shop)
        fill_in(page, Service="payments", Level="warning", Since="8h")
        colleague = visit(shop, page.url)

        assert 20 < len(row_ids(page))
        assert row_ids(page) == row_ids(colleague)

    def test_levels(self, visit: Open, shop: Explorer) -> None:
        """
        The legend says how many there are of each level, and leads to them.
        """
        page = visit(shop, "/?service=payments&since=8h")
        legend = page.locator(".legend a").first
        told = int(legend.locator("b").inner_text())
        go(legend)

        assert told == len(row_ids(page)) > 5
        assert {"payment_failed"} == set(types(page))


class TestHistogram:
    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    def test_bar(self, visit: Open, any_shop: Explorer) -> None:
        """
        A click on a bar narrows the range to its own: as many as it says.
        """
        page = visit(any_shop, "/?since=8h&service=mailer")
        bar = page.locator(".histogram svg a").nth(3)
        label = bar.get_attribute("aria-label") or ""
        told = int(label.split(": ")[1].split(",")[0])
        go(bar)

        assert told == len(row_ids(page)) > 0
        assert "since=" in page.url
        assert "until=" in page.url
        assert "service=mailer" in page.url

    def test_ranges(self, visit: Open, shop: Explorer) -> None:
        """
        Usual ranges are a click away.
        """
        page = visit(shop, "/?service=web")
        go(page.get_by_label("Time range").get_by_role("link", name="6h"))

        assert f"{shop.url}/?service=web&since=6h" == page.url
        expect(page.locator(".ranges [aria-current]")).to_have_text("6h")


class TestFollowing:
    def test_rows_appear(self, visit: Open, scratch: Explorer) -> None:
        """
        What is stored while the page is open appears at the top, without a reload; after a pause
        it does not.
        """
        store_bodies(scratch.uri, make_body(service_name="live", event_type="before"))
        page = visit(scratch, "/?service=live")
        page.evaluate("window.isTheSame = true")
        button = page.get_by_role("button", name="Follow")
        button.click()
        store_bodies(scratch.uri, make_body(service_name="live", event_type="while"))

        expect(page.locator(f"{ROWS} .type")).to_have_text(["while", "before"])
        expect(page.locator(".histogram strong")).to_have_text("2")
        expect(button).to_have_attribute("aria-pressed", "true")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "false")
        store_bodies(scratch.uri, make_body(service_name="live", event_type="after"))
        page.wait_for_timeout(3000)  # one and a half rounds of the other state
        assert ["while", "before"] == types(page)
        button.click()
        expect(page.locator(f"{ROWS} .type")).to_have_text(["after", "while", "before"])
        assert page.evaluate("window.isTheSame")

    def test_late_count(self, visit: Open, scratch: Explorer) -> None:
        """
        Rows and counts are asked for beside each other: one that was only found is counted later.
        """
        store_bodies(scratch.uri, make_body(service_name="late", event_type="before"))
        page = visit(scratch, "/?service=late")
        behind: list[str] = []

        def answer(route: Route) -> None:
            response = route.fetch()
            text = response.text()
            if "<strong>2</strong>" in text and not behind:
                behind.append(text)
                text = text.replace("<strong>2</strong>", "<strong>1</strong>")
            route.fulfill(response=response, body=text)

        page.route("**/?service=late", answer)
        page.get_by_role("button", name="Follow").click()
        store_bodies(scratch.uri, make_body(service_name="late", event_type="while"))

        expect(page.locator(f"{ROWS} .type")).to_have_text(["while", "before"])
        expect(page.locator(".histogram strong")).to_have_text("2")
        assert behind

    def test_from_empty(self, visit: Open, scratch: Explorer) -> None:
        """
        It begins with nothing, too.
        """
        page = visit(scratch, "/?service=first")
        page.get_by_role("button", name="Follow").click()
        store_bodies(scratch.uri, make_body(service_name="first", event_type="arrived"))

        expect(page.locator(f"{ROWS} .type")).to_have_text(["arrived"])
        store_bodies(scratch.uri, make_body(service_name="first", event_type="again"))
        expect(page.locator(f"{ROWS} .type")).to_have_text(["again", "arrived"])

    def test_many(self, visit: Open, scratch: Explorer) -> None:
        """
        More than a page within one round: those in between are behind the link, none is lost.
        """
        store_bodies(scratch.uri, make_body(service_name="burst", event_type="before"))
        page = visit(scratch, "/?service=burst")
        page.get_by_role("button", name="Follow").click()
        expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "true")
        store_bodies(
            scratch.uri,
            *(
                make_body(service_name="burst", event_type=f"n{n}", call_id=None)
                for n in range(150)
            ),
        )

        expect(page.locator(f"{ROWS} .type").first).to_have_text("n149")
        seen = types(page)
        go(page.get_by_role("link", name="Older event logs"))
        seen += types(page)
        assert {"before", *(f"n{n}" for n in range(150))} == set(seen)

    def test_unreachable(self, visit: Open, scratch: Explorer) -> None:
        """
        It says when it gets no answer, and goes on with the next one that comes.
        """
        store_bodies(scratch.uri, make_body(service_name="gone", event_type="before"))
        page = visit(scratch, "/?service=gone")
        page.evaluate("window.reach = fetch, fetch = async () => ({ok: false, status: 503})")
        page.get_by_role("button", name="Follow").click()
        status = page.locator("#follow-status")
        expect(status).to_contain_text("Server not reached (HTTP 503); trying again")

        store_bodies(scratch.uri, make_body(service_name="gone", event_type="later"))
        page.evaluate("void (fetch = window.reach)")
        expect(page.locator(f"{ROWS} .type")).to_have_text(["later", "before"])
        expect(status).to_have_text("")

    def test_keyboard(self, visit: Open, scratch: Explorer) -> None:
        """
        `f` follows and pauses.
        """
        page = visit(scratch)
        button = page.get_by_role("button", name="Follow")
        page.keyboard.press("f")
        expect(button).to_have_attribute("aria-pressed", "true")
        page.keyboard.press("f")
        expect(button).to_have_attribute("aria-pressed", "false")
        button.focus()
        page.keyboard.press("Space")
        expect(button).to_have_attribute("aria-pressed", "true")


class TestPages:
    @pytest.mark.parametrize("order", ["newest", "oldest"])
    def test_no_jump(self, visit: Open, scratch: Explorer, order: str) -> None:
        """
        Each event log comes once, whatever arrives between the pages.
        """
        service = f"paging-{order}"

        def add(begin: int, end: int) -> None:
            store_bodies(
                scratch.uri,
                *(make_body(service_name=service, event_type=f"n{n}") for n in range(begin, end)),
            )

        add(0, 250)
        page = visit(scratch, f"/?service={service}&order={order}")
        seen = types(page)
        for begin in (250, 300):
            if order == "newest":
                add(begin, begin + 50)
            go(page.locator("a[rel=next]"))
            seen += types(page)

        expected = [f"n{n}" for n in range(250)]
        assert (expected if order == "oldest" else expected[::-1]) == seen
        expect(page.locator("a[rel=next]")).to_have_count(0)
        go(page.get_by_role("link", name="First page"))
        assert f"n{299 + 50 if order == 'newest' else 0}" == types(page)[0]

    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    @pytest.mark.parametrize("scripts", [True, False])
    def test_range(self, visit: Open, any_shop: Explorer, scripts: bool) -> None:
        """
        From a range that goes with the time, which a button gives, the pages lead to its end.
        """
        page = visit(any_shop, "/?service=mailer", java_script_enabled=scripts)
        go(page.get_by_label("Time range").get_by_role("link", name="24h"))
        assert page.url.endswith("since=24h")
        total = int(page.locator(".histogram strong").inner_text().replace(",", ""))
        seen = row_ids(page)
        while page.locator("a[rel=next]").count():
            go(page.locator("a[rel=next]"))
            seen += row_ids(page)

        assert total == len(seen) == len(set(seen)) > 200


class TestEmpty:
    def test_store(
        self,
        visit: Open,
        explore: Callable[[str], Explorer],
        tmp_path_factory: pytest.TempPathFactory,
    ) -> None:
        """
        An empty store says how it is filled; where there is none, the page says so, and not where
        it would be.
        """
        folder = tmp_path_factory.mktemp("empty")
        explorer = explore(f"sqlite:///{folder}/eventlog.db")
        store_bodies(explorer.uri)

        page = visit(explorer)
        expect(page.locator(".empty")).to_contain_text("nameko run nameko_eventlog.store")
        (folder / "eventlog.db").rename(folder / "elsewhere.db")
        page = visit(explorer, status=503)
        expect(page.locator("main")).to_contain_text("The database does not exist yet")
        expect(page.locator("main")).not_to_contain_text(str(folder))
        expect(page.get_by_role("heading")).to_have_text("The database cannot be used")

    def test_filters(self, visit: Open, shop: Explorer) -> None:
        """
        Filters that nothing fits say what to do, and the link does it.
        """
        page = visit(shop, "/?event_type=payment_failed&until=6d")
        expect(page.locator(".empty")).to_contain_text("No event log matches")
        page = visit(shop, "/?event_type=payment_failed&since=1s")
        go(page.get_by_role("link", name="all times"))
        assert 5 < len(row_ids(page))

    def test_wrong(self, visit: Open, shop: Explorer) -> None:
        """
        What cannot be asked is named.
        """
        page = visit(shop, "/?since=yesterday", status=400)

        expect(page.locator("main")).to_contain_text("'yesterday' is not a time")
