"""
What the tests do with pages again and again.
"""

from __future__ import annotations

from playwright.sync_api import Locator, Page


ROWS = "#rows tr"


def types(page: Page) -> list[str]:
    """
    Return the event types of the rows, from above.
    """
    return page.locator(f"{ROWS} .type").all_inner_texts()


def row_ids(page: Page) -> list[str]:
    """
    Return which event logs the rows are.
    """
    return page.locator(ROWS).evaluate_all("rows => rows.map(row => row.id)")  # type: ignore[no-any-return]


def go(locator: Locator) -> None:
    """
    Click, and wait for the page that this leads to.
    """
    with locator.page.expect_navigation():
        locator.click()


def press(page: Page, key: str) -> None:
    """
    Press a key, and wait for the page that this leads to.
    """
    with page.expect_navigation():
        page.keyboard.press(key)


def fill_in(page: Page, **fields: str) -> None:
    """
    Fill the stream's form in, and send it.
    """
    page.locator(".search summary").click()
    for label, value in fields.items():
        page.get_by_label(label.replace("_", " "), exact=True).fill(value)
    go(page.get_by_role("button", name="Search"))


def overflow(page: Page) -> int:
    """
    Return by how many pixels a page is wider than its window.
    """
    return page.evaluate(  # type: ignore[no-any-return]
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
