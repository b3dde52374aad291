"""
Whether a queue receives the event logs.
"""

from __future__ import annotations

import pytest

from nameko_eventlog.delivery.changes import Changes
from nameko_eventlog.delivery.unroutable import Unroutable
from tests.delivery.conftest import Lines, make_message


@pytest.fixture
def changes() -> Changes:
    """
    What the relay of ``foo`` logs.
    """
    return Changes("foo", lambda: "amqp://broker", lambda: 5)


class TestProbe:
    def test_once_a_second(self, changes: Changes) -> None:
        """
        One message in a second is the probe, and none while it is in flight.
        """
        unroutable = Unroutable("warn", changes)
        assert unroutable.wants_probe(100)
        unroutable.probe, unroutable.probed_at = 7, 100
        assert not unroutable.wants_probe(102)
        unroutable.confirmed(7, multiple=False)

        assert not unroutable.wants_probe(100.5)
        assert unroutable.wants_probe(101)

    @pytest.mark.parametrize("mode", ["ignore", "hold"])
    def test_none(self, changes: Changes, mode: str) -> None:
        """
        Otherwise there is no probe.
        """
        assert not Unroutable(mode, changes).wants_probe(100)

    @pytest.mark.parametrize(("tag", "multiple"), [(7, False), (7, True), (9, True)])
    def test_returned(self, changes: Changes, said: Lines, tag: int, multiple: bool) -> None:
        """
        A probe that is returned and confirmed is a change, which is logged.
        """
        unroutable = Unroutable("warn", changes)
        unroutable.probe = 7
        unroutable.returned("any")

        assert unroutable.confirmed(tag, multiple)
        assert 1 == len(said.saying("no queue receives event logs"))
        assert not unroutable.is_held

    @pytest.mark.parametrize(("tag", "multiple"), [(6, True), (8, False)])
    def test_another(self, changes: Changes, said: Lines, tag: int, multiple: bool) -> None:
        """
        The confirm of another message says nothing about the probe.
        """
        unroutable = Unroutable("warn", changes)
        unroutable.probe = 7
        unroutable.returned("any")

        assert not unroutable.confirmed(tag, multiple)
        assert [] == said.saying("no queue")

    def test_new_connection(self, changes: Changes, said: Lines) -> None:
        """
        What was returned over a connection that is gone says nothing about the next one.
        """
        unroutable = Unroutable("warn", changes)
        unroutable.probe = 7
        unroutable.returned("any")
        unroutable.connected()

        assert not unroutable.confirmed(7, multiple=False)
        assert [] == said.saying("no queue")


class TestHold:
    def test_split(self, changes: Changes, said: Lines) -> None:
        """
        Returned messages are told from those that a queue has received, until they are sent again.
        """
        unroutable = Unroutable("hold", changes)
        first, second = (make_message(number, message_id=str(number)) for number in range(2))
        unroutable.returned("1")

        assert ([first], [second]) == unroutable.split([first, second])
        assert unroutable.is_held
        assert 1 == len(said.saying("they wait until a queue is bound"))
        unroutable.forget([second])
        assert ([first, second], []) == unroutable.split([first, second])
        assert not unroutable.is_held
        assert 1 == len(said.saying("a queue receives event logs again"))
