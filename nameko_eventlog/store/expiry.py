"""
Which event logs are too old, by the rules of retention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from nameko_eventlog.store.rules import Rule, choose


QUIET_MS = 86_400_000
"""How long after the newest event log the clock alone is trusted: a day."""

_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class Expiry:
    """
    From before which time each series is deleted.

    Args:
        rules: The rules.
        now: The time, in milliseconds since 1970.
        rule_of: The number of the rule of each series that one of them selects.
        span_ms: Of how many milliseconds all or nothing is deleted.
    """

    rules: Sequence[Rule]
    now: int
    rule_of: Mapping[int, int]
    span_ms: int

    @classmethod
    def of(
        cls,
        rules: Sequence[Rule],
        now: int,
        series: Iterable[tuple[int, str, str, str | None]],
        span_ms: int,
    ) -> Expiry:
        """
        Apply *rules* to series: their numbers, services, event types and levels.
        """
        first = choose(rules)
        found = ((one[0], first(*one[1:])) for one in series)
        chosen = {number: rule for number, rule in found if rule is not None}
        return cls(rules, now, chosen, span_ms)

    def before_by(self, rule: int) -> int:
        """
        Return from before which time a rule deletes, in milliseconds since 1970; 0 for never.
        """
        days = self.rules[rule].days
        if days is None:
            return 0
        before = self.now - timedelta(days=days) // _MILLISECOND
        return max(before - before % self.span_ms, 0)

    def before_of(self, series_id: int) -> int:
        """
        Return from before which time a series is deleted; 0 for never.
        """
        rule = self.rule_of.get(series_id)
        return 0 if rule is None else self.before_by(rule)

    @property
    def times(self) -> list[int]:
        """
        The times from before which rules delete, in order.
        """
        return sorted({before for at in range(len(self.rules)) if (before := self.before_by(at))})

    def by_rule(self, number: Mapping[int, int]) -> Counter[int]:
        """
        Return numbers of event logs by rule instead of series.
        """
        found: Counter[int] = Counter()
        for series_id, one in number.items():
            found[self.rule_of[series_id]] += one
        return found


@dataclass(frozen=True)
class Plan:
    """
    What retention would delete now.

    Args:
        expiry: From before which times.
        number: How many event logs that is, by rule.
        is_most: Whether that is more than half of all.
    """

    expiry: Expiry
    number: Counter[int]
    is_most: bool
