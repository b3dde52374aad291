"""
Exchanges and queues that somebody deletes, or has made otherwise, under a consumer.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import amqp
import eventlet
import kombu
import pytest
from kombu import Connection
from nameko.testing.utils import get_extension

from nameko_eventlog import EventLogConsumer
from tests.conftest import global_config
from tests.consuming.conftest import Handled, Start, lengths, send
from tests.nameko_version import event_exchange
from tests.rabbitmq import Broker
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parents[2]
QUEUE = "eventlog-log.handle"


def numbered(number: int) -> amqp.Message:
    """
    Make an event log.
    """
    return amqp.Message(
        f'{{"event_type": "paid", "data": {{"number": {number}}}}}',
        content_type="application/json",
        content_encoding="utf-8",
    )


def is_handled(config: dict[str, Any], exchange: str, handled: Handled) -> bool:
    """
    Publish to an exchange; whether the handler was handed anything.
    """
    with Connection(config["AMQP_URI"]) as connection:
        channel = connection.connection.channel()
        try:
            channel.basic_publish(numbered(0), exchange=exchange, routing_key="log_event")
            channel.basic_qos(0, 1, False)  # answered: after what the publish leads to
        except amqp.NotFound:
            return False
    return bool(handled.calls)


def reject(body: Any) -> None:
    """
    Fail for good.
    """
    raise ValueError("no")


class TestPermissions:
    @pytest.mark.parametrize("quorum", [False, True])
    def test_least(
        self,
        broker: Broker,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        caplog: pytest.LogCaptureFixture,
        quorum: bool,
    ) -> None:
        """
        The permissions that the operating guide names for a handler are enough, for dead letters
        and for handling alone as well.
        """
        page = (ROOT / "docs/operating.md").read_text("utf-8")
        found = re.search(
            r"set_permissions -p / bar \\\n *'(.*)' \\\n *'(.*)' \\\n *'(.*)'\n", page
        )
        assert found
        permissions = [
            one.replace(r"bar\.seen", r"log\.handle").replace("foo", "shop")
            for one in found.groups()
        ]
        uri = rabbit_config["AMQP_URI"]
        with broker.user("bar", uri.rpartition("/")[2], *permissions):
            config = {**rabbit_config, "AMQP_URI": uri.replace("guest:guest", "bar:secret")}
            with global_config(config):
                handled.failing = reject
                log = start(config, "shop", max_attempts=1, quorum=quorum)
                send(rabbit_config, numbered(0))
                wait_until(lambda: lengths(rabbit_config) == (0, 1))
                log.stop()

        assert [0] == handled.numbers
        assert "ACCESS_REFUSED" not in caplog.text


class TestDeclarations:
    @pytest.mark.parametrize("services", [(), ("shop",)])
    def test_repeated(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        monkeypatch: pytest.MonkeyPatch,
        services: tuple[str, ...],
    ) -> None:
        """
        An exchange that is deleted under a consumer is declared and bound again.
        """
        monkeypatch.setattr("nameko_eventlog.consuming.subscription.DECLARE_SECONDS", 0.2)
        start(rabbit_config, *services)
        exchange = event_exchange("shop").name if services else "eventlog"
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            connection.default_channel.exchange_delete(exchange)

        wait_until(lambda: is_handled(rabbit_config, exchange, handled), interval=0.1)

    def test_refused(
        self,
        rabbit_config: Any,
        start: Start,
        handled: Handled,
        monkeypatch: pytest.MonkeyPatch,
        caplog: Any,
    ) -> None:
        """
        A declaration that the broker refuses costs the consumer nothing, and is logged once.
        """
        monkeypatch.setattr("nameko_eventlog.consuming.subscription.DECLARE_SECONDS", 0.1)
        log = start(rabbit_config, "shop")
        letters = f"{QUEUE}.dead-letters"
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            connection.default_channel.queue_delete(letters)
            kombu.Queue(letters, queue_arguments={"x-expires": 60_000})(
                connection.default_channel
            ).declare()
        wait_until(lambda: "cannot repeat the declarations of queue" in caplog.text)
        eventlet.sleep(0.5)  # for some more declarations
        send(rabbit_config, numbered(0))
        wait_until(lambda: handled.numbers == [0])

        assert 1 == caplog.text.count("cannot repeat the declarations of queue")
        assert 1 == get_extension(log, EventLogConsumer)._subscription._connections
