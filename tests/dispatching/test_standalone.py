"""
Event logs from outside containers.
"""

from __future__ import annotations

import json
import logging
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import kombu
import pytest
from nameko.exceptions import ConfigurationError

from logging_ext import EventLogHandler, current_sink
from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.standalone import event_log_dispatcher
from tests.nameko_version import event_exchange


@pytest.fixture
def logger() -> logging.Logger:
    """
    A logger with an event log handler.
    """
    logger = logging.getLogger("script")
    logger.setLevel(logging.INFO)
    logger.addHandler(EventLogHandler())
    return logger


@pytest.fixture
def bodies(rabbit_config: dict[str, Any]) -> Any:
    """
    What arrives on a durable queue.
    """
    exchange = event_exchange("shop")
    queue = kombu.Queue("q", exchange, routing_key="log_event", durable=True)
    with kombu.Connection(rabbit_config["AMQP_URI"]) as connection:
        bound = queue(connection.default_channel)
        bound.declare()

        def take() -> list[dict[str, Any]]:
            found = []
            while (message := bound.get(no_ack=True)) is not None:
                found.append(json.loads(message.body))
            return found

        yield take


class TestEventLogDispatcher:
    def test_both_ways(
        self, rabbit_config: dict[str, Any], bodies: Any, logger: logging.Logger
    ) -> None:
        """
        What is logged and what is dispatched by hand arrives, in order, in the service's name.
        """
        with event_log_dispatcher(rabbit_config, "shop") as eventlog:
            logger.info("import_begun", extra={"file": "orders.csv"})
            eventlog("import_finished", {"orders": 7}, {"team": "a"})
            logger.info("cleaned_up")
            assert 3 == eventlog.stats()["accepted"]

        begun, finished, cleaned = bodies()
        assert ("import_begun", {"file": "orders.csv"}) == (begun["event_type"], begun["data"])
        assert ("a", {"orders": 7}) == (finished["team"], finished["data"])
        assert "cleaned_up" == cleaned["event_type"]
        assert ("shop", None, None, []) == tuple(
            begun[name] for name in ("service_name", "entrypoint_name", "call_id", "call_stack")
        )

    def test_ends(self, rabbit_config: dict[str, Any], logger: logging.Logger) -> None:
        """
        Afterwards the code is nobody's again, and a second block works like the first.
        """
        for _ in range(2):
            with event_log_dispatcher(rabbit_config, "shop") as eventlog:
                eventlog("counted")
            assert current_sink() is None

    def test_error(self, rabbit_config: dict[str, Any], bodies: Any, logger: Any) -> None:
        """
        What was logged before an error arrives, and the error goes on.
        """

        def fail() -> None:
            with event_log_dispatcher(rabbit_config, "shop"):
                logger.info("begun")
                raise KeyError("boom")

        with pytest.raises(KeyError, match="boom"):
            fail()

        assert ["begun"] == [body["event_type"] for body in bodies()]

    def test_subclass(self, rabbit_config: dict[str, Any]) -> None:
        """
        A dispatcher of one's own does as it does in a service.
        """

        class Audit(EventLogDispatcher):
            EVENT_TYPE = "audit"

        with event_log_dispatcher(rabbit_config, "shop", Audit(priority=3)) as eventlog:
            eventlog("counted")
            assert 1 == eventlog.stats()["confirmed"]

    def test_configuration(self, memory_config: dict[str, Any]) -> None:
        """
        The configuration is checked as a service's is.
        """
        config = {**memory_config, "EVENTLOG_DISPATCHER": {"spol": "x"}}
        with pytest.raises(ConfigurationError, match="did you mean 'spool'"):
            event_log_dispatcher(config, "shop").__enter__()

    def test_plain_script(
        self, rabbit_config: dict[str, Any], bodies: Any, tmp_path: pathlib.Path
    ) -> None:
        """
        A script that is not monkey-patched needs nothing more.
        """
        script = f"""
            import logging
            from logging_ext import EventLogHandler
            from nameko_eventlog.standalone import event_log_dispatcher
            logging.getLogger("script").addHandler(EventLogHandler())
            with event_log_dispatcher({rabbit_config!r}, "shop") as eventlog:
                for number in range(1000):
                    logging.getLogger("script").warning("counted", extra={{"number": number}})
                eventlog("finished")
                logging.getLogger("script").warning("last")
        """
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert (0, "") == (done.returncode, done.stdout)
        types = [body["event_type"] for body in bodies()]
        assert ["counted"] * 1000 + ["finished", "last"] == types
