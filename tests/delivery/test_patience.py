"""
How long the relay waits for confirms.
"""

from __future__ import annotations

import pytest

from nameko_eventlog.delivery.changes import Changes
from nameko_eventlog.delivery.patience import LONGEST_PATIENCE, Patience
from tests.delivery.conftest import Lines


@pytest.fixture
def patience() -> Patience:
    """
    That of a relay whose ``confirm_timeout`` is 10 s, on a connection that is a second old.
    """
    made = Patience(10, Changes("foo", lambda: "amqp://broker", lambda: 5))
    made.connected(99)
    return made


class TestPatience:
    def test_in_time(self, patience: Patience, said: Lines) -> None:
        """
        As long as confirms arrive in time, nothing is over, and nothing is logged.
        """
        assert not patience.is_over(10, now=100)
        patience.confirmed()

        assert (10, []) == (patience.seconds, said.saying("confirm"))

    def test_over(self, patience: Patience) -> None:
        """
        A message that has waited longer than ``confirm_timeout`` ends the connection.
        """
        assert patience.is_over(10.1, now=100)

    def test_doubled(self, patience: Patience, said: Lines) -> None:
        """
        A broker that needs longer gets twice the time, and one line says which setting to change.
        """
        patience.double()

        assert not patience.is_over(19, now=100)
        patience.confirmed()
        patience.confirmed()
        (line,) = said.saying("EVENTLOG_DISPATCHER.confirm_timeout")
        assert "19.0 s" in line
        assert patience.is_over(20.1, now=101)

    def test_longest(self, patience: Patience) -> None:
        """
        It gets ten minutes at most.
        """
        for _ in range(20):
            patience.double()

        assert LONGEST_PATIENCE == patience.seconds

    def test_longer_setting(self) -> None:
        """
        A ``confirm_timeout`` of more than that stays.
        """
        patience = Patience(1000, Changes("foo", lambda: "amqp://broker", lambda: 5))
        patience.double()

        assert 1000 == patience.seconds

    def test_shorter_again(self, patience: Patience) -> None:
        """
        After confirms in time for ten times as long, it waits for ``confirm_timeout`` again.
        """
        patience.double()
        patience.is_over(15, now=100)

        assert not patience.is_over(1, now=299)
        assert 20 == patience.seconds
        assert not patience.is_over(1, now=301)
        assert 10 == patience.seconds
