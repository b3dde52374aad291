"""
The test infrastructure itself: services run on either Nameko and either broker.
"""

import eventlet
import pytest
from nameko.events import EventDispatcher, event_handler
from nameko.standalone.events import event_dispatcher
from nameko.testing.services import entrypoint_hook
from nameko.web.handlers import http

from tests.nameko_version import NAMEKO
from tests.waiting import wait_until


received: list[object] = []


class Sender:
    name = "sender"

    dispatch = EventDispatcher()

    @http("GET", "/send/<int:value>")
    def send(self, request, value):
        self.dispatch("sent", {"value": value})
        return "sent"


class Receiver:
    name = "receiver"

    @event_handler("sender", "sent")
    def receive(self, payload):
        received.append(payload)


@pytest.fixture(autouse=True)
def nothing_received():
    received.clear()


class TestRunService:
    @pytest.mark.parametrize("value", [1, 2])
    def test_event_arrives(self, run_service, any_config, value):
        """
        An event goes from one service to another, and no test sees another's.
        """
        run_service(Receiver, any_config)
        sender = run_service(Sender, any_config)

        with entrypoint_hook(sender, "send") as send:
            send(None, value)

        wait_until(lambda: received)
        assert [{"value": value}] == received

    def test_web(self, run_service, memory_config, web_config, web_session):
        """
        Nameko's web_session reaches the service on its free port.
        """
        run_service(Sender, memory_config | web_config)

        assert "sent" == web_session.get("/send/1").text

    def test_standalone(self, run_service, rabbit_config):
        """
        Nameko's standalone parts find the configuration too.
        """
        run_service(Receiver, rabbit_config)
        dispatcher = event_dispatcher(*([rabbit_config] if NAMEKO == 2 else []))

        dispatcher("sender", "sent", 5)

        wait_until(lambda: received)
        assert [5] == received


class TestBroker:
    def test_paused(self, broker, rabbit_config):
        """
        A paused broker answers nothing, and everything once it goes on.
        """
        answers = []
        with broker.paused():
            asking = eventlet.spawn(lambda: answers.append(broker.api("GET", "whoami")))
            eventlet.sleep(0.2)
            assert [] == answers
        asking.wait()
        assert "guest" == answers[0]["name"]

    def test_ctl(self, broker):
        """
        rabbitmqctl talks to the private node, not to the system's.
        """
        assert broker.node in broker.ctl("status", "--formatter", "json")
