"""
An event log, a trace and the map, as a reader uses them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.contents import make_body, store_bodies
from tests.browser.reading import ROWS, go, row_ids, types
from tests.browser.running import Explorer


Open = Callable[..., Page]

FAILED_4711 = "/?event_type=payment_failed&data=order%3D4711"


def open_failure(visit: Open, shop: Explorer, **options: Any) -> Page:
    """
    Open the event log of the payment that failed, from the stream.
    """
    page = visit(shop, FAILED_4711, **options)
    go(page.locator(f"{ROWS} .time a"))
    return page


def box(locator: Locator) -> dict[str, float]:
    """
    Return where something is on the page.
    """
    found = locator.bounding_box()
    assert found is not None
    return dict(found)


class TestEventLog:
    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    def test_body(self, visit: Open, any_shop: Explorer) -> None:
        """
        All that was sent is there, nested as it was.
        """
        page = open_failure(visit, any_shop)

        expect(page.get_by_role("heading", level=1)).to_have_text("payment_failed")
        told = page.locator(".body tr").all_inner_texts()
        assert "order\t4711" in told
        assert 'reason\t"insufficient funds"' in told
        assert 'tenant\t"tea-house"' in told

    def test_copies(self, visit: Open, shop: Explorer) -> None:
        """
        Ids and the body are copied as they are.
        """
        page = open_failure(visit, shop, permissions=["clipboard-read", "clipboard-write"])

        def copied(name: str) -> str:
            page.get_by_role("button", name=name).click()
            expect(page.locator("#announcement")).to_have_text("Copied")
            return str(page.evaluate("navigator.clipboard.readText()"))

        message_id = page.locator("#message-id").inner_text()
        assert message_id in page.url
        assert message_id == copied("Copy the message id")
        call_id = copied("Copy the call id")
        assert call_id.startswith("payments.charge.")
        body = json.loads(copied("Copy as JSON"))
        assert call_id == body["call_id"]
        assert {"order", "amount", "reason"} == set(body["data"])

    def test_download(self, visit: Open, shop: Explorer) -> None:
        """
        All of it can be had as a file.
        """
        page = open_failure(visit, shop)
        with page.expect_download() as downloading:
            page.get_by_role("link", name="Download").click()

        content = json.loads(downloading.value.path().read_text())
        assert "payment_failed" == content["body"]["event_type"]

    @pytest.mark.parametrize(
        ("field", "expected"),
        [
            ("order", "data=order%3D4711"),
            ("service_name", "service=payments"),
            ("event_type", "event_type=payment_failed"),
            ("tenant", "metadata=tenant%3D%22tea-house%22"),
            ("call_id", "call_id=payments.charge."),
        ],
    )
    def test_same_value(self, visit: Open, shop: Explorer, field: str, expected: str) -> None:
        """
        A value leads to the event logs with the same one; this one is among them.
        """
        page = open_failure(visit, shop)
        row = page.locator(".body tr").filter(
            has=page.get_by_role("rowheader", name=field, exact=True)
        )
        go(row.locator("a"))

        assert page.url.startswith(f"{shop.url}/?{expected}")
        assert 0 < len(row_ids(page))

    def test_hollow(self, visit: Open, scratch: Explorer) -> None:
        """
        A list and a dict without anything are lines as others are.
        """
        (message_id,) = store_bodies(
            scratch.uri, make_body(data={"number": 5, "list": [], "dict": {}})
        )
        page = visit(scratch, f"/event-log?id={message_id}")

        def height(name: str) -> float:
            header = page.get_by_role("rowheader", name=name, exact=True)
            return box(page.locator(".body tr").filter(has=header))["height"]

        assert height("number") == height("list") == height("dict")

    def test_links(self, visit: Open, shop: Explorer) -> None:
        """
        Each call of the stack, the caller, and what happened around it are a click away.
        """
        page = open_failure(visit, shop)
        url = page.url
        stack = page.get_by_role("navigation", name="Call stack").get_by_role("link")
        assert ["web.post_order", "shop.place_order", "payments.charge"] == stack.all_inner_texts()
        go(stack.first)
        assert {"order_received", "entrypoint_completed"} == set(types(page))
        page.goto(url)
        go(page.get_by_role("link", name="Caller"))
        assert {"order_checked", "order_rejected", "entrypoint_failed"} == set(types(page))
        page.goto(url)
        go(page.get_by_role("link", name="Around this time"))
        assert {"order_received", "payment_failed", "order_rejected"} <= set(types(page))


class TestTrace:
    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    def test_waterfall(self, visit: Open, any_shop: Explorer) -> None:
        """
        A row leads to its trace: calls nested as they called each other, as long as they took.
        """
        page = visit(any_shop, FAILED_4711)
        go(page.locator(f"{ROWS} .trace"))
        calls = page.locator(".waterfall li")

        assert [
            "web.post_order",
            "shop.place_order",
            "stock.reserve",
            "payments.charge",
            "bank.authorise",
            "fraud.score",
        ] == page.locator(".waterfall .call a").all_inner_texts()
        names = [box(one)["x"] for one in page.locator(".waterfall .call a").all()]
        assert names[0] < names[1] < names[2] == names[3] < names[4] < names[5]
        bars = [box(one) for one in page.locator(".waterfall rect.span").all()]
        for inner, outer in ((1, 0), (2, 1), (3, 1), (5, 4), (4, 3)):
            assert bars[outer]["x"] - 4 <= bars[inner]["x"]
            end = bars[inner]["x"] + bars[inner]["width"]
            assert end <= bars[outer]["x"] + bars[outer]["width"] + 4
        assert bars[2]["width"] < bars[3]["width"] < bars[0]["width"]
        expect(calls.nth(3)).to_have_class("failed asked")
        expect(page.locator("h1 + .level")).to_have_text("2 failed")

    def test_looks(self, visit: Open, shop: Explorer) -> None:
        """
        Failures are red, and so said; what has no own event logs is dashed.
        """
        page = visit(shop, FAILED_4711)
        go(page.locator(f"{ROWS} .trace"))

        def style(call: int, name: str) -> str:
            bar = page.locator(".waterfall li").nth(call).locator("rect.span")
            return str(bar.evaluate("(bar, name) => getComputedStyle(bar)[name]", name))

        assert style(3, "fill") == style(1, "fill") != style(0, "fill")
        assert "rgb(179, 38, 30)" == style(3, "fill")
        assert "none" == style(4, "fill")
        assert "none" != style(4, "strokeDasharray")
        assert "none" == style(0, "strokeDasharray")
        expect(page.locator(".waterfall li").nth(3)).to_contain_text("failed")
        expect(page.locator(".waterfall li").nth(4)).to_contain_text("no own event logs")

    def test_short(self, visit: Open, shop: Explorer) -> None:
        """
        The bar of a call is to be seen beside its ticks, however short it was; that of one that
        failed is as high as they are.
        """
        page = visit(shop, FAILED_4711)
        go(page.locator(f"{ROWS} .trace"))
        calls = page.locator(".waterfall li")
        for call in calls.all():
            bar = box(call.locator("rect.span"))
            for tick in call.locator("rect.tick").all():
                assert bar["width"] >= 2 * box(tick)["width"]

        failed = calls.nth(3)
        assert box(failed.locator("rect.span"))["height"] == pytest.approx(
            box(failed.locator("rect.tick").first)["height"], abs=0.5
        )
        expect(failed.locator("rect.tick").last).to_have_class("tick error")

    def test_ticks(self, visit: Open, shop: Explorer) -> None:
        """
        Each event log is a tick on its call, and leads to the whole of it.
        """
        page = visit(shop, FAILED_4711)
        go(page.locator(f"{ROWS} .trace"))
        ticks = page.locator(".waterfall li").nth(3).locator("svg a")
        assert 2 == ticks.count()
        assert (ticks.first.get_attribute("aria-label") or "").startswith("payment_failed, ")
        bar = box(page.locator(".waterfall li").nth(3).locator("rect.span"))
        for tick in ticks.locator("rect.tick").all():
            assert bar["x"] - 4 <= box(tick)["x"] <= bar["x"] + bar["width"] + 4
        with page.expect_navigation():
            ticks.first.locator("rect.hit").click(position={"x": 1, "y": 10})
        expect(page.get_by_role("heading", level=1)).to_have_text("payment_failed")

    def test_asked_by_id(self, visit: Open, shop: Explorer) -> None:
        """
        The field in the head takes a call id; one that is not there is said to be missing.
        """
        page = open_failure(visit, shop)
        call_id = page.locator(".ids bdi").nth(1).inner_text()
        page.get_by_label("Call id", exact=True).fill(call_id)
        go(page.get_by_role("button", name="Trace"))
        expect(page.locator(".waterfall li")).to_have_count(6)

        page = visit(shop, "/trace?call=nothing", status=404)
        expect(page.get_by_role("heading", level=1)).to_have_text("No such call")


class TestMap:
    @pytest.mark.parametrize("any_shop", ["shop", "postgresql_shop"], indirect=True)
    def test_arrow(self, visit: Open, any_shop: Explorer) -> None:
        """
        Services are boxes, calls are arrows between them; both lead to the stream.
        """
        page = visit(any_shop)
        go(page.get_by_role("link", name="Map"))
        boxes = page.locator(".map .box .name").all_text_contents()
        assert {"web", "shop", "stock", "payments", "mailer", "bank", "fraud"} == set(boxes)
        arrow = page.locator(".map a[aria-label^='shop calls payments']")
        assert "failed" in (arrow.get_attribute("aria-label") or "")
        url = page.url
        with page.expect_navigation():
            arrow.locator(".reach").dispatch_event("click")
        chips = page.locator(".chips bdi").all_inner_texts()
        assert ["payments", "shop"] == chips[:2]
        assert "payment_charged" in types(page)
        page.goto(url)
        go(page.locator(".map .box").filter(has_text="mailer"))
        assert {"mailer.confirm_order"} == set(page.locator(f"{ROWS} .where").all_inner_texts())

    def test_long_name(self, visit: Open, scratch: Explorer) -> None:
        """
        A long name stays in its box.
        """
        name = "warehouse_management_synchroniser"
        stack = ["web.get.1", f"{name}.run.2"]
        store_bodies(scratch.uri, make_body(service_name=name, call_stack=stack, call_id=stack[1]))
        page = visit(scratch, "/map")
        drawn = page.locator(".map .box").filter(has=page.get_by_text(name))
        text, rect = box(drawn.locator(".name")), box(drawn.locator("rect"))

        assert text["x"] + text["width"] < rect["x"] + rect["width"]

    def test_range(self, visit: Open, shop: Explorer) -> None:
        """
        A range without calls says so; a longer one has them.
        """
        page = visit(shop, "/map?since=8d&until=7d")
        expect(page.locator(".empty")).to_contain_text("No calls in this time")
        go(page.get_by_role("link", name="Last week"))
        expect(page.locator(".map .box")).to_have_count(7)
