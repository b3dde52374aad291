"""
Latencies: how many calls there were, how many failed, and how long they took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nameko_eventlog.store.answers import Latency
from nameko_eventlog.store.backends import Reading
from nameko_eventlog.store.outcomes import EXPECTED, FAILED, OUTCOMES
from nameko_eventlog.store.parameters import Filters
from nameko_eventlog.store.summaries import duration_in
from nameko_eventlog.store.times import format_time, now_ms


PERCENTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
"""The shares of calls that are at most as long."""

Group = tuple[str, str | None, int]
"""A service, an entrypoint, and the beginning of a span of time in milliseconds since 1970."""


@dataclass(slots=True)
class _Numbers:
    """
    How many calls of a group had each outcome, and a duration in each bucket.
    """

    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    buckets: dict[int, int] = field(default_factory=lambda: defaultdict(int))


def find_latencies(
    reading: Reading, filters: Filters, bucket: int | None, limit: int
) -> list[Latency]:
    """
    Return the latencies of entrypoints, those with the most calls first; of each by time.

    Args:
        reading: The database.
        filters: Which services and entrypoints, and the range.
        bucket: The length of a span of time, in seconds; None for one that is the whole range.
        limit: How many entrypoints, at most.
    """
    bucket_ms = None if bucket is None else bucket * 1000
    numbers: dict[Group, _Numbers] = defaultdict(_Numbers)
    for *group, outcome, many in reading.count_outcomes(filters, bucket_ms):
        numbers[_group(group)].outcomes[OUTCOMES[outcome]] += int(many)
    for *group, one, many in reading.count_durations(filters, bucket_ms):
        numbers[_group(group)].buckets[int(one)] += int(many)
    begin, end = filters.range
    elapsed = min(end, max(now_ms(), begin + 1)) - begin
    return _answers(numbers, bucket, elapsed, limit)


def _group(values: Sequence[Any]) -> Group:
    service, entrypoint, begin = values
    return service, entrypoint or None, int(begin)


def _answers(
    numbers: Mapping[Group, _Numbers], bucket: int | None, milliseconds: int, limit: int
) -> list[Latency]:
    seconds = milliseconds / 1000 if bucket is None else float(bucket)
    of_entrypoint: dict[tuple[str, str | None], list[Latency]] = defaultdict(list)
    for (service, entrypoint, begin), one in sorted(numbers.items(), key=lambda pair: pair[0][2]):
        many = sum(one.outcomes.values())
        if not many:
            continue
        percentiles = {name: _percentile(one.buckets, at) for name, at in PERCENTILES.items()}
        of_entrypoint[service, entrypoint].append(
            {
                "service_name": service,
                "entrypoint_name": entrypoint,
                "time": None if bucket is None else format_time(begin),
                "calls": many,
                "rate": many / seconds,
                "failures": one.outcomes[FAILED],
                "expected": one.outcomes[EXPECTED],
                "p50": percentiles["p50"],
                "p95": percentiles["p95"],
                "p99": percentiles["p99"],
            }
        )
    busiest = sorted(
        of_entrypoint.items(),
        key=lambda pair: (-sum(one["calls"] for one in pair[1]), pair[0][0], pair[0][1] or ""),
    )
    return [one for _, some in busiest[:limit] for one in some]


def _percentile(buckets: Mapping[int, int], share: float) -> float | None:
    """
    Return a duration that *share* of all do not exceed.
    """
    total = sum(buckets.values())
    if total <= 0:
        return None
    so_far = 0
    for bucket in sorted(buckets):
        so_far += buckets[bucket]
        if so_far >= share * total:
            break
    return float(f"{duration_in(bucket):.3g}")
