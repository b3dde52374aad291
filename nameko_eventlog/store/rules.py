"""
Rules of retention: for how many days event logs are kept, by service, event type and level.

Only the names of series count, so a rule stands for a set of series.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nameko.exceptions import ConfigurationError

from nameko_eventlog import checking
from nameko_eventlog.addresses import masked_value
from nameko_eventlog.store.levels import expand_levels, level_number, normal_level
from nameko_eventlog.store.patterns import Patterns


FILTERS = ("service", "event_type", "level")
"""The keys of a rule that select event logs."""


@dataclass(frozen=True, slots=True)
class Rule:
    """
    A rule; filters that are empty select everything.

    Args:
        days: The greatest age of an event log; None for forever.
        service: The names of services.
        event_type: The event types; ``*`` is any text.
        level: The levels in any spelling; ``warning+`` is that level and all above.
    """

    days: float | None
    service: tuple[str, ...] = ()
    event_type: tuple[str, ...] = ()
    level: tuple[str, ...] = ()

    @property
    def is_default(self) -> bool:
        """
        Whether it decides about all event logs.
        """
        return not (self.service or self.event_type or self.level)

    @property
    def description(self) -> str:
        """
        Its age and its filters, as log lines show them.
        """
        filters = [
            f"{name} {' or '.join(values)}" for name in FILTERS if (values := getattr(self, name))
        ]
        age = "of any age" if self.days is None else f"older than {self.days:g} days"
        return ", ".join([age, *filters])

    @property
    def matches(self) -> Callable[[str, str, str | None], bool]:
        """
        A function that tells whether it selects a service, an event type and a level.
        """
        types = Patterns(self.event_type)
        levels, least = expand_levels(self.level)

        def is_level(level: str | None) -> bool:
            if level is None or level in levels or least is None:
                return level in levels
            number = level_number(level)
            return number is not None and number >= least

        def is_selected(service: str, event_type: str, level: str | None) -> bool:
            return (
                (not self.service or service in self.service)
                and (not self.event_type or types.fullmatch(event_type))
                and (not self.level or is_level(level))
            )

        return is_selected


def days(value: Any) -> float:
    """
    Check for a number of days.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 36_500:
        raise ValueError("a number of days, above 0 and below 36500")
    return value


def _days_or_null(value: Any) -> float:
    try:
        return days(value)
    except ValueError as exc:
        raise ValueError(f"{exc}, or null for forever") from None


def _names(what: str) -> checking.Check:
    def check(value: Any) -> tuple[str, ...]:
        values = (value,) if isinstance(value, str) else value
        if (
            not isinstance(values, (list, tuple))
            or not values
            or not all(isinstance(one, str) and one for one in values)
        ):
            raise ValueError(f"{what}, or a list of them")
        return tuple(values)

    return check


def _levels(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, (list, tuple)) and value else [value]
    if not all(map(_is_level, values)):
        raise ValueError("a level such as error or warning+, or a list of them")
    return tuple(map(str, values))


def _is_level(value: Any) -> bool:
    if isinstance(value, str) and value.endswith("+"):
        return level_number(normal_level(value[:-1]) or "") is not None
    return bool(normal_level(value))


_CHECKS: dict[str, checking.Check] = {
    "service": _names("the name of a service"),
    "event_type": _names("an event type, with * for any text"),
    "level": _levels,
    "days": _days_or_null,
}


def parse_rules(name: str) -> checking.Check:
    """
    Make a check for a list of rules.

    Args:
        name: The whole name of the key.

    Returns:
        A function that returns a tuple of `Rule`, or raises a `ConfigurationError` with a line for
        each mistake.
    """

    def check(value: Any) -> tuple[Rule, ...]:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("a list of rules, like [{level: debug, days: 7}, {days: 90}]")
        rules: list[Rule] = []
        faults: list[str] = []
        for number, rule in enumerate(value):
            try:
                rules.append(_parse(f"{name}[{number}]", rule, number == len(value) - 1))
            except ConfigurationError as exc:
                faults.append(str(exc))
        if faults:
            raise ConfigurationError("\n".join(faults))
        return tuple(rules)

    return check


def _parse(name: str, value: Any, is_last: bool) -> Rule:
    shown = masked_value(name, value)
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{name} must be a mapping, like {{level: debug, days: 7}}, not {shown}"
        )
    found = checking.parse_section({name: value}, name, _CHECKS, null_is_a_value=("days",))
    if "days" not in found:
        raise ConfigurationError(
            f"{name} must have the key days, a number or null for forever, not only {shown}"
        )
    rule = Rule(**found)
    if rule.is_default and not is_last:
        raise ConfigurationError(
            f"{name} must be the last rule, because it has no {', '.join(FILTERS[:-1])} or"
            f" {FILTERS[-1]} and so decides about all event logs, not {shown}"
        )
    return rule


def choose(rules: Sequence[Rule]) -> Callable[[str, str, str | None], int | None]:
    """
    Make a function that returns the number of the first of *rules* that selects a service, an
    event type and a level, or None.
    """
    every = [rule.matches for rule in rules]

    def first(service: str, event_type: str, level: str | None) -> int | None:
        return next(
            (at for at, matches in enumerate(every) if matches(service, event_type, level)), None
        )

    return first
