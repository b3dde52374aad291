"""
Retention: deleting old event logs, in steps short enough for other writers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from time import monotonic
from typing import TypeVar

from nameko_eventlog.store.backends import Purger, backend_of
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.expiry import Expiry, Plan
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.times import format_time, now_ms, parse_time


T = TypeVar("T")

_log = logging.getLogger("nameko_eventlog")

HOLD_SECONDS = 86_400.0
"""How long retention waits before it deletes more than half of the event logs: a day."""


class Retention:
    """
    Deletes what is too old by rules, as far as the clock can be trusted.

    A clock that is wrong for a minute must not cost months of event logs. So the age of an event
    log is measured from the clock or from a day after the newest event log, whichever is earlier.
    More than half of the event logs are deleted only after they have been too old for a day.

    Args:
        uri: The database's address.
        rules: The first rule that selects an event log decides; without one it is kept.
        clock: Returns the time in milliseconds since 1970.
        elapsed: Returns the seconds of a monotonic clock.
    """

    def __init__(
        self,
        uri: str,
        rules: Sequence[Rule],
        clock: Callable[[], int] = now_ms,
        elapsed: Callable[[], float] = monotonic,
    ) -> None:
        self._uri = uri
        self._backend = backend_of(uri)
        self._rules = rules
        self._clock = clock
        self._elapsed = elapsed
        self._held_since: float | None = None
        self.purged = 0
        """How many event logs and rejects have been deleted."""

    def run(self, thread: Background, rest: Callable[[], None]) -> int:
        """
        Delete what is too old, and log how much it was.

        Args:
            thread: Runs the database calls.
            rest: Called after each step, to let others write.

        Returns:
            How many event logs and rejects were deleted.

        Raises:
            DatabaseError: If the database cannot be used.
        """
        purger: Purger = self._backend.Purger(self._uri)
        try:
            return self._run(purger, thread, rest)
        finally:
            purger.close()

    def _run(self, purger: Purger, thread: Background, rest: Callable[[], None]) -> int:
        for _ in _in_thread(thread, purger.correct(), rest):
            pass  # what an earlier run has left
        plan = thread.run(partial(purger.plan, self._rules, self._clock()))
        if self._is_held(plan):
            return 0
        deleted: Counter[int] = Counter()
        try:
            for step in _in_thread(thread, purger.delete(plan.expiry), rest):
                deleted += step
                self.purged += step.total()
        finally:
            for rule, number in sorted(deleted.items()):
                what = "event logs and rejects" if self._rules[rule].is_default else "event logs"
                _log.info(
                    "retention: deleted %d %s %s", number, what, _described(plan.expiry, rule)
                )
        return deleted.total()

    def _is_held(self, plan: Plan) -> bool:
        if not plan.is_most:
            self._held_since = None
            return False
        now = self._elapsed()
        if self._held_since is None:
            self._held_since = now
            _log.error(
                "retention: %d event logs, more than half of all, are %s; deleting them in a day,"
                " if that is still so. If the clock is right, delete them now with"
                " `nameko-eventlog purge`; if it is wrong, correct it",
                plan.number.total(),
                " or ".join(_described(plan.expiry, rule) for rule in sorted(plan.number)),
            )
        return now - self._held_since < HOLD_SECONDS


def _described(expiry: Expiry, rule: int) -> str:
    before = format_time(expiry.before_by(rule))
    return f"from before {before} ({expiry.rules[rule].description})"


def _in_thread(thread: Background, steps: Iterator[T], rest: Callable[[], None]) -> Iterator[T]:
    while (step := thread.run(partial(next, steps, None))) is not None:
        yield step
        rest()


def purge(
    uri: str, before: datetime, rule: Rule | None = None, step: int | None = None
) -> Iterator[int]:
    """
    Delete the event logs and the rejects from before a time.

    Args:
        uri: The database's address.
        before: The time.
        rule: Which event logs; then rejects are kept. Its age does not count.
        step: How many rows a transaction deletes, at most, where there are transactions.

    Returns:
        An iterator: each step runs a transaction, and yields how many rows it deleted. It raises
        `DatabaseError` if the database cannot be used.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """
    purger: Purger = backend_of(uri).Purger(uri)
    return _then_close(purger, purger.purge(parse_time(before), rule, step))


def _then_close(purger: Purger, steps: Iterator[int]) -> Iterator[int]:
    try:
        yield from steps
    finally:
        purger.close()


def count_before(uri: str, before: datetime, rule: Rule | None = None) -> int:
    """
    Count the rows that `purge` would delete.

    Raises:
        DatabaseError: If the database cannot be used.
    """
    purger: Purger = backend_of(uri).Purger(uri)
    try:
        return purger.count_before(parse_time(before), rule)
    finally:
        purger.close()
