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

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Engine,
    and_,
    bindparam,
    delete,
    func,
    select,
)

from nameko_eventlog.store.background import Background
from nameko_eventlog.store.databases import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.deleting import delete_first, delete_unused
from nameko_eventlog.store.dropping import correct_summaries, drop_days
from nameko_eventlog.store.expiry import Expiry, Phase, Plan, make_phase, make_plan
from nameko_eventlog.store.partitions import DAY_MS, InUse
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.schema import event_logs, rejects
from nameko_eventlog.store.shrinking import shrink_days
from nameko_eventlog.store.statements import between
from nameko_eventlog.store.times import format_time, now_ms, parse_time


T = TypeVar("T")

_log = logging.getLogger("nameko_eventlog")

HOLD_SECONDS = 86_400.0
"""How long retention waits before it deletes more than half of the event logs: a day."""

STEP = 1000
"""How many rows a transaction deletes, at most."""


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
        for _ in _in_thread(thread, _correct(self._uri), rest):
            pass  # what an earlier run has left
        engine = open_engine(self._uri)
        try:
            plan = thread.run(partial(_plan, engine, self._rules, self._clock()))
        finally:
            close_engine(engine)
        if self._is_held(plan):
            return 0
        deleted: Counter[int] = Counter()
        try:
            for step in _in_thread(thread, _delete(self._uri, plan.expiry), rest):
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


def _plan(engine: Engine, rules: Sequence[Rule], now: int) -> Plan:
    check_exists(engine.url)
    with database_errors(engine.url), engine.begin() as connection:
        return make_plan(connection, rules, now)


def _transaction(engine: Engine, work: Callable[[Connection], T]) -> T:
    with database_errors(engine.url), engine.begin() as connection:
        return work(connection)


def _correct(uri: str) -> Iterator[Counter[int]]:
    """
    Correct the summaries of days that were dropped.
    """
    engine = open_engine(uri, writes=True)

    def steps() -> Iterator[Counter[int]]:
        try:
            if engine.dialect.name == "postgresql":  # SQLite drops none
                for _ in correct_summaries(partial(_transaction, engine)):
                    yield Counter()
        finally:
            close_engine(engine)

    return steps()


def _delete(uri: str, expiry: Expiry) -> Iterator[Counter[int]]:
    """
    Delete what is too old.

    Returns:
        An iterator, which runs transactions for each step: how much was deleted, by rule.
    """
    engine = open_engine(uri, writes=True)

    def steps() -> Iterator[Counter[int]]:
        try:
            yield from _delete_event_logs(engine, expiry)
            default = len(expiry.rules) - 1
            if expiry.rules[default].is_default and (before := expiry.before_by(default)):
                for number in _delete_rejects(engine, before, STEP):
                    yield Counter({default: number})
        finally:
            close_engine(engine)

    return steps()


def _delete_event_logs(engine: Engine, expiry: Expiry) -> Iterator[Counter[int]]:
    run = partial(_transaction, engine)
    since, has_deleted = 0, False
    try:
        for number in drop_days(run, expiry):
            has_deleted = True
            yield number
    except InUse:  # drop them the next time, rather than delete a million rows
        since = expiry.times[-1] // DAY_MS * DAY_MS
    if has_deleted:
        for _ in correct_summaries(run):
            yield Counter()
    for before in expiry.times:
        phase = run(partial(make_phase, expiry=expiry, since=since, before=before))
        while deleted := run(partial(_delete_some, phase=phase, step=STEP)):
            has_deleted = True
            yield expiry.by_rule(deleted)
    if has_deleted:
        _delete_unused(engine, STEP)
    for _ in shrink_days(run, expiry):
        yield Counter()


def _delete_some(connection: Connection, phase: Phase, step: int) -> Counter[int]:
    if not phase.series:
        return Counter()
    # SQLite would prefer the index of series, and sort
    has_index = phase.by_series or connection.dialect.name != "sqlite"
    condition = and_(_is_of(phase.series, has_index), *between(phase.since, phase.before))
    return delete_first(connection, condition, step, by_series=phase.by_series)


def _is_of(numbers: Sequence[int], has_index: bool = True) -> ColumnElement[bool]:
    # as text: SQLite has a limit for parameters
    values: BindParameter[int] = bindparam("series", numbers, expanding=True, literal_execute=True)
    column: ColumnElement[int] = event_logs.c.series_id
    return (column if has_index else column + 0).in_(values)


def _delete_unused(engine: Engine, step: int) -> None:
    first: int | None = 0
    while first is not None:
        first = _transaction(engine, partial(delete_unused, first=first, most=step))


def _delete_rejects(engine: Engine, before: int, step: int) -> Iterator[int]:
    old = (
        select(rejects.c.id)
        .where(rejects.c.rejected_ms < before)
        .order_by(rejects.c.rejected_ms)
        .limit(step)
        # another instance that is deleting takes other rows
        .with_for_update(skip_locked=True)
    )
    statement = delete(rejects).where(rejects.c.id.in_(old))
    while number := _transaction(
        engine, lambda connection: connection.execute(statement).rowcount
    ):
        yield number


def purge(uri: str, before: datetime, rule: Rule | None = None, step: int = STEP) -> Iterator[int]:
    """
    Delete the event logs and the rejects from before a time.

    Args:
        uri: The database's address.
        before: The time.
        rule: Which event logs; then rejects are kept. Its age does not count.
        step: How many rows a transaction deletes, at most.

    Returns:
        An iterator: each step runs a transaction, and yields how many rows it deleted. It raises
        `DatabaseError` if the database cannot be used.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """
    return _purge(open_engine(uri, writes=True), parse_time(before), rule, step)


def _purge(engine: Engine, before: int, rule: Rule | None, step: int) -> Iterator[int]:
    try:
        check_exists(engine.url)
        has_deleted = False
        condition = _transaction(engine, partial(_is_purged, before=before, rule=rule))
        work = partial(delete_first, condition=condition, most=step, by_series=rule is not None)
        while deleted := _transaction(engine, work):
            has_deleted = True
            yield deleted.total()
        if has_deleted:
            _delete_unused(engine, step)
        if rule is None:
            yield from _delete_rejects(engine, before, step)
    finally:
        close_engine(engine)


def _is_purged(connection: Connection, before: int, rule: Rule | None) -> ColumnElement[bool]:
    is_old = and_(*between(None, before))
    if rule is None:
        return is_old
    return and_(_is_of(list(Expiry.read(connection, [rule], before).rule_of)), is_old)


def count_before(uri: str, before: datetime, rule: Rule | None = None) -> int:
    """
    Count the rows that `purge` would delete.

    Raises:
        DatabaseError: If the database cannot be used.
    """
    engine = open_engine(uri)
    try:
        check_exists(engine.url)
        return _transaction(engine, partial(_count, before=parse_time(before), rule=rule))
    finally:
        close_engine(engine)


def _count(connection: Connection, before: int, rule: Rule | None) -> int:
    condition = _is_purged(connection, before, rule)
    number = connection.scalar(select(func.count()).select_from(event_logs).where(condition)) or 0
    if rule is None:
        old = select(func.count()).where(rejects.c.rejected_ms < before)
        number += connection.scalar(old) or 0
    return number
