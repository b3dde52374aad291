"""
Summaries of event logs: what is kept of each call, and the counts by time.

They change in the transaction that inserts or deletes event logs, and are at any time what could
be computed from those that are stored. So they must not depend on the order in which these came.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nameko_eventlog.store.answers import ENTRYPOINT_FAILED, FAILURE_LEVELS
from nameko_eventlog.store.levels import level_number
from nameko_eventlog.store.outcomes import (
    OUTCOMES,
    RUNNING,
    duration_of,
    is_captured_end,
    outcome_of,
)


COUNT_SPANS = (1800, 60)
"""The lengths of time, in seconds, for which event logs are counted; the longest first."""

EVERY_SERIES = 0
"""Stands in counts for all series together; series are numbered from 1."""

CALL_SPANS = (3600, 600)
"""The lengths of time, in seconds, for which calls and their durations are counted."""

BUCKETS_PER_DOUBLING = 8
"""
How fine the histograms of durations are: the bounds of a bucket differ by 9 %, as at scale 3 of
OpenTelemetry's: https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram
"""

SHORTEST = 1e-6
"""Shorter durations, in seconds, share a bucket."""


class Logged(NamedTuple):
    """
    What a call's summary needs to know of one event log.
    """

    position: bytes
    time_ms: int
    series_id: int
    severity: int
    is_failure: bool
    duration: float | None
    is_captured_end: bool
    outcome: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> Logged:
        """
        Read a row, as `rows.make_row` makes it, that has its position and series.
        """
        body, event_type, level = row["body"], row["event_type"], row["level"]
        duration = duration_of(body)
        return cls(
            row["position"],
            row["time_ms"],
            row["series_id"],
            0 if level is None else level_number(level) or 0,
            level in FAILURE_LEVELS or event_type == ENTRYPOINT_FAILED,
            duration,
            duration is not None and is_captured_end(event_type),
            OUTCOMES.index(RUNNING if duration is None else outcome_of(body)),
        )


class CallSummary(NamedTuple):
    """
    What is kept of a call, in the order of the columns `inserting.SUMMARY`.

    Args:
        series_id: The series of its first event log, which names service, entrypoint and caller.
        first: The position of its first event log.
        first_ms: The time of that.
        last_ms: The time of its last event log.
        ended: The position of the event log that tells its end, if one does.
        is_captured: Whether auto capture told the end.
        duration: How long it took, in seconds.
        outcome: The place in `OUTCOMES`.
        severity: That of its worst event log.
        is_failed: Whether an event log has the level of an error, or reports the failure.
        number: How many event logs it has.
    """

    series_id: int
    first: bytes
    first_ms: int
    last_ms: int
    ended: bytes | None
    is_captured: bool
    duration: float | None
    outcome: int
    severity: int
    is_failed: bool
    number: int


_NONE_LOGGED = CallSummary(0, b"", 0, 0, None, False, None, OUTCOMES.index(RUNNING), 0, False, 0)


def summarize(summary: CallSummary | None, logged: Iterable[Logged]) -> CallSummary:
    """
    Return the summary of a call that has further event logs.

    Args:
        summary: Of those it had before; None if it had none.
        logged: The further ones, at least one if there was none before.
    """
    (
        series_id, first, first_ms, last_ms, ended, is_captured, duration,
        outcome, severity, is_failed, number,
    ) = summary or _NONE_LOGGED  # fmt: skip
    for one in logged:
        if one.position < first or not number:
            series_id, first, first_ms = one.series_id, one.position, one.time_ms
        last_ms = max(last_ms, one.time_ms)
        severity = max(severity, one.severity)
        is_failed = is_failed or one.is_failure
        number += 1
        if one.duration is not None:
            told = (one.is_captured_end, one.position)
            if ended is None or told > (is_captured, ended):
                is_captured, ended = told
                duration, outcome = one.duration, one.outcome
    if not number:
        raise ValueError("a call has at least one event log")
    return CallSummary(
        series_id, first, first_ms, last_ms, ended, is_captured, duration,
        outcome, severity, is_failed, number,
    )  # fmt: skip


def bucket_of(duration: float) -> int:
    """
    Return the number of the bucket that has *duration*, in seconds.
    """
    return math.ceil(math.log2(max(duration, SHORTEST)) * BUCKETS_PER_DOUBLING)


def duration_in(bucket: int) -> float:
    """
    Return a duration in the middle of a bucket, in seconds.
    """
    return float(2 ** ((bucket - 0.5) / BUCKETS_PER_DOUBLING))


@dataclass(slots=True)
class Changes:
    """
    What is to be added to the counts; less than nothing where event logs go.
    """

    counts: dict[tuple[int, int, int], int] = field(default_factory=dict)
    """By span, its beginning, and series."""

    calls: Counter[tuple[int, int, int, int, bool]] = field(default_factory=Counter)
    """By span, its beginning, series, outcome, and whether it failed."""

    durations: Counter[tuple[int, int, int, int]] = field(default_factory=Counter)
    """By span, its beginning, series, and bucket."""

    names: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    """By series, as far as known: service, entrypoint, and whether the event logs are a call's."""

    def count(self, time_ms: int, series_id: int, number: int = 1) -> None:
        """
        Count event logs.
        """
        counts = self.counts
        for seconds in COUNT_SPANS:
            begin = time_ms - time_ms % (seconds * 1000)
            for series in (series_id, EVERY_SERIES):
                key = (seconds, begin, series)
                counts[key] = counts.get(key, 0) + number

    def count_call(self, call: CallSummary, number: int = 1) -> None:
        """
        Count a call, at its first event log.
        """
        bucket = None if call.duration is None else bucket_of(call.duration)
        for span in CALL_SPANS:
            begin = call.first_ms - call.first_ms % (span * 1000)
            self.calls[span, begin, call.series_id, call.outcome, call.is_failed] += number
            if bucket is not None:
                self.durations[span, begin, call.series_id, bucket] += number

    def change_call(self, before: CallSummary | None, after: CallSummary | None) -> None:
        """
        Count a call as it is, no longer as it was.
        """
        if before is not None:
            self.count_call(before, -1)
        if after is not None:
            self.count_call(after)
