"""
The drawing of which services call which.
"""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from nameko_eventlog.explorer.service_map import (
    BOX_HEIGHT,
    BOX_WIDTH,
    MOST_ARROWS,
    Box,
    Drawing,
    draw,
)
from nameko_eventlog.store.answers import Link


SINCE, UNTIL = "2026-11-24T08:00:00Z", "2026-11-25T08:00:00Z"


def link(caller: str | None, service: str, calls: int = 1, failures: int = 0) -> Link:
    """
    Make a link.
    """
    return {
        "caller": caller,
        "service_name": service,
        "calls": calls,
        "failures": failures,
        "event_logs": calls,
    }


def drawn(*links: Link) -> Drawing:
    """
    Draw it.
    """
    return draw(links, SINCE, UNTIL)


def box(drawing: Drawing, name: str) -> Box:
    """
    Return a service's box.
    """
    (found,) = (one for one in drawing.boxes if one.name == name)
    return found


def overlap(one: Box, other: Box) -> bool:
    """
    Tell whether two boxes lie upon each other.
    """
    return abs(one.x - other.x) < BOX_WIDTH and abs(one.y - other.y) < BOX_HEIGHT


names = st.sampled_from("abcdefgh")


class TestDraw:
    def test_columns(self) -> None:
        """
        A service stands right of all its callers.
        """
        drawing = drawn(
            link(None, "web"), link("web", "shop"), link("shop", "mail"), link("web", "mail")
        )

        assert box(drawing, "web").x < box(drawing, "shop").x < box(drawing, "mail").x

    def test_numbers(self) -> None:
        """
        A box has the sum of its calls, an arrow its own; both lead to the stream.
        """
        drawing = drawn(link("web", "shop", 10, 2), link("cron", "shop", 3), link(None, "web", 9))
        shop = box(drawing, "shop")

        assert (13, 2, True) == (shop.calls, shop.failures, shop.is_known)
        assert shop.url.startswith("/?service=shop&since=2026-11-24T08%3A00%3A00Z&until=")
        assert [("web", 10, 2), ("cron", 3, 0)] == [
            (arrow.caller, arrow.calls, arrow.failures) for arrow in drawing.arrows
        ]
        assert drawing.arrows[0].url.startswith("/?service=shop&caller=web&since=")

    def test_known_by_callee(self) -> None:
        """
        Of a service without event logs there is a box that leads to what it has called.
        """
        cron = box(drawn(link("cron", "shop")), "cron")

        assert not cron.is_known
        assert cron.url.startswith("/?caller=cron&")

    def test_circle(self) -> None:
        """
        What calls back, or itself, is drawn as well.
        """
        drawing = drawn(link("a", "b"), link("b", "a"), link("b", "b"))

        assert 3 == len(drawing.arrows)
        assert box(drawing, "a").x < box(drawing, "b").x

    def test_circle_from(self) -> None:
        """
        A circle begins with who is called by nobody known, whoever calls more.
        """
        drawing = drawn(
            link(None, "web"),
            link("web", "shop"),
            link("shop", "web"),
            link("shop", "mail"),
            link("shop", "stock"),
        )

        assert box(drawing, "web").x < box(drawing, "shop").x < box(drawing, "mail").x

    def test_nothing(self) -> None:
        """
        Without calls there is nothing to draw.
        """
        assert () == drawn().boxes

    def test_many(self) -> None:
        """
        The arrows with the most calls are drawn, and it is told how many others there are.
        """
        links = [link("web", f"service_{number:03}", 500 - number) for number in range(150)]
        drawing = draw(links, SINCE, UNTIL)

        assert (MOST_ARROWS, 30) == (len(drawing.arrows), drawing.left_out)
        assert MOST_ARROWS + 1 == len(drawing.boxes)

    def test_long_way(self) -> None:
        """
        A chain of as many calls as are drawn is no trouble.
        """
        links = [link(f"s{number}", f"s{number + 1}") for number in range(MOST_ARROWS)]

        assert MOST_ARROWS + 1 == len({one.x for one in draw(links, SINCE, UNTIL).boxes})

    @given(st.dictionaries(st.tuples(st.none() | names, names), st.integers(1, 10**6)))
    def test_any(self, calls: dict[tuple[str | None, str], int]) -> None:
        """
        Whatever calls what: each box and each arrow is there once, within the drawing, and no box
        lies upon another.
        """
        drawing = drawn(*(link(*ends, number) for ends, number in calls.items()))

        assert {name for ends in calls for name in ends if name} == {
            one.name for one in drawing.boxes
        }
        assert {ends for ends in calls if ends[0]} == {
            (one.caller, one.service_name) for one in drawing.arrows
        }
        for number, one in enumerate(drawing.boxes):
            assert 0 <= one.x <= drawing.width - BOX_WIDTH
            assert 0 <= one.y <= drawing.height - BOX_HEIGHT
            assert not any(overlap(one, other) for other in drawing.boxes[number + 1 :])
        for arrow in drawing.arrows:
            numbers = [float(found) for found in re.findall(r"-?[\d.]+", arrow.path)]
            assert all(-60 <= found <= max(drawing.width, drawing.height) for found in numbers)
