"""
Event logs that somebody hostile has sent, under the page's own policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Browser, Page, expect

from nameko_eventlog.explorer.views import event_log_url, stream_url, trace_url
from nameko_eventlog.store.queries import EventLogQuery
from nameko_eventlog.store.rows import escape_unstorable
from tests.browser.conftest import listen
from tests.browser.hostile import TEXTS
from tests.browser.reading import ROWS, go, row_ids
from tests.browser.running import Explorer
from tests.browser.test_reader import NARROW


Open = Callable[..., Page]

MOST_BYTES = 2_000_000


# What is on a page that is ours, and what is not: in one go.
_LOOK = """() => ({
    canary: typeof window.canary,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    foot: document.querySelector('body > footer > #zone') !== null,
    loads: [...document.querySelectorAll('script, img')].map(one => one.getAttribute('src')),
    foreign: document.querySelectorAll(
        'base, iframe, object, embed, style, meta[http-equiv]').length,
    attributes: [...document.querySelectorAll('*')].flatMap(one => [...one.attributes])
        .filter(one => one.name.startsWith('on') || one.name === 'style'
            || /^(href|src|action|formaction)$/.test(one.name) && !/^[/#]/.test(one.value))
        .map(one => `${one.name}=${one.value}`),
    text: document.querySelector('main').innerText,
})"""

_INVISIBLE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2028-\u202e\u2060-\u2069\u3164\ufeff]"


def check(page: Page) -> None:
    """
    Check that nothing of others' has come to life, and that the page is whole.
    """
    seen = page.evaluate(_LOOK)
    text = seen.pop("text")

    assert {
        "canary": "undefined",
        "overflow": 0,
        "foot": True,
        "loads": ["/static/explorer.js", "/static/icon.svg"],
        "foreign": 0,
        "attributes": [],
    } == seen, page.url
    assert [] == re.findall(_INVISIBLE, text)


@pytest.fixture
def inspect(visit: Open, hostile: Explorer) -> Callable[..., Page]:
    """
    Visit some pages, and check each; none is heavy. What they complain about, `visit` notes.
    """

    def inspect(*paths: str, page: Page | None = None, **options: Any) -> Page:
        page = page or visit(hostile, "/?service=nobody", **options)
        for path in paths:
            answer = page.goto(f"{hostile.url}{path}")
            assert answer is not None
            assert 200 == answer.status, path
            assert len(answer.body()) < MOST_BYTES, path
            check(page)
        return page

    return inspect


class TestHostile:
    @pytest.mark.parametrize("options", [{}, NARROW], ids=["wide", "narrow"])
    def test_all(self, inspect: Callable[..., Page], options: dict[str, Any]) -> None:
        """
        All of it on one page, and as a map.
        """
        page = inspect("/map", "/?order=oldest", "/", **options)

        assert 100 == page.locator(ROWS).count()

    @pytest.mark.parametrize("kind", TEXTS)
    def test_text(self, inspect: Callable[..., Page], hostile: Explorer, kind: str) -> None:
        """
        A text in every place, on every view that shows it, and as a filter.
        """
        name = escape_unstorable(TEXTS[kind][:400])
        number = list(TEXTS).index(kind)
        with EventLogQuery(hostile.uri) as query:
            (row,) = query.query(call_id=f"{name}{number}")["event_logs"]
        paths = (
            event_log_url(row["message_id"]),
            trace_url(f"{name}{number}"),
            stream_url({"service": name}),
        )
        page = inspect(
            event_log_url(name),
            "/?" + urlencode({"event_type": name[:90], "level": name[:90], "text": name[:90]}),
            "/?" + urlencode({"data": f"name={name[:90]}", "caller": name[:90]}),
            *paths,
        )
        if name.strip() == name:
            assert [f"row-{row['message_id']}"] == row_ids(page)
        page.set_viewport_size({"width": 360, "height": 700})
        inspect(*paths, page=page)

    @pytest.mark.parametrize(
        "event_type",
        ["deep", "wide", "list", "level", "levels", "data", "nothing", "integers", "durations"],
    )
    def test_shape(self, inspect: Callable[..., Page], hostile: Explorer, event_type: str) -> None:
        """
        Bodies that are deep, wide, or not what one expects.
        """
        page = inspect(stream_url({"event_type": event_type}))
        go(page.locator(f"{ROWS} .time a"))
        check(page)
        if event_type in ("wide", "list"):
            expect(page.get_by_text("The body is cut")).to_be_visible()
        page.set_viewport_size({"width": 360, "height": 700})
        page.reload()
        check(page)

    def test_traces(self, inspect: Callable[..., Page]) -> None:
        """
        Traces that are large, long, deep, run in a circle, or are of a call without an id.
        """
        paths = [
            trace_url(call) for call in ("many", "end", "c2", "hostile.shapes.1", "nameless.1")
        ]
        inspect(*paths)
        page = inspect(*paths, **NARROW)
        page.goto(trace_url("many"))
        expect(page.get_by_text("Not all calls or event logs are drawn.")).to_be_visible()

    def test_following(self, inspect: Callable[..., Page]) -> None:
        """
        Rows that come by following are as tame.
        """
        page = inspect("/?service=ids")
        page.evaluate("document.querySelectorAll('#rows tr').forEach(row => row.remove())")
        page.get_by_role("button", name="Follow").click()
        expect(page.locator(ROWS)).to_have_count(len(TEXTS))
        check(page)

    def test_direction(self, inspect: Callable[..., Page]) -> None:
        """
        Text from right to left, and what turns text, leave what stands beside them where it is.
        """
        page = inspect("/?" + urlencode({"service": TEXTS["arabic"]}))
        row = page.locator(ROWS).first

        def left(selector: str) -> float:
            place = row.locator(selector).first.bounding_box()
            assert place is not None
            return float(place["x"])

        assert left(".time") < left(".lev") < left(".where") < left(".type") < left(".data")
        for selector in (".where a", ".data bdi"):
            begins = row.locator(selector).evaluate_all(
                "all => all.map(one => one.getClientRects()[0]).map(one => [one.y, one.x])"
            )
            assert sorted(begins) == begins
            assert 2 <= len(begins)
        page = inspect("/?" + urlencode({"service": TEXTS["override"]}))
        expect(page.locator(f"{ROWS} .type")).to_contain_text(r"invoice\u202efdp.exe")

    def test_forms(self, inspect: Callable[..., Page], hostile: Explorer) -> None:
        """
        A filter stands in the form as it is, and is the same when the form is sent again.
        """
        for kind in ("override", "zero width", "escapes"):
            name = TEXTS[kind].strip()
            page = inspect(stream_url({"service": name}))
            page.locator(".search summary").click()
            expect(page.get_by_label("Service", exact=True)).to_have_value(name)
            url = page.url
            go(page.get_by_role("button", name="Search"))
            assert url.replace("%20", "+") == page.url.replace("%20", "+")

    def test_canary(self, browser: Browser, hostile: Explorer) -> None:
        """
        If anything did run, the checks above would see it.
        """
        with browser.new_context(bypass_csp=True) as context:
            page = context.new_page()
            page.goto(hostile.url)
            page.evaluate(
                "document.body.insertAdjacentHTML('beforeend', arguments[0])".replace(
                    "arguments[0]", repr(TEXTS["attribute"].replace("src=x", "src=/static/x"))
                )
            )
            page.wait_for_function("window.canary === 1")

            with pytest.raises(AssertionError, match="canary"):
                check(page)

    def test_complaints(self, browser: Browser, hostile: Explorer) -> None:
        """
        Of a page that is refused, as it is meant to be, the violations of the policy are noted.
        """
        complaints: list[str] = []
        with browser.new_context() as context:
            page = context.new_page()
            listen(page, hostile.url, complaints, refused="/trace?call=nothing")
            page.goto(f"{hostile.url}/trace?call=nothing")
            with page.expect_console_message():
                page.evaluate("document.body.setAttribute('style', 'color: red')")
            with page.expect_console_message():
                page.goto(f"{hostile.url}/trace?call=nobody")

        violated, refused = complaints
        assert "Content Security Policy" in violated
        assert "Failed to load resource" in refused
