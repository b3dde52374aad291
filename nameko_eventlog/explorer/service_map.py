"""
The layout of the service map: services in columns, callers to the left of the called.

The method is that of Sugiyama, Tagawa and Toda (1981). Calls that close a cycle are ignored. Each
service is placed to the right of its farthest caller. The services of a column are ordered by the
mean position of their neighbours. An arrow that passes columns has a place in each of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log10

from nameko_eventlog.explorer.views import stream_url
from nameko_eventlog.store.answers import Link


MOST_ARROWS = 120
"""How many arrows are drawn: those with the most calls. A table has the others."""

BOX_WIDTH, BOX_HEIGHT = 180, 48

_COLUMN, _ROW, _PASSING = BOX_WIDTH + 150, BOX_HEIGHT + 36, 30
_MARGIN = 40
_SWEEPS = 6
_LIFT = 46

# a service, or an arrow in a column that it passes
_Place = tuple[str, str] | tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Box:
    """
    A service; ``is_known`` tells whether it has its own event logs.
    """

    name: str
    url: str
    x: float
    y: float
    calls: int
    failures: int
    is_known: bool


@dataclass(frozen=True, slots=True)
class Arrow:
    """
    Calls from one service to another: the path, its width, and where its label ends.
    """

    caller: str
    service_name: str
    url: str
    path: str
    width: float
    x: float
    y: float
    calls: int
    failures: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """
    The drawing, and its size.
    """

    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    width: float
    height: float
    left_out: int
    """The number of arrows beyond `MOST_ARROWS`."""


def link_url(link: Link, since: str, until: str) -> str:
    """
    Return the URL of the event logs that a link stands for.
    """
    caller = {} if link["caller"] is None else {"caller": link["caller"]}
    return stream_url({"service": link["service_name"], **caller, "since": since, "until": until})


def draw(links: Sequence[Link], since: str, until: str) -> Drawing:
    """
    Lay the services out.

    Args:
        links: The answer of `EventLogQuery.service_map`.
        since: The beginning of the time range, ISO 8601, for URLs.
        until: The end of the time range.
    """
    pairs = [link for link in links if link["caller"] is not None]
    drawn = pairs[:MOST_ARROWS]
    called = {link["service_name"] for link in links if link["caller"] is None}
    ends = {(str(link["caller"]), link["service_name"]) for link in drawn}
    names = sorted(called.union(*ends))
    columns = _columns(names, ends, called)
    places, passings = _places(columns, ends)
    at = _coordinates(places)
    height = max((y for _, y in at.values()), default=0.0) + BOX_HEIGHT / 2 + _MARGIN

    boxes = []
    for name in names:
        own = [link for link in links if link["service_name"] == name]
        x, y = at[name, "service"]
        known = {"service": name} if own else {"caller": name}
        boxes.append(
            Box(
                name=name,
                url=stream_url({**known, "since": since, "until": until}),
                x=x,
                y=y - BOX_HEIGHT / 2,
                calls=sum(link["calls"] for link in own),
                failures=sum(link["failures"] for link in own),
                is_known=bool(own),
            )
        )
    ports = _ports(at, passings)
    arrows = []
    for link in drawn:
        ends_of = (str(link["caller"]), link["service_name"])
        passed = [at[place] for place in passings[ends_of]]
        path, x, y = _path(
            at[ends_of[0], "service"], at[ends_of[1], "service"], passed, ports.get(ends_of)
        )
        arrows.append(
            Arrow(
                caller=ends_of[0],
                service_name=ends_of[1],
                url=link_url(link, since, until),
                path=path,
                width=round(1.2 + log10(link["calls"]), 2),
                x=round(x, 1),
                y=round(y, 1),
                calls=link["calls"],
                failures=link["failures"],
            )
        )
    return Drawing(
        boxes=tuple(boxes),
        arrows=tuple(arrows),
        width=max((x for x, _ in at.values()), default=0.0) + BOX_WIDTH + _MARGIN,
        height=height + (_ROW / 2 if any(caller == name for caller, name in ends) else 0),
        left_out=len(pairs) - len(drawn),
    )


def _columns(
    names: Iterable[str], ends: Iterable[tuple[str, str]], origins: Collection[str]
) -> dict[str, int]:
    """
    Return each service's column: after its farthest caller, ignoring calls that close a cycle.

    Args:
        names: The services.
        ends: Pairs of caller and called service.
        origins: The services that were called by an unknown caller: cycles begin with them.
    """
    below: dict[str, list[str]] = defaultdict(list)
    callers: dict[str, int] = defaultdict(int)
    for caller, name in sorted(ends):
        if caller != name:
            below[caller].append(name)
            callers[name] += 1
    order: list[str] = []
    state: dict[str, int] = {}  # 1: under way, 2: done
    cycles: set[tuple[str, str]] = set()

    def visit(name: str) -> None:
        state[name] = 1
        for one in below[name]:
            if state.get(one) == 1:
                cycles.add((name, one))
            elif one not in state:
                visit(one)
        state[name] = 2
        order.append(name)

    def rank(name: str) -> tuple[bool, bool, int, str]:
        # if all services have callers, the cycle begins with the one that calls the most
        return name not in origins, callers[name] > 0, -len(below[name]), name

    for name in sorted(names, key=rank):
        if name not in state:
            visit(name)
    columns = dict.fromkeys(order, 0)
    for name in reversed(order):
        for one in below[name]:
            if (name, one) not in cycles:
                columns[one] = max(columns[one], columns[name] + 1)
    return columns


def _places(
    columns: dict[str, int], ends: Iterable[tuple[str, str]]
) -> tuple[list[list[_Place]], dict[tuple[str, str], list[_Place]]]:
    """
    Return the places of each column from the top, and the places that each arrow passes.
    """
    places: list[list[_Place]] = [[] for _ in range(max(columns.values(), default=-1) + 1)]
    for name, column in sorted(columns.items()):
        places[column].append((name, "service"))
    neighbours: dict[_Place, list[_Place]] = defaultdict(list)
    passings: dict[tuple[str, str], list[_Place]] = {}
    for caller, name in sorted(ends):
        passed: list[_Place] = []
        for column in range(columns[caller] + 1, columns[name]):
            passed.append((caller, name, column))
            places[column].append(passed[-1])
        passings[caller, name] = passed
        way: list[_Place] = [(caller, "service"), *passed, (name, "service")]
        if columns[caller] < columns[name]:
            for one, other in pairwise(way):
                neighbours[one].append(other)
                neighbours[other].append(one)
    for sweep in range(_SWEEPS):
        for standing in places if sweep % 2 == 0 else places[::-1]:
            row = {place: _row(number, of) for of in places for number, place in enumerate(of)}
            middle = {
                place: sum(row[one] for one in neighbours[place]) / len(neighbours[place])
                if neighbours[place]
                else row[place]
                for place in standing
            }
            standing.sort(key=lambda place: (middle[place], place))
    return places, passings


def _row(number: int, column: Sequence[_Place]) -> float:
    return (number + 0.5) / len(column)


def _coordinates(places: Iterable[Sequence[_Place]]) -> dict[_Place, tuple[float, float]]:
    """
    Return the left edge and the vertical middle of each place.
    """
    columns = [
        [(place, _ROW if len(place) == 2 else _PASSING) for place in column] for column in places
    ]
    highest = max((sum(height for _, height in column) for column in columns), default=0)
    at: dict[_Place, tuple[float, float]] = {}
    for number, column in enumerate(columns):
        top = _MARGIN / 2 + (highest - sum(height for _, height in column)) / 2
        for place, height in column:
            at[place] = (_MARGIN + number * _COLUMN, top + height / 2)
            top += height
    return at


def _ports(
    at: Mapping[_Place, tuple[float, float]], passings: Mapping[tuple[str, str], Sequence[_Place]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """
    Return where each arrow leaves its caller's right edge, and where it meets its service's left.

    The arrows of an edge are spread over it, in the order of their other ends.
    """
    leaving: dict[str, list[tuple[float, tuple[str, str]]]] = defaultdict(list)
    arriving: dict[str, list[tuple[float, tuple[str, str]]]] = defaultdict(list)
    for ends, passed in passings.items():
        caller, name = ends
        way: list[_Place] = [(caller, "service"), *passed, (name, "service")]
        if at[way[0]][0] < at[way[-1]][0]:
            leaving[caller].append((at[way[1]][1], ends))
            arriving[name].append((at[way[-2]][1], ends))
    ports: tuple[dict[tuple[str, str], float], ...] = ({}, {})
    for of, edges in zip(ports, (leaving, arriving), strict=True):
        for name, arrows in edges.items():
            top = at[name, "service"][1] - BOX_HEIGHT / 2
            for number, (_, ends) in enumerate(sorted(arrows)):
                of[ends] = round(top + BOX_HEIGHT * (number + 1) / (len(arrows) + 1), 1)
    return {ends: (ports[0][ends], ports[1][ends]) for ends in ports[0]}


def _path(
    begin: tuple[float, float],
    end: tuple[float, float],
    passed: Sequence[tuple[float, float]],
    ports: tuple[float, float] | None,
) -> tuple[str, float, float]:
    """
    Return an arrow's path, and where its label ends.
    """
    if ports is not None:
        x, y = begin[0] + BOX_WIDTH, ports[0]
        path = f"M{x} {y}"
        for to_x, to_y in [*passed, (end[0], ports[1])]:
            half = (to_x - x) / 2
            path += f"C{x + half} {y},{to_x - half} {to_y},{to_x} {to_y}"
            x, y = to_x, to_y
            if x < end[0]:
                x += BOX_WIDTH
                path += f"H{x}"
        return path, x - 14, y - 5
    if begin == end:  # a service that calls itself: a loop below it
        x, y = begin[0] + BOX_WIDTH / 2, begin[1] + BOX_HEIGHT / 2
        return f"M{x + 40} {y}C{x + 40} {y + 34},{x - 40} {y + 34},{x - 40} {y}", x + 20, y + 20
    # backwards, above the boxes
    x, y = begin[0] + BOX_WIDTH / 3, begin[1] - BOX_HEIGHT / 2
    to_x, to_y = end[0] + BOX_WIDTH * 2 / 3, end[1] - BOX_HEIGHT / 2
    path = f"M{x} {y}C{x} {y - _LIFT},{to_x} {to_y - _LIFT},{to_x} {to_y}"
    return path, (x + to_x) / 2, (y + to_y) / 2 - _LIFT * 0.75 - 5
