"""
Retention: what is too old goes, and a clock that is wrong for a while costs nothing.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone

import pytest

from nameko_eventlog.store import EventLogQuery
from nameko_eventlog.store.background import Background
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.retention import HOLD_SECONDS, Retention
from nameko_eventlog.store.times import now_ms
from nameko_eventlog.store.waiting import wait_in_real_threads
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import Make, body


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

        assert 1 == run(Retention(database, 7, clocks.time, clocks.elapsed))
        assert [0, 1, 6] == ages_in(database)
        line = (
            "retention: deleted 1 event logs and rejects from before 2026-02-22T12:00:00.000+00:00"
            " (older than 7 days)"
        )
        assert [line] == caplog.messages

    def test_clock_leaps(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        A clock that is a hundred days ahead deletes nothing: age counts from the newest event log.
        """
        write(database, message, [0, 1, 2, 3, 4, 5])
        retention = Retention(database, 7, clocks.time, clocks.elapsed)
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

        assert 0 == run(Retention(database, 7, clocks.time, clocks.elapsed))
        assert 1 == len(Rejects(database).list(10))

    def test_senders_leap_too(
        self, database: str, message: Make, clocks: Clocks, caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Where the senders' clock leaps as well, most of the event logs look too old: they stay,
        and one line says so, until the clock is right again.
        """
        write(database, message, [-100, 0, 1, 2])
        retention = Retention(database, 7, clocks.time, clocks.elapsed)
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
        retention = Retention(database, 7, clocks.time, clocks.elapsed)

        assert 0 == run(retention)
        clocks.seconds += HOLD_SECONDS
        assert 3 == run(retention)
        assert [0] == ages_in(database)

    def test_hold_begins_anew(self, database: str, message: Make, clocks: Clocks) -> None:
        """
        The day begins anew when the clock was right in between.
        """
        write(database, message, [-100, 0, 1, 2])
        retention = Retention(database, 7, clocks.time, clocks.elapsed)
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

        assert 0 == run(Retention(database, 7, clocks.time, clocks.elapsed))
