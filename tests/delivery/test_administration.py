"""
What an operator does to a broker while a service publishes.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Iterator
from time import monotonic

import eventlet
import pytest

from nameko_eventlog.delivery import BrokerDelivery
from tests.delivery.conftest import Lines, Received, check_sum, make_message, settled
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


class Load:
    """
    Accept event logs all the time.

    Args:
        delivery: What takes them.
        pause: Seconds between ten of them.
    """

    def __init__(self, delivery: BrokerDelivery, pause: float = 0.002) -> None:
        self._delivery = delivery
        self._pause = pause
        self.count = 0
        self._is_over = False
        self._thread = eventlet.spawn(self._run)

    def _run(self) -> None:
        while not self._is_over:
            for _ in range(10):
                self._delivery.accept(make_message(self.count))
                self.count += 1
            eventlet.sleep(self._pause)

    def stop(self) -> list[int]:
        """
        End it, and return what was accepted.

        It is asked, not killed: one that is accepted gives others a turn before it is counted.
        """
        self._is_over = True
        self._thread.wait()
        return list(range(self.count))


def vhost_of(uri: str) -> str:
    """
    Return the name of a uri's vhost.
    """
    return urllib.parse.urlsplit(uri).path[1:]


@pytest.fixture
def user(broker: Broker, uri: str) -> Iterator[Callable[[str], None]]:
    """
    Make a user ``bar`` with a password, or change it.
    """

    def put(password: str) -> None:
        broker.api("PUT", "users/bar", {"password": password, "tags": ""})
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        broker.api("PUT", f"permissions/{vhost_of(uri)}/bar", everything)

    yield put
    broker.api("DELETE", "users/bar")


class TestVhost:
    def test_deleted_and_made_again(
        self,
        broker: Broker,
        uri: str,
        user: Callable[[str], None],
        make_delivery: Make,
        said: Lines,
    ) -> None:
        """
        Event logs wait for a vhost that was deleted, and go on when it is there again.
        """
        user("secret")
        delivery = make_delivery(uri.replace("guest:guest", "bar:secret"), unroutable="ignore")
        load = Load(delivery)
        wait_until(lambda: delivery.stats()["confirmed"] > 100)
        broker.api("DELETE", f"vhosts/{vhost_of(uri)}")
        wait_until(lambda: said.saying("connection to broker"))
        at_loss = load.count
        wait_until(lambda: load.count > at_loss + 2_000)  # for long enough to be refused once
        broker.api("PUT", f"vhosts/{vhost_of(uri)}")
        received = Received(uri)  # as guest: the other is let in when there is a queue
        user("secret")
        load.stop()
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (load.count, 0) == (stats["confirmed"], stats["undelivered"])
        arrived = received.wait_for(load.count - at_loss)
        assert set(range(at_loss, load.count)) <= set(arrived)
        received.close()


class TestConnections:
    def test_closed_in_a_loop(
        self, broker: Broker, uri: str, make_delivery: Make, said: Lines
    ) -> None:
        """
        An operator who closes all connections, again and again, loses nothing.
        """
        received = Received(uri)
        delivery = make_delivery(uri)
        load = Load(delivery)
        for _ in range(3):
            confirmed, before = (
                delivery.stats()["confirmed"],
                len(said.saying("connection to broker")),
            )
            wait_until(lambda known=confirmed: delivery.stats()["confirmed"] > known)
            broker.ctl("close_all_connections", "--vhost", vhost_of(uri), "the operator says so")
            wait_until(lambda before=before: len(said.saying("connection to broker")) > before)
        load.stop()
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (load.count, 0) == (stats["confirmed"], stats["undelivered"])
        assert stats["reconnects"] >= 3
        received.connection.collect()  # it was closed as well
        again = Received(uri)
        assert set(range(load.count)) == set(again.wait_for(load.count))
        again.close()

    def test_no_more_allowed(
        self, broker: Broker, uri: str, make_delivery: Make, said: Lines
    ) -> None:
        """
        Where no more connections are allowed event logs wait until they are.
        """
        vhost = vhost_of(uri)
        broker.api("PUT", f"vhost-limits/{vhost}/max-connections", {"value": 0})
        delivery = make_delivery(uri)
        for number in range(10):
            delivery.accept(make_message(number))
        wait_until(lambda: said.saying("connection to broker"))
        eventlet.sleep(0.5)
        assert 10 == check_sum(delivery)["waiting"]
        broker.api("DELETE", f"vhost-limits/{vhost}/max-connections")
        wait_until(settled(delivery))

        assert 10 == check_sum(delivery)["confirmed"]
        assert 1 == len(said.saying("connection to broker"))

    def test_password_changed(
        self,
        broker: Broker,
        uri: str,
        received: Received,
        make_delivery: Make,
        user: Callable[[str], None],
        said: Lines,
    ) -> None:
        """
        A password that was changed keeps event logs waiting until it fits again.
        """
        user("old")
        delivery = make_delivery(uri.replace("guest:guest", "bar:old"))
        delivery.deliver(make_message(0))
        user("new")
        broker.api("DELETE", "connections/username/bar")
        wait_until(lambda: said.saying("connection to broker"))
        delivery.accept(make_message(1))
        eventlet.sleep(0.5)
        assert 1 == check_sum(delivery)["waiting"]
        user("old")

        assert [0, 1] == received.wait_for(2)
        assert not [line for line in said.texts if "old" in line or "new" in line]


class TestQueues:
    def test_deleted_while_publishing(
        self, broker: Broker, uri: str, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        A queue that is deleted under load, and bound again, costs no connection.
        """
        delivery = make_delivery(uri)
        load = Load(delivery)
        wait_until(lambda: delivery.stats()["confirmed"] > 100)
        broker.api("DELETE", f"queues/{vhost_of(uri)}/q")
        wait_until(lambda: said.saying("no queue receives"))
        again = Received(uri)
        wait_until(lambda: said.saying("a queue receives event logs again"))
        load.stop()
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (load.count, 0) == (stats["confirmed"], stats["reconnects"])
        again.close()

    def test_drop_head(self, uri: str, make_delivery: Make) -> None:
        """
        A queue that drops its oldest takes all: each is confirmed, and the last are there.
        """
        received = Received(uri, {"x-max-length": 10})
        delivery = make_delivery(uri)
        for number in range(500):
            delivery.accept(make_message(number))
        wait_until(settled(delivery))

        assert 500 == check_sum(delivery)["confirmed"]
        assert list(range(490, 500)) == received.wait_for(10)
        received.close()


@pytest.fixture
def alarm(broker: Broker, uri: str) -> Iterator[Callable[[bool], None]]:
    """
    Raise a disk alarm, or end it.
    """

    def change(on: bool) -> None:
        broker.ctl("set_disk_free_limit", "1000000GB" if on else "10MB")

    yield change
    change(False)


class TestDiskAlarm:
    def test_before_the_start(
        self,
        uri: str,
        received: Received,
        make_delivery: Make,
        said: Lines,
        alarm: Callable[[bool], None],
    ) -> None:
        """
        An alarm that is there before the first connection is one like any other.
        """
        alarm(True)
        delivery = make_delivery(uri, confirm_timeout=1)
        for number in range(100):
            delivery.accept(make_message(number))
        wait_until(lambda: said.saying("publishing blocked by an alarm"))
        wait_until(lambda: delivery.stats()["blocked_seconds"] >= 2)  # twice the confirm_timeout
        stats = check_sum(delivery)
        assert (100, 0, 0) == (stats["waiting"], stats["reconnects"], stats["republished"])
        alarm(False)

        assert list(range(100)) == received.wait_for(100)
        wait_until(settled(delivery))
        assert 0 == check_sum(delivery)["republished"]

    def test_lost_meanwhile(
        self,
        proxied: str,
        proxy: Proxy,
        received: Received,
        make_delivery: Make,
        said: Lines,
        alarm: Callable[[bool], None],
    ) -> None:
        """
        A broker that is lost in an alarm is lost, not blocking: that clock stands.
        """
        delivery = make_delivery(proxied)
        delivery.deliver(make_message(0))
        alarm(True)
        delivery.accept(make_message(1))
        wait_until(lambda: said.saying("publishing blocked by an alarm"))
        proxy.refusing = True
        proxy.cut()
        wait_until(lambda: said.saying("connection to broker"))
        blocked = delivery._relay.blocked_seconds
        eventlet.sleep(0.1)
        assert blocked == delivery._relay.blocked_seconds
        alarm(False)
        proxy.refusing = False

        assert [0, 1] == received.wait_for(2)

    def test_while_stopping(
        self,
        uri: str,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
        said: Lines,
        alarm: Callable[[bool], None],
    ) -> None:
        """
        A stop while there is an alarm ends in time; what is left is undelivered by name.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        alarm(True)
        for number in range(1, 1501):
            delivery.accept(make_message(number))
        wait_until(lambda: said.saying("publishing blocked by an alarm"))
        began = monotonic()
        delivery.stop(1)
        assert monotonic() - began < 20  # a second, and the time for 1,500 lines

        stats = check_sum(delivery)
        assert (1, 1500) == (stats["confirmed"], stats["undelivered"])
        assert 1500 == len(undelivered)


class TestFrozen:
    def test_broker(self, broker: Broker, uri: str, make_delivery: Make, said: Lines) -> None:
        """
        A broker that is stopped for longer than the heartbeat gets everything afterwards.
        """
        received = Received(uri)
        delivery = make_delivery(uri, settings={"heartbeat": 1}, confirm_timeout=60)
        load = Load(delivery)
        wait_until(lambda: delivery.stats()["confirmed"] > 100)
        with broker.paused():
            wait_until(lambda: said.saying("connection to broker"))  # two heartbeats are missing
        load.stop()
        wait_until(settled(delivery), 60)

        stats = check_sum(delivery)
        assert (load.count, 0) == (stats["confirmed"], stats["undelivered"])
        again = Received(uri)
        assert set(range(load.count)) == set(again.wait_for(load.count, 30))
        again.close()
        received.connection.collect()
