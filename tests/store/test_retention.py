"""
Retention: what is too old goes, and a clock that is wrong for a while costs nothing.
"""

from __future__ import annotations

import logging
import random
from datetime import datetime, timedelta, timezone

import pytest

from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.retention import HOLD_SECONDS, Retention
from nameko_eventlog.store.rules import Rule, choose
from nameko_eventlog.store.sql.waiting import wait_in_real_threads
from nameko_eventlog.store.times import now_ms
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body
from tests.store.recomputed import check_summaries
from tests.store.tables import is_clickhouse


DAY_MS = 86_400_000
NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)


class Clocks:
    """
    The clock, which may leap, and the seconds that pass, which do not.
    """

    def __init__(self) -> None:
        self.ms = NOW_MS
        self.seconds = 0.0

    def time(self) -> int:
        return self.ms

    def elapsed(self) -> float:
        return self.seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def write(database: str, message: Make, ages: list[float]) -> None:
    """
    Store an event log for each age, in days.
    """
    writer = EventLogWriter(database, ["json"])
    writer.write(
        [
            message(
                body(timestamp=(NOW - timedelta(days=age)).isoformat(), data={"age": age}),
                message_id=f"{number}",
            )
            for number, age in enumerate(ages)
        ]
    )
    writer.close()


def earliest(database: str, days: float) -> datetime:
    """
    Return from when on event logs are kept for so many days: ClickHouse deletes whole days.
    """
    time = NOW - timedelta(days=days)
    return time.replace(hour=0, minute=0) if is_clickhouse(database) else time


def shown(time: datetime) -> str:
    """
    Return a time as log lines show it.
    """
    return time.isoformat(timespec="milliseconds")


def ages_in(database: str) -> list[float]:
    with EventLogQuery(database) as query:
        return sorted(one["body"]["data"]["age"] for one in query.query()["event_logs"])


def run(retention: Retention) -> int:
    wait_in_real_threads()
    return retention.run(Background(10), lambda: None)


class TestRetention:
    def test_deletes(
        self, database: str, message: Make, clocks: Clocks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        What is older than the days goes, and a line says how much that was.
        """
        write(database, message, [0, 1, 6, 8])
        caplog.set_level(logging.INFO, "nameko_eventlog")

        assert 1 == run(Retention(database, [Rule(7)], clocks.time, clocks.elapsed))
        assert [0, 1, 6] == ages_in(database)
        line = (
            "retention: deleted 1 event logs and rejects from before"
            f" {shown(earliest(database, 7))} (older than 7 days)"
        )
        assert [line] == caplog.messages

    def test_clock_leaps(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        A clock that is a hundred days ahead deletes nothing: age counts from the newest event log.
        """
        write(database, message, [0, 1, 2, 3, 4, 5])
        retention = Retention(database, [Rule(7)], clocks.time, clocks.elapsed)
        clocks.ms += 100 * DAY_MS

        assert 0 == run(retention)
        clocks.ms -= 100 * DAY_MS
        assert 0 == run(retention)
        assert [0, 1, 2, 3, 4, 5] == ages_in(database)

    def test_rejects_alone(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        Without any event log, age counts from the newest reject.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(b"no event log")])
        writer.close()
        clocks.ms = now_ms() + 100 * DAY_MS

        assert 0 == run(Retention(database, [Rule(7)], clocks.time, clocks.elapsed))
        assert 1 == len(Rejects(database).list(10))

    def test_senders_leap_too(
        self, database: str, message: Make, clocks: Clocks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Where the senders' clock leaps as well, most of the event logs look too old: they stay,
        and one line says so, until the clock is right again.
        """
        write(database, message, [-100, 0, 1, 2])
        retention = Retention(database, [Rule(7)], clocks.time, clocks.elapsed)
        clocks.ms += 100 * DAY_MS
        for _ in range(3):
            assert 0 == run(retention)
            clocks.seconds += 60
        clocks.ms -= 100 * DAY_MS
        assert 0 == run(retention)

        assert [-100, 0, 1, 2] == ages_in(database)
        assert 1 == len(caplog.messages)
        assert caplog.messages[0].startswith(
            "retention: 3 event logs, more than half of all, are from before"
        )

    def test_most_after_a_day(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        What is still too old after a day goes, even if it is most of the table.
        """
        write(database, message, [0, 8, 9, 10])
        retention = Retention(database, [Rule(7)], clocks.time, clocks.elapsed)

        assert 0 == run(retention)
        clocks.seconds += HOLD_SECONDS
        assert 3 == run(retention)
        assert [0] == ages_in(database)

    def test_hold_begins_anew(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        The day begins anew when the clock was right in between.
        """
        write(database, message, [-100, 0, 1, 2])
        retention = Retention(database, [Rule(7)], clocks.time, clocks.elapsed)
        for leap in (100, 0, 100):
            clocks.ms = NOW_MS + leap * DAY_MS
            assert 0 == run(retention)
            clocks.seconds += 0.6 * HOLD_SECONDS

        assert [-100, 0, 1, 2] == ages_in(database)

    def test_empty(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        Without event logs there is nothing to delete, and nothing to hold.
        """
        write(database, message, [])

        assert 0 == run(Retention(database, [Rule(7)], clocks.time, clocks.elapsed))

    def test_clock_leaps_by_rule(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        A day after the newest event log is the latest time that counts, for each rule.
        """
        write(database, message, [0, 1, 2, 5])
        clocks.ms += 100 * DAY_MS
        run(
            Retention(
                database, [Rule(3, service=("shop",)), Rule(50)], clocks.time, clocks.elapsed
            )
        )

        assert [0, 1, 2] == ages_in(database)
        check_summaries(database)


LOGGED = [
    {"service_name": service, "event_type": event_type, "level": level}
    for service in ("shop", "audit")
    for event_type in ("entrypoint_fired", "paid")
    for level in ("debug", "error", None)
]
"""Names of event logs: one of each."""


def write_all(database: str, message: Make, *ages: float) -> None:
    """
    Store each of `LOGGED` at some ages, in days, in calls that they share.
    """
    writer = EventLogWriter(database, ["json"])
    for age in ages:
        writer.write(
            [
                message(
                    body(
                        **names,
                        timestamp=(NOW - timedelta(days=age)).isoformat(),
                        call_id=f"a.b.{age}-{number % 4}",
                        call_stack=[f"a.b.{age}-{number % 4}"],
                        data={"age": age, "number": number},
                        duration=number / 10,
                    ),
                    message_id=f"{age}-{number}",
                )
                for number, names in enumerate(LOGGED)
            ]
        )
    writer.close()


def kept(database: str, age: float) -> list[int]:
    """
    Return the numbers of the event logs of an age.
    """
    with EventLogQuery(database) as query:
        data = [one["body"]["data"] for one in query.query(limit=1000)["event_logs"]]
    return sorted(one["number"] for one in data if one["age"] == age)


EVERY = list(range(len(LOGGED)))
ERRORS = [at for at, names in enumerate(LOGGED) if names["level"] == "error"]
AUDIT = [at for at, names in enumerate(LOGGED) if names["service_name"] == "audit"]
CAPTURED = [at for at, names in enumerate(LOGGED) if names["event_type"] == "entrypoint_fired"]


def without(*others: list[int]) -> list[int]:
    return sorted(set(EVERY).difference(*others))


class TestRules:
    @pytest.mark.parametrize(
        ("rules", "left"),
        [
            ([Rule(5)], []),
            ([Rule(None)], EVERY),
            ([Rule(5, level=("error",))], without(ERRORS)),
            ([Rule(5, service=("audit",))], without(AUDIT)),
            ([Rule(5, event_type=("entrypoint_*",))], without(CAPTURED)),
            ([Rule(None, service=("audit",)), Rule(5)], AUDIT),
            ([Rule(20, service=("audit",)), Rule(5)], AUDIT),
            ([Rule(7, service=("audit",)), Rule(5)], []),
            ([Rule(5, level=("error",)), Rule(None, service=("audit",))], without(ERRORS)),
            (
                [
                    Rule(3, event_type=("entrypoint_*",)),
                    Rule(365, level=("error+",)),
                    Rule(None, service=("audit",)),
                    Rule(5),
                ],
                sorted(set(ERRORS + AUDIT) - set(CAPTURED)),
            ),
        ],
    )
    def test_deletes(
        self, database: str, message: Make, clocks: Clocks, rules: list[Rule], left: list[int]
    ) -> None:
        """
        The first rule that selects an event log decides; without one it stays.
        """
        write_all(database, message, 0, 1, 2, 10)
        number = len(EVERY) - len(left)

        assert number == run(Retention(database, rules, clocks.time, clocks.elapsed))
        assert left == kept(database, 10)
        assert [EVERY] * 3 == [kept(database, age) for age in (0, 1, 2)]
        check_summaries(database)

    def test_log(
        self, database: str, message: Make, clocks: Clocks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        What each rule has taken is logged, and a new series is what its rule says at once.
        """
        write_all(database, message, 0, 1, 2, 10)
        caplog.set_level(logging.INFO, "nameko_eventlog")
        rules = [Rule(5, level=("error",)), Rule(None, service=("audit",)), Rule(7.5)]
        retention = Retention(database, rules, clocks.time, clocks.elapsed)

        assert 8 == run(retention)
        assert [
            (
                f"retention: deleted 4 event logs from before {shown(earliest(database, 5))}"
                " (older than 5 days, level error)"
            ),
            (
                "retention: deleted 4 event logs and rejects from before"
                f" {shown(earliest(database, 7.5))} (older than 7.5 days)"
            ),
        ] == caplog.messages
        assert 8 == retention.purged

    def test_rejects(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        The rule without filters decides about rejects.
        """
        writer = EventLogWriter(database, ["json"])
        writer.write([message(b"no event log")])
        writer.close()
        clocks.ms += 400 * DAY_MS

        for rules in ([Rule(0.5, service=("shop",))], [Rule(None)], [Rule(2)]):
            assert 0 == run(Retention(database, rules, clocks.time, clocks.elapsed))
        assert 1 == run(Retention(database, [Rule(0.5)], clocks.time, clocks.elapsed))

    def test_most(
        self, database: str, message: Make, clocks: Clocks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        More than half of all waits for a day, by whichever rules, and the line names them.
        """
        write_all(database, message, 0, 8, 9, 10, 11)
        rules = [Rule(5, level=("error",)), Rule(7, service=("shop",))]
        retention = Retention(database, rules, clocks.time, clocks.elapsed)

        assert 0 == run(retention)
        assert caplog.messages[0].startswith(
            "retention: 32 event logs, more than half of all, are from before"
            f" {shown(earliest(database, 5))} (older than 5 days, level error) or from before"
            f" {shown(earliest(database, 7))} (older than 7 days, service shop); deleting them in"
            " a day"
        )
        clocks.seconds += HOLD_SECONDS
        assert 32 == run(retention)
        check_summaries(database)

    @pytest.mark.parametrize("seed", range(4))
    def test_random(
        self,
        database: str,
        message: Make,
        clocks: Clocks,
        seed: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        What is left is what the rules say, step by step with right summaries, while others write.
        """
        chance = random.Random(seed)
        monkeypatch.setattr("nameko_eventlog.store.sql.purging.STEP", 7)
        ages = sorted({chance.randrange(120) / 10 for _ in range(8)} | {0})
        write_all(database, message, *ages)
        rules = [
            *(
                Rule(
                    chance.choice([None, 2, 3.5, 5, 11]),
                    service=chance.choice([(), ("shop",)]),
                    event_type=chance.choice([(), ("entr*",)]),
                    level=chance.choice([("error",), ("info+",), ("debug", "error")]),
                )
                for _ in range(3)
            ),
            Rule(chance.choice([None, 4, 9])),
        ]
        first = choose(rules)

        def are_kept(age: float) -> list[int]:
            found = []
            for number, names in enumerate(LOGGED):
                rule = first(*names.values())
                days = None if rule is None else rules[rule].days
                time = NOW - timedelta(days=age)
                found += [number] if days is None or time >= earliest(database, days) else []
            return found

        late = iter([(number, 11.5) for number in range(3)])

        def rest() -> None:
            check_summaries(database)
            if chance.random() < 0.2 and next(late, None):
                write_all(database, message, 11.5)

        wait_in_real_threads()
        retention = Retention(database, rules, clocks.time, clocks.elapsed)
        retention.run(Background(10), rest)
        clocks.seconds += HOLD_SECONDS
        retention.run(Background(10), rest)
        retention.run(Background(10), lambda: None)

        assert [(age, are_kept(age)) for age in ages] == [
            (age, kept(database, age)) for age in ages
        ]
        check_summaries(database)
