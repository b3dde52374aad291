"""
What is to be seen of a delivery from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nameko_eventlog import process_stats
from nameko_eventlog.delivery import BrokerDelivery, broker_delivery
from tests.delivery.conftest import Lines, check_sum, hang_up, make_message, settled
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


class TestStats:
    def test_oldest(self, nowhere: str, make_delivery: Make) -> None:
        """
        The age of what has waited longest, wherever it waits.
        """
        delivery = make_delivery(nowhere)
        assert 0 == delivery.stats()["oldest_seconds"]
        delivery.accept(make_message(1, timestamp=1.0))
        delivery.accept(make_message(2))

        assert delivery.stats()["oldest_seconds"] > 1_700_000_000

    def test_oldest_in_flight(self, uri: str, make_delivery: Make, broker: Broker) -> None:
        """
        Sent and unconfirmed, it still waits; confirmed it does not.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        with broker.paused():
            delivery.accept(make_message(1, timestamp=1.0))
            wait_until(lambda: delivery._relay._in_flight.sent)
            assert delivery.stats()["oldest_seconds"] > 1_700_000_000
        wait_until(settled(delivery))

        assert 0 == delivery.stats()["oldest_seconds"]

    def test_reconnects(self, uri: str, make_delivery: Make) -> None:
        """
        Connections after the first are counted.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(1))
        assert 0 == delivery.stats()["reconnects"]
        hang_up(delivery)
        delivery.deliver(make_message(2))

        assert 1 == delivery.stats()["reconnects"]

    def test_blocked(self, uri: str, make_delivery: Make, broker: Broker) -> None:
        """
        So are the seconds of an alarm.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(1))
        broker.ctl("set_vm_memory_high_watermark", "0.00001")
        try:
            delivery.accept(make_message(2))
            wait_until(lambda: delivery.stats()["blocked_seconds"] >= 1)
        finally:
            broker.ctl("set_vm_memory_high_watermark", "0.4")
        wait_until(settled(delivery))
        before = check_sum(delivery)["blocked_seconds"]

        assert before >= 1
        assert delivery._relay._target.blocked_since is None


class TestProcess:
    def test_by_service(self, uri: str, nowhere: str, make_delivery: Make) -> None:
        """
        The counts of each service of the process, those of its instances added up.
        """
        make_delivery(uri).deliver(make_message(1))
        make_delivery(nowhere).accept(make_message(2))
        make_delivery(uri, route={"service": "bar"}).deliver(make_message(3))
        stopped = make_delivery(uri, route={"service": "gone"})
        stopped.stop(0)

        found = process_stats()
        assert {"foo", "bar"} == found.keys()
        assert (2, 1, 1) == tuple(
            found["foo"][name] for name in ("accepted", "confirmed", "waiting")
        )
        assert (1, 1) == (found["bar"]["accepted"], found["bar"]["confirmed"])


class TestSummary:
    def test_while_something_waits(
        self,
        nowhere: str,
        uri: str,
        make_delivery: Make,
        said: Lines,
        monkeypatch: Any,
    ) -> None:
        """
        The counts are logged at intervals while event logs wait, and not otherwise.
        """
        monkeypatch.setattr(broker_delivery, "SUMMARY_SECONDS", 0.05)
        make_delivery(uri, route={"service": "bar"}).deliver(make_message(1))
        make_delivery(nowhere).accept(make_message(2))
        wait_until(lambda: len(said.saying("event logs of foo: 1 accepted")) > 2)

        # it may have waited for a moment, for the confirm
        assert [] == [line for line in said.saying("event logs of bar: 1") if " 0 waiting" in line]
