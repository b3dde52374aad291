"""
``nameko_eventlog.testing``, used as a service's own tests would.
"""

import contextlib
import logging
import subprocess
import sys
from datetime import datetime, timezone

import pytest
import structlog
from nameko.exceptions import ConfigurationError
from nameko.rpc import rpc
from nameko.testing.services import entrypoint_hook, worker_factory

from logging_ext import EventLogHandler, EventLogProcessor, current_sink
from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.testing import capture_event_logs, event_logs
from tests.conftest import global_config
from tests.nameko_version import NAMEKO
from tests.waiting import wait_until


__all__ = ["event_logs"]  # the fixture

CONTEXT = (
    "service_name",
    "entrypoint_protocol",
    "entrypoint_name",
    "call_id",
    "call_stack",
)

logger = logging.getLogger("shop")


class Shop:
    name = "shop"

    eventlog = EventLogDispatcher()

    @rpc
    def pay(self, order):
        logger.info("order_received", extra={"order": order})
        self.eventlog("order_paid", {"order": order}, metadata={"tenant": "acme"})
        return order

    @rpc
    def counts(self):
        self.eventlog("counted")
        return self.eventlog.stats()

    @rpc
    def sign_in(self, password):
        self.eventlog("signed_in", {"password": password})


@pytest.fixture
def start(memory_config, container_factory):
    """
    Start a service, with what is given in its configuration, and stop it after the test.
    """
    patches, containers = [], []

    def start(service=Shop, **config):
        config = memory_config | config
        patch = global_config(config)
        patch.__enter__()
        patches.append(patch)
        # Nameko 3: the factory would undo its own patch later than we undo ours
        container = container_factory(service, *((config,) if NAMEKO == 2 else ()))
        container.start()
        containers.append(container)
        return container

    yield start

    for container in reversed(containers):
        container.stop()
    for patch in reversed(patches):
        patch.__exit__(None, None, None)


@pytest.fixture
def handler():
    """
    The handler, on the service's logger, as the service's own configuration would put it.
    """
    handler = EventLogHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    return handler


def call(container, method, *args):
    """
    Fire an entrypoint and return its result.
    """
    with entrypoint_hook(container, method) as entrypoint:
        return entrypoint(*args)


class TestWorkerFactory:
    def test_manual(self):
        """
        ``dispatch`` stands for the injected dispatcher of a service made by ``worker_factory``.
        """
        with capture_event_logs() as bodies:
            shop = worker_factory(Shop, eventlog=bodies.dispatch)
            shop.pay(7)

        (paid,) = bodies
        assert ("order_paid", {"order": 7}, "acme") == (
            paid["event_type"],
            paid["data"],
            paid["tenant"],
        )

    def test_loggers(self):
        """
        Loggers that are named get a handler for the block.
        """
        with capture_event_logs("shop") as bodies:
            worker_factory(Shop, eventlog=bodies.dispatch).pay(7)

        assert ["order_received", "order_paid"] == [body["event_type"] for body in bodies]
        assert {"order": 7} == bodies[0]["data"]

    def test_structlog(self):
        """
        structlog's event dicts are captured where the test has configured the processor.
        """
        structlog.configure(
            processors=[EventLogProcessor(), structlog.processors.JSONRenderer()],
            logger_factory=structlog.ReturnLoggerFactory(),
        )
        with capture_event_logs() as bodies:
            structlog.get_logger().info("paid", amount=5)

        assert [("paid", {"amount": 5})] == [(one["event_type"], one["data"]) for one in bodies]

    def test_no_context(self):
        """
        Outside a worker the context attributes are there, and null.
        """
        with capture_event_logs() as bodies:
            bodies.dispatch("seen")

        assert (None, None, None, None, []) == tuple(bodies[0][name] for name in CONTEXT)

    def test_validation(self):
        """
        ``dispatch`` raises what the injected dispatcher raises, and captures nothing.
        """
        with capture_event_logs() as bodies:
            with pytest.raises(TypeError, match="event_data must be a mapping"):
                bodies.dispatch("seen", ["no mapping"])

        assert [] == bodies

    def test_stats(self):
        """
        ``dispatch`` counts.
        """
        with capture_event_logs() as bodies:
            bodies.dispatch("seen")
            counts = bodies.dispatch.stats()

        assert {
            "accepted": 1,
            "confirmed": 1,
            "waiting": 0,
            "undelivered": 0,
            "republished": 0,
            "not_forwarded": 0,
            "oldest_seconds": 0,
            "reconnects": 0,
            "blocked_seconds": 0,
            "unpersisted_count": 0,
            "stalled_seconds": 0,
            "refused": 0,
        } == counts

    def test_as_consumers_get_it(self):
        """
        Bodies have been serialised and decoded: later changes do not show, values are as decoded.
        """
        moment = datetime(2026, 3, 1, tzinfo=timezone.utc)
        given = {"items": [1], "pair": (1, 2), "at": moment}
        with capture_event_logs() as bodies:
            bodies.dispatch("seen", given)
            given["items"].append(2)

        assert {"items": [1], "pair": [1, 2], "at": moment} == bodies[0]["data"]


class TestContainers:
    def test_context(self, event_logs, start, handler):
        """
        A container that starts in the block dispatches into the list, with its worker's context.
        """
        result = call(start(), "pay", 7)

        received, paid = event_logs
        assert 7 == result
        assert ("order_received", "order_paid") == (received["event_type"], paid["event_type"])
        assert ("shop", "Rpc", "pay") == tuple(received[name] for name in CONTEXT[:3])
        assert received["call_id"] == paid["call_id"] == paid["call_stack"][-1]

    def test_each_call(self, event_logs, start, handler):
        """
        Each call has a context of its own.
        """
        container = start()
        for order in (1, 2):
            call(container, "pay", order)

        assert 4 == len(event_logs)
        assert 2 == len({body["call_id"] for body in event_logs})

    def test_configuration(self, event_logs, start):
        """
        The service's configuration is in force: redaction and auto capture.
        """
        container = start(EVENTLOG_DISPATCHER={"redact": ["password"], "auto_capture": True})
        call(container, "sign_in", "secret")

        assert [("entrypoint_fired", {}), ("signed_in", {"password": "[redacted]"})] == [
            (body["event_type"], body["data"]) for body in event_logs
        ]

    def test_wrong_configuration(self, event_logs, start):
        """
        A wrong configuration stops the service, as it would in production.
        """
        with pytest.raises(ConfigurationError, match="auto_capture"):
            start(EVENTLOG_DISPATCHER={"autocapture": True})

    def test_no_broker(self, event_logs, start, handler):
        """
        Event logs need no broker: nothing is sent to the one that is configured for them.
        """
        container = start(EVENTLOG_DISPATCHER={"uri": "amqp://127.0.0.1:1//"})

        call(container, "pay", 7)

        assert 2 == len(event_logs)

    def test_stats(self, event_logs, start):
        """
        The injected dispatcher counts what was captured.
        """
        counts = call(start(), "counts")

        assert (1, 1, 0) == (counts["accepted"], counts["confirmed"], counts["waiting"])

    def test_two_services(self, event_logs, start, handler):
        """
        All services of the test dispatch into one list, each with its own name.
        """

        class Kiosk(Shop):
            name = "kiosk"

        call(start(), "pay", 1)
        call(start(Kiosk), "pay", 2)

        assert ["shop", "shop", "kiosk", "kiosk"] == [body["service_name"] for body in event_logs]


class TestBlock:
    def test_ends(self, start, handler):
        """
        After the block nothing is captured, and a new container delivers to its broker again.
        """
        with capture_event_logs("shop") as bodies:
            bodies.dispatch("seen")
        container = start()
        call(container, "pay", 7)
        call(container, "counts")

        def confirmed():
            return call(container, "counts")["confirmed"] >= 3

        wait_until(confirmed)
        assert ["seen"] == [body["event_type"] for body in bodies]
        assert current_sink() is None

    def test_loggers_restored(self):
        """
        The loggers that were named have their handlers and levels back, after an error as well.
        """
        logger.setLevel(logging.ERROR)
        handlers = list(logger.handlers)

        with contextlib.suppress(ZeroDivisionError), capture_event_logs("shop"):
            within = (logger.level, len(logger.handlers))
            raise ZeroDivisionError

        assert (logging.DEBUG, len(handlers) + 1) == within
        assert (logging.ERROR, handlers) == (logger.level, logger.handlers)

    def test_level(self):
        """
        ``level`` says from which level on the loggers' records are captured.
        """
        with capture_event_logs("shop", level="WARNING") as bodies:
            logger.info("low")
            logger.warning("high")

        assert ["high"] == [body["event_type"] for body in bodies]

    def test_nested(self):
        """
        A block within a block captures what happens in it, and the outer one goes on after.
        """
        with capture_event_logs("shop") as outer:
            logger.info("first")
            with capture_event_logs() as inner:
                logger.info("second")
            logger.info("third")

        assert ["second"] == [body["event_type"] for body in inner]
        assert ["first", "third"] == [body["event_type"] for body in outer]

    def test_once(self, handler):
        """
        A logger that has the handler already still makes one event log of a call.
        """
        with capture_event_logs("shop") as bodies:
            logger.info("once")

        assert ["once"] == [body["event_type"] for body in bodies]

    def test_fixture(self, event_logs):
        """
        The fixture captures for the length of the test, and can dispatch by hand.
        """
        event_logs.dispatch("seen", {"value": 1})

        assert ("seen", {"value": 1}) == (event_logs[0]["event_type"], event_logs[0]["data"])

    def test_without_pytest(self):
        """
        The context manager does without pytest; only the fixture is not there then.
        """
        code = """
import eventlet; eventlet.monkey_patch()
import sys; sys.modules["pytest"] = None
from nameko_eventlog import testing
with testing.capture_event_logs() as bodies:
    bodies.dispatch("seen")
print(bodies[0]["event_type"], hasattr(testing, "event_logs"))
"""
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )

        assert "seen False\n" == done.stdout
