"""
Deleting old event logs from SQLite and PostgreSQL, in steps short enough for other writers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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

from nameko_eventlog.store.expiry import Expiry, Plan
from nameko_eventlog.store.rules import Rule
from nameko_eventlog.store.sql.deleting import delete_first, delete_unused
from nameko_eventlog.store.sql.dropping import correct_summaries, drop_days
from nameko_eventlog.store.sql.engines import (
    check_exists,
    close_engine,
    database_errors,
    open_engine,
)
from nameko_eventlog.store.sql.expiry import Phase, make_phase, make_plan, read_expiry
from nameko_eventlog.store.sql.partitions import DAY_MS, InUse
from nameko_eventlog.store.sql.schema import event_logs, rejects
from nameko_eventlog.store.sql.shrinking import shrink_days
from nameko_eventlog.store.sql.statements import between


T = TypeVar("T")

STEP = 1000
"""How many rows a transaction deletes, at most."""


class SqlPurger:
    """
    Implements `backends.Purger`.

    Args:
        uri: The database's address.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._engine = open_engine(uri)

    def plan(self, rules: Sequence[Rule], now: int) -> Plan:
        """
        Find out what is too old.
        """
        return _plan(self._engine, rules, now)

    def correct(self) -> Iterator[Counter[int]]:
        """
        Correct the summaries of days that were dropped.
        """
        return _correct(self._uri)

    def delete(self, expiry: Expiry) -> Iterator[Counter[int]]:
        """
        Delete what is too old.
        """
        return _delete(self._uri, expiry)

    def purge(self, before: int, rule: Rule | None, step: int | None) -> Iterator[int]:
        """
        Delete what is from before a time.
        """
        return _purge(open_engine(self._uri, writes=True), before, rule, step or STEP)

    def count_before(self, before: int, rule: Rule | None) -> int:
        """
        Count what `purge` would delete.
        """
        check_exists(self._engine.url)
        return _transaction(self._engine, partial(_count, before=before, rule=rule))

    def close(self) -> None:
        """
        Close the connection.
        """
        close_engine(self._engine)


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
    return and_(_is_of(list(read_expiry(connection, [rule], before).rule_of)), is_old)


def _count(connection: Connection, before: int, rule: Rule | None) -> int:
    condition = _is_purged(connection, before, rule)
    number = connection.scalar(select(func.count()).select_from(event_logs).where(condition)) or 0
    if rule is None:
        old = select(func.count()).where(rejects.c.rejected_ms < before)
        number += connection.scalar(old) or 0
    return number
