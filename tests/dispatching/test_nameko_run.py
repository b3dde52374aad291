"""
``nameko run`` as a user runs it, with a consumer in another process.
"""

from __future__ import annotations

import collections
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import eventlet
import pytest
import yaml

from tests.rabbitmq import free_ports
from tests.waiting import wait_until


ROOT = pathlib.Path(__file__).parents[2]
WORKERS = 50
ROUNDS = 5

SENDER = """
    import logging

    import eventlet
    import structlog
    from nameko.web.handlers import http

    import logging_ext
    from nameko_eventlog import EventLogDispatcher

    logger = logging.getLogger("foo_service")
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            logging_ext.EventLogProcessor(),
            lambda logger, name, event_dict: "",
        ],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    events = structlog.get_logger()


    class Foo:
        name = "foo"
        eventlog = EventLogDispatcher()

        @http("GET", "/work/<int:number>")
        def work(self, request, number):
            for step in range(ROUNDS):
                logger.info("by_logging", extra={"number": number, "step": step})
                eventlet.sleep(0.001 * (number % 7))
                events.info("by_structlog", number=number, step=step)
                eventlet.sleep(0)
                self.eventlog("by_hand", {"number": number, "step": step})
            return "done"
""".replace("ROUNDS", str(ROUNDS))

CONSUMER = """
    import json
    import sys

    from nameko.events import event_handler
    from nameko.extensions import DependencyProvider


    class CallStack(DependencyProvider):
        def get_dependency(self, worker_ctx):
            return worker_ctx.call_id_stack


    class Bar:
        name = "bar"
        call_stack = CallStack()

        @event_handler("foo", "log_event")
        def on_log_event(self, body):
            with open("received.jsonl", "a") as file:
                file.write(json.dumps([body, self.call_stack]) + "\\n")
"""


@pytest.fixture
def nameko_run(tmp_path: pathlib.Path, rabbit_config: Any) -> Iterator[Any]:
    """
    Run a service of *source* by ``nameko run``, until the test ends.
    """
    processes = []

    def run(name: str, source: str, config: dict[str, Any]) -> subprocess.Popen[bytes]:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        whole = {"AMQP_URI": rabbit_config["AMQP_URI"], **config}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(whole))
        with open(tmp_path / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "nameko", "run", "--config", f"{name}.yaml", name],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
                stdout=log,
                stderr=log,
            )
        processes.append(process)
        return process

    yield run

    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_bound(broker: Any, rabbit_config: Any) -> bool:
    """
    Tell whether bar's queue takes what foo dispatches.
    """
    vhost = rabbit_config["AMQP_URI"].rpartition("/")[2]
    bindings = broker.api("GET", f"bindings/{vhost}")
    return any(
        binding["source"] == "foo.events" and binding["destination_type"] == "queue"
        for binding in bindings
    )


def get(address: str) -> bytes:
    """
    Get a page, which the service may not be there for yet.
    """
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}", timeout=60) as response:
                page: bytes = response.read()
                return page
        except ConnectionError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        except OSError as exc:
            if not isinstance(getattr(exc, "reason", None), ConnectionError):
                raise
            assert time.monotonic() < deadline
            time.sleep(0.05)


class TestNamekoRun:
    """
    Must show 4 of the issue.
    """

    def test_fifty_workers(
        self, nameko_run: Any, broker: Any, rabbit_config: Any, tmp_path: pathlib.Path
    ) -> None:
        """
        The three ways in arrive, in order, with the right context, and continue the call stack.
        """
        address = f"127.0.0.1:{free_ports(1)[0]}"
        logging_config = {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"eventlog": {"class": "logging_ext.EventLogHandler"}},
            "loggers": {"foo_service": {"level": "INFO", "handlers": ["eventlog"]}},
        }
        nameko_run("bar", CONSUMER, {})
        wait_until(lambda: is_bound(broker, rabbit_config))
        foo = nameko_run(
            "foo",
            SENDER,
            {
                "WEB_SERVER_ADDRESS": address,
                "max_workers": WORKERS,
                "LOGGING": logging_config,
                "EVENTLOG_DISPATCHER": {"auto_capture": True},
            },
        )
        pool = eventlet.GreenPool(WORKERS)
        get(f"{address}/work/0")

        urls = [f"{address}/work/{number}" for number in range(1, WORKERS + 1)]
        assert [b"done"] * WORKERS == list(pool.imap(get, urls))

        expected = (WORKERS + 1) * (1 + 3 * ROUNDS)
        received = tmp_path / "received.jsonl"
        wait_until(lambda: received.exists() and received.read_text().count("\n") >= expected)
        foo.send_signal(signal.SIGTERM)
        foo.wait(20)
        lines = [json.loads(line) for line in received.read_text().splitlines()]
        assert expected == len(lines)

        by_call = collections.defaultdict(list)
        for body, call_stack in lines:
            assert ("foo", "HttpRequestHandler", "work") == (
                body["service_name"],
                body["entrypoint_protocol"],
                body["entrypoint_name"],
            )
            assert [body["call_id"]] == body["call_stack"] == call_stack[:1]
            assert 2 == len(call_stack)
            assert call_stack[1].startswith("bar.on_log_event.")
            by_call[body["call_id"]].append(body)
        assert WORKERS + 1 == len(by_call)
        for bodies in by_call.values():
            number = bodies[-1]["data"]["number"]
            # bar handles them in green threads of its own, which keep the order of arrival
            # but for what the file's writing makes of it
            assert "entrypoint_fired" in {body["event_type"] for body in bodies}
            steps = [body for body in bodies if body["event_type"] != "entrypoint_fired"]
            assert [
                (kind, number, step)
                for step in range(ROUNDS)
                for kind in ("by_logging", "by_structlog", "by_hand")
            ] == [
                (body["event_type"], body["data"]["number"], body["data"]["step"])
                for body in steps
            ]
        assert "" == _complaints(tmp_path / "foo.log")


def _complaints(log: pathlib.Path) -> str:
    return "\n".join(
        line
        for line in log.read_text().splitlines()
        if "Traceback" in line or ("undelivered" in line.lower() and " 0 undelivered" not in line)
    )
