"""
The geometry of charts: numbers for SVG attributes, because inline styles are forbidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from nameko_eventlog.explorer.views import View, typed_time
from nameko_eventlog.store.answers import Call, Count, Trace
from nameko_eventlog.store.times import parse_time


WIDTH, HEIGHT = 1000, 80

MOST_SPANS = 500
"""How many calls of a trace are drawn: the first ones."""

MOST_TICKS = 1500
"""How many event logs of a trace are drawn."""

# wide enough to be visible beside the tick of an event log
_LEAST_WIDTH = 8
_BARS = 60
_BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400)
_WEEK = 604_800
_LONGEST = 1653 * _WEEK  # the longest bucket that `EventLogQuery.count` accepts


@dataclass(frozen=True, slots=True)
class Bar:
    """
    A bar of the histogram, with its segments from the bottom up.
    """

    url: str
    label: str
    x: float
    width: float
    segments: tuple[tuple[str, float, float], ...]
    """The class of levels, the upper edge, and the height."""


def bucket_of(since: datetime, until: datetime) -> int:
    """
    Return the length of a bucket: a round number of seconds, about a sixtieth of the range.
    """
    seconds = max(1.0, (until - since).total_seconds())
    least = seconds / _BARS
    fitting = next((one for one in _BUCKETS if one >= least), None)
    return fitting or min(int(-(-least // _WEEK) * _WEEK), _LONGEST)


def histogram(
    view: View,
    since: datetime,
    until: datetime,
    bucket: int,
    counts: Mapping[str, Sequence[Count]],
) -> list[Bar]:
    """
    Make the bars.

    Args:
        view: The view that the bars link to narrower versions of.
        since: The beginning of the range.
        until: The end of the range.
        bucket: The length of a bucket, in seconds.
        counts: The counts by time for each class of levels, from the bottom up.
    """
    first = int(since.timestamp()) // bucket * bucket
    last = int(until.timestamp()) // bucket * bucket
    number = (last - first) // bucket + 1
    by_time: dict[int, dict[str, int]] = {}
    for level, groups in counts.items():
        for group in groups:
            at = parse_time(group["group"] or "") // 1000
            by_time.setdefault(at, {})[level] = group["count"]
    highest = max((sum(levels.values()) for levels in by_time.values()), default=0)
    bars: list[Bar] = []
    for at, levels in sorted(by_time.items()):
        begin = datetime.fromtimestamp(at, timezone.utc)
        end = begin + timedelta(seconds=bucket)
        top, segments = float(HEIGHT), []
        for level in counts:
            height = levels.get(level, 0) / highest * (HEIGHT - 4)
            if height:
                height = max(height, 1.5)  # a single failure among thousands must be visible
                top -= height
                segments.append((level, round(max(top, 0), 2), round(height, 2)))
        total = sum(levels.values())
        parts = ", ".join(f"{many} {level}" for level, many in levels.items() if level != "other")
        bars.append(
            Bar(
                url=view.url(since=typed_time(begin), until=typed_time(end)),
                label=f"{typed_time(begin)}: {total}" + (f", including {parts}" if parts else ""),
                x=round((at - first) / bucket * WIDTH / number, 2),
                width=round(WIDTH / number * 0.85, 2),
                segments=tuple(segments),
            )
        )
    return bars


@dataclass(frozen=True, slots=True)
class Span:
    """
    The bar of a call in the waterfall.
    """

    call: Call
    x: float
    width: float
    ticks: tuple[tuple[float, Any], ...]
    """The position of each event log, and the event log."""


def waterfall(trace: Trace) -> tuple[list[Span], float, bool]:
    """
    Make the bars of a trace's calls.

    Returns:
        The bars, parents before children; the duration of the trace in seconds; and whether there
        are more calls or event logs than a page shows.
    """
    intervals = {call["call_id"]: _interval(call) for call in trace["calls"]}
    children: dict[str | None, list[str]] = {}
    for call in trace["calls"]:
        children.setdefault(call["parent_call_id"], []).append(call["call_id"])
    for call in reversed(trace["calls"]):  # a call covers the calls that it led to
        own = intervals[call["call_id"]]
        below = [intervals[child] for child in children.get(call["call_id"], [])]
        times = [one for one in (*below, own) if one is not None]
        if times and (own is None or call["duration"] is None):
            intervals[call["call_id"]] = (min(t[0] for t in times), max(t[1] for t in times))
    known = [one for one in intervals.values() if one is not None]
    begin = min((one[0] for one in known), default=0.0)
    length = max(max((one[1] for one in known), default=0.0) - begin, 1.0)
    spans, room = [], MOST_TICKS
    for call in trace["calls"][:MOST_SPANS]:
        start, end = intervals[call["call_id"]] or (begin, begin)
        spans.append(
            Span(
                call=call,
                x=round(min((start - begin) / length * WIDTH, WIDTH - _LEAST_WIDTH), 2),
                width=round(max((end - start) / length * WIDTH, _LEAST_WIDTH), 2),
                ticks=tuple(
                    (round((parse_time(row["time"]) - begin) / length * WIDTH, 2), row)
                    for row in call["event_logs"][:room]
                ),
            )
        )
        room = max(room - len(call["event_logs"]), 0)
    number = sum(len(call["event_logs"]) for call in trace["calls"])
    are_cut = len(trace["calls"]) > MOST_SPANS or number > MOST_TICKS
    return spans, length / 1000, are_cut


def _interval(call: Call) -> tuple[float, float] | None:
    if call["started"] is None:
        return None
    start = float(parse_time(call["started"]))
    if call["duration"] is not None:
        return start, start + call["duration"] * 1000
    return start, max([start, *(float(parse_time(row["time"])) for row in call["event_logs"])])
