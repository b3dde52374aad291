"""
Which calls: the parameters of `EventLogQuery.calls`, validated.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

from nameko_eventlog.store.outcomes import OUTCOMES
from nameko_eventlog.store.parameters import Filters, InvalidQuery, check_choice


ORDERS = ("newest", "oldest", "longest")
"""In which order calls are returned."""

NAMES = ("service", "entrypoint", "caller")
"""The names by which calls are found."""

_LONGEST = 10**9  # seconds


@dataclass(frozen=True)
class CallFilters:
    """
    Which calls: the parameters of `EventLogQuery.calls`, validated.
    """

    names: Filters
    outcomes: tuple[str, ...]
    min_duration: float | None
    max_duration: float | None
    digest: str

    @classmethod
    def parse(
        cls,
        *,
        outcome: Any = None,
        min_duration: Any = None,
        max_duration: Any = None,
        **filters: Any,
    ) -> CallFilters:
        """
        Validate parameters.

        Raises:
            InvalidQuery: A parameter is invalid.
        """
        for name, value in filters.items():
            if name not in (*NAMES, "since", "until"):
                known = ", ".join((*NAMES, "outcome", "min_duration", "max_duration", "since"))
                raise InvalidQuery(name, value, f"unknown filter; pass one of {known}, until")
        names = Filters.parse(**filters)
        outcomes = _outcomes(outcome)
        least, most = (
            _seconds(name, value)
            for name, value in (("min_duration", min_duration), ("max_duration", max_duration))
        )
        told = [names.digest, outcomes, least, most]
        digest = hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]
        return cls(names, outcomes, least, most, digest)


def _outcomes(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple, set, frozenset)) or not values:
        raise InvalidQuery("outcome", value, f"pass one of {', '.join(OUTCOMES)}, or a list")
    return tuple(sorted({check_choice("outcome", one, OUTCOMES) for one in values}))


def _seconds(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LONGEST:
        raise InvalidQuery(name, value, "pass a number of seconds, 0 or more")
    return float(value)
