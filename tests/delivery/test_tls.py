"""
A broker that speaks TLS, with a certificate of a private authority.
"""

from __future__ import annotations

import gc
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nameko_eventlog import frames
from nameko_eventlog.delivery import BrokerDelivery, wire
from tests.delivery.conftest import Lines, Received, check_sum, hang_up, make_message, settled
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


@pytest.fixture(scope="module")
def tls_broker() -> Iterator[Broker]:
    """
    The broker.
    """
    with Broker(tls=True) as broker:
        yield broker


@pytest.fixture
def tls_uri(tls_broker: Broker) -> str:
    """
    An empty vhost, by TLS.
    """
    vhost = tls_broker.add_vhost()
    return f"amqp://guest:guest@localhost:{tls_broker.tls_port}/{vhost}"


@pytest.fixture
def tls_received(tls_broker: Broker, tls_uri: str) -> Iterator[Received]:
    """
    A durable queue there, read without TLS.
    """
    received = Received(tls_broker.vhost_uri(tls_uri.rpartition("/")[2]))
    yield received
    received.close()


def options(broker: Broker) -> dict[str, Any]:
    """
    What ``AMQP_SSL`` says.
    """
    return {"ca_certs": str(broker.certificates / "ca.pem"), "cert_reqs": ssl.CERT_REQUIRED}


class TestDelivery:
    @pytest.mark.parametrize("quick", [True, False])
    def test_arrives(
        self,
        tls_broker: Broker,
        tls_uri: str,
        tls_received: Received,
        make_delivery: Make,
        monkeypatch: pytest.MonkeyPatch,
        quick: bool,
    ) -> None:
        """
        Event logs of all sizes arrive, over a connection that is lost in between as well.
        """
        monkeypatch.setattr(wire, "works", lambda: quick)
        monkeypatch.setattr(frames, "works", lambda: quick)
        delivery = make_delivery(tls_uri, settings={"ssl": options(tls_broker)})
        for number in range(3000):
            delivery.accept(make_message(number, headers={"a": "x" * (number % 500)}))
        delivery.deliver(make_message(3000))
        hang_up(delivery)
        delivery.deliver(make_message(3001))
        wait_until(settled(delivery))

        assert list(range(3002)) == tls_received.wait_for(3002)
        assert isinstance(delivery._relay._broker.socket, ssl.SSLSocket)
        assert 3002 == check_sum(delivery)["confirmed"]

    def test_frozen(
        self,
        tls_broker: Broker,
        tls_uri: str,
        tls_received: Received,
        make_delivery: Make,
        said: Lines,
    ) -> None:
        """
        A frozen connection is lost like any other, though TLS waits for a goodbye.
        """
        proxy = Proxy(tls_broker.tls_port)
        delivery = make_delivery(
            tls_uri.replace(str(tls_broker.tls_port), str(proxy.port)),
            settings={"ssl": options(tls_broker)},
            confirm_timeout=0.5,
        )
        delivery.deliver(make_message(1))
        proxy.frozen = True
        delivery.accept(make_message(2))
        wait_until(lambda: said.saying("is lost"))
        proxy.frozen = False

        assert [1, 2] == tls_received.wait_for(2)
        wait_until(lambda: said.saying("is back"))
        assert not said.saying("failed and starts again")
        delivery.stop(1)
        proxy.close()

    # eventlet leaves a socket whose handshake has failed to the garbage collector
    @pytest.mark.filterwarnings("ignore:unclosed.*GreenSSLSocket:ResourceWarning")
    def test_unknown_authority(
        self, tls_broker: Broker, tls_uri: str, make_delivery: Make, said: Lines
    ) -> None:
        """
        A certificate of an authority that is not trusted is a lost broker, and says why.
        """
        delivery = make_delivery(tls_uri, settings={"ssl": {"cert_reqs": ssl.CERT_REQUIRED}})
        delivery.accept(make_message(1))
        wait_until(lambda: said.saying("is lost"))

        assert "certificate verify failed" in said.saying("is lost")[0]
        assert 1 == check_sum(delivery)["waiting"]
        delivery.stop(0)
        gc.collect()
