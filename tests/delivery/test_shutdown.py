"""
How a service ends, and what becomes of its outbox.
"""

import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest
from nameko.extensions import Entrypoint
from nameko.testing.services import dummy, entrypoint_hook

from logging_ext import EventLogHandler
from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.delivery import BrokerDelivery, broker_delivery
from tests.delivery.conftest import (
    EXCHANGE,
    Lines,
    Received,
    check_sum,
    make_message,
    settled,
)
from tests.foreground import FOREGROUND
from tests.nameko_version import event_exchange
from tests.proxy import Proxy
from tests.rabbitmq import free_ports, with_port
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]

MODULE = """
import logging
import os
import pathlib

from nameko.timer import timer

from nameko_eventlog import EventLogDispatcher

logger = logging.getLogger("foo")


class Foo:
    name = "foo"
    eventlog = EventLogDispatcher()

    @timer(interval=600, eager=True)
    def log(self):
        for number in range({count}):
            logger.info("counted", extra={{"number": number}})
        pathlib.Path("logged").write_text(str(os.getpid()))
"""

CALLED = """
import logging
import pathlib
import time

from nameko.rpc import rpc
from nameko.timer import timer

from nameko_eventlog import EventLogDispatcher

logger = logging.getLogger("foo")


class Foo:
    name = "foo"
    eventlog = EventLogDispatcher()

    @rpc
    def answer(self):
        pass

    @timer(interval=600, eager=True)
    def log(self):
        pathlib.Path("logged").touch()
        while not pathlib.Path("go").exists():
            time.sleep(0.05)
        for number in range({count}):
            logger.info("counted", extra={{"number": number}})
        pathlib.Path("gone").touch()
"""

CONFIG = """
AMQP_URI: {uri}
EVENTLOG_DISPATCHER: {dispatcher}
LOGGING:
  version: 1
  disable_existing_loggers: false
  handlers:
    file: {{class: logging.FileHandler, filename: undelivered}}
    runner: {{class: logging.FileHandler, filename: runner}}
    eventlog: {{class: logging_ext.EventLogHandler}}
  loggers:
    foo: {{level: INFO, handlers: [eventlog]}}
    nameko_eventlog.undelivered: {{handlers: [file]}}
    nameko.runners: {{level: DEBUG, handlers: [runner]}}
"""


class Service:
    """
    A service that logs.
    """

    name = "foo"
    eventlog = EventLogDispatcher()

    @dummy
    def log(self, count: int) -> None:
        """
        Log so many event logs.
        """
        for number in range(count):
            logging.getLogger("foo").info("counted", extra={"number": number})


@pytest.fixture
def bound(uri: str) -> Iterator[Received]:
    """
    A durable queue, on the exchange as Nameko declares it.
    """
    exchange = event_exchange("foo")
    assert EXCHANGE.name == exchange.name
    received = Received(uri, exchange=exchange)
    yield received
    received.close()


@pytest.fixture
def logger() -> logging.Logger:
    """
    The service's logger, with our handler.
    """
    logger = logging.getLogger("foo")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(EventLogHandler())
    return logger


def numbers(received: Received) -> list[int]:
    """
    What arrived, in its order.
    """
    return [json.loads(one.body)["data"]["number"] for one in received.messages]


def wait_for(received: Received, count: int) -> list[int]:
    """
    Wait until so many have arrived.
    """
    wait_until(lambda: received.read() or len(received.messages) >= count)
    return numbers(received)


def delivery_of(container: Any) -> Any:
    """
    Return the delivery of the service that the container hosts.
    """
    (provider,) = container.dependencies
    return provider._delivery


def undelivered_numbers(folder: pathlib.Path) -> list[int]:
    """
    What was written to ``nameko_eventlog.undelivered``, in its order.
    """
    lines = (folder / "undelivered").read_text().splitlines()
    return [json.loads(json.loads(line)["body"])["data"]["number"] for line in lines]


@pytest.fixture
def without_broker(rabbit_config: Any, nowhere: str) -> dict[str, Any]:
    """
    The configuration of a service whose broker is away, and that gives it half a second.
    """
    return {
        **rabbit_config,
        "AMQP_URI": nowhere,
        "EVENTLOG_DISPATCHER": {"flush_timeout": 0.5},
    }


def _held_up() -> tuple[type[Service], Any]:
    """
    A service that does not end, and the event that lets it.
    """
    allowed = eventlet.event.Event()

    class Lasting(Entrypoint):  # type: ignore[misc]
        """An entrypoint that ends when told."""

        def stop(self) -> None:
            allowed.wait()

        kill = stop

    class Held(Service):
        """A service that does not end."""

        last = Lasting.decorator(lambda self: None)

    return Held, allowed


@pytest.mark.usefixtures("logger")
class TestContainer:
    def test_stop(self, rabbit_config: Any, bound: Received, run_service: Any) -> None:
        """
        ``container.stop()`` delivers 3,000 event logs that are in the outbox.
        """
        container = run_service(Service, rabbit_config)
        with entrypoint_hook(container, "log") as log:
            log(3_000)
        container.stop()

        assert list(range(3_000)) == wait_for(bound, 3_000)
        assert 3_000 == check_sum(delivery_of(container))["confirmed"]

    def test_stop_with_the_broker_down(
        self, without_broker: Any, run_service: Any, undelivered: Lines
    ) -> None:
        """
        It ends in ``flush_timeout`` and a second, and leaves undelivered lines.
        """
        with _configured(without_broker):
            container = run_service(Service, without_broker)
            with entrypoint_hook(container, "log") as log:
                log(100)
            began = time.monotonic()
            container.stop()

        assert time.monotonic() - began < 8
        bodies = [json.loads(one["body"]) for one in undelivered.objects]
        assert list(range(100)) == [body["data"]["number"] for body in bodies]

    @pytest.mark.parametrize("end", ["stop", "kill"])
    @pytest.mark.parametrize("spool", [None, "/proc/eventlog"])
    def test_held_up_without_a_broker(
        self, without_broker: Any, run_service: Any, undelivered: Lines, end: str, spool: Any
    ) -> None:
        """
        An extension that does not end keeps the dispatcher's turn from coming: what waits is
        undelivered by name in time all the same, and so is what is logged after that. A spool
        that cannot be written is none.
        """
        without_broker["EVENTLOG_DISPATCHER"]["spool"] = spool
        held, may_end = _held_up()
        with _configured(without_broker):
            container = run_service(held, without_broker)
            with entrypoint_hook(container, "log") as log:
                log(100)
                ending = eventlet.spawn(getattr(container, end))
                wait_until(lambda: len(undelivered) == 100)
                later = [0] if end == "stop" else []  # killed ones take no calls
                for _ in later:
                    log(1)
            assert not ending.dead
            may_end.send(None)
            ending.wait()

        bodies = [json.loads(one["body"]) for one in undelivered.objects]
        assert [*range(100), *later] == [body["data"]["number"] for body in bodies]
        assert "the service is stopping" in undelivered.objects[0]["reason"]
        check_sum(delivery_of(container))

    def test_held_up_with_a_spool(
        self,
        without_broker: Any,
        run_service: Any,
        undelivered: Lines,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        What is on disk stays there, and so does what comes later.
        """
        monkeypatch.setattr(broker_delivery, "HELD_UP_SECONDS", 0.01)
        without_broker["EVENTLOG_DISPATCHER"] = {"flush_timeout": 0.1, "spool": str(tmp_path)}
        held, may_end = _held_up()
        with _configured(without_broker):
            container = run_service(held, without_broker)
            delivery = delivery_of(container)
            with entrypoint_hook(container, "log") as log:
                log(100)
                ending = eventlet.spawn(container.stop)
                eventlet.sleep(1.5)  # well after `flush_timeout`, and a second of the relay's
                log(1)
            assert not delivery.is_closed
            may_end.send(None)
            ending.wait()

        assert not undelivered.records
        assert 101 == check_sum(delivery)["waiting"]

    def test_stop_held_up_by_a_worker(
        self,
        rabbit_config: Any,
        bound: Received,
        run_service: Any,
        undelivered: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        While a worker goes on and the broker is well, its event logs arrive, whenever they come.
        """
        monkeypatch.setattr(broker_delivery, "HELD_UP_SECONDS", 0.01)
        may_end = eventlet.event.Event()

        class Slow(Service):
            """A service with a call that takes its time."""

            @dummy
            def take_time(self) -> None:
                """Log, wait, log."""
                logging.getLogger("foo").info("counted", extra={"number": 0})
                may_end.wait()
                logging.getLogger("foo").info("counted", extra={"number": 1})

        config = {**rabbit_config, "EVENTLOG_DISPATCHER": {"flush_timeout": 0.1}}
        with _configured(config):
            container = run_service(Slow, config)
            with entrypoint_hook(container, "take_time") as take_time:
                worker = eventlet.spawn(take_time)
                wait_for(bound, 1)
                stopping = eventlet.spawn(container.stop)
                eventlet.sleep(0.5)  # well after `flush_timeout`
                may_end.send(None)
                worker.wait()
                stopping.wait()

        assert [0, 1] == wait_for(bound, 2)
        assert not undelivered.records
        assert 2 == check_sum(delivery_of(container))["confirmed"]

    def test_kill(self, rabbit_config: Any, bound: Received, run_service: Any) -> None:
        """
        ``container.kill()`` delivers what a second suffices for, or leaves lines.
        """
        container = run_service(Service, rabbit_config)
        with entrypoint_hook(container, "log") as log:
            log(100)
        container.kill()

        assert list(range(100)) == wait_for(bound, 100)

    def test_killed_by_another_extension(
        self, rabbit_config: Any, bound: Received, run_service: Any
    ) -> None:
        """
        So does a container that another extension's failure kills.
        """

        class Failing(Entrypoint):  # type: ignore[misc]
            """An entrypoint whose managed thread fails when told."""

            fail = eventlet.event.Event()

            def start(self) -> None:
                self.container.spawn_managed_thread(self.fail.wait)

        class FailingService(Service):
            """A service with it."""

            @Failing.decorator
            def never(self) -> None:
                """Is never called."""

        container = run_service(FailingService, rabbit_config)
        with entrypoint_hook(container, "log") as log:
            log(100)
        Failing.fail.send_exception(RuntimeError("another extension"))
        with pytest.raises(RuntimeError, match="another extension"):
            container.wait()

        assert list(range(100)) == wait_for(bound, 100)
        assert 100 == check_sum(delivery_of(container))["confirmed"]


class TestNamekoRun:
    @pytest.fixture
    def run(self, tmp_path: pathlib.Path) -> Iterator[Callable[..., Any]]:
        """
        Start ``nameko run`` with a service that logs so many event logs at once.
        """
        processes = []

        def start(uri: str, count: int, dispatcher: str = "{}", module: str = MODULE) -> Any:
            (tmp_path / "foo.py").write_text(module.format(count=count))
            (tmp_path / "config.yaml").write_text(CONFIG.format(uri=uri, dispatcher=dispatcher))
            nameko = pathlib.Path(sys.executable).with_name("nameko")
            process = subprocess.Popen(
                [*FOREGROUND, str(nameko), "run", "--config", "config.yaml", "foo"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            processes.append(process)
            wait_until((tmp_path / "logged").exists)
            # before, nameko's runner does not catch Ctrl-C, and the process dies of it
            wait_until(lambda: "services started" in (tmp_path / "runner").read_text())
            return process

        yield start
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
    def test_signal(self, signum: int, uri: str, bound: Received, run: Any) -> None:
        """
        SIGTERM or Ctrl-C while 10,000 event logs are in the outbox: all of them arrive.
        """
        process = run(uri, 10_000)
        process.send_signal(signum)
        wait_until(lambda: process.poll() is not None)

        assert 0 == process.returncode
        assert list(range(10_000)) == wait_for(bound, 10_000)

    def test_interrupted_twice(self, uri: str, run: Any, tmp_path: pathlib.Path) -> None:
        """
        A second Ctrl-C while the first one's flush waits for the broker: the process ends at
        once, and leaves the lines.
        """
        process = run(with_port(uri, free_ports(1)[0]), 200, "{flush_timeout: 60}")
        process.send_signal(signal.SIGINT)
        wait_until(lambda: "stopping services" in (tmp_path / "runner").read_text())
        time.sleep(0.5)  # into the flush, which cannot be seen from outside
        assert process.poll() is None
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        wait_until(lambda: process.poll() is not None)

        assert time.monotonic() - began < 30
        assert list(range(200)) == undelivered_numbers(tmp_path)

    def test_broker_lost(
        self, proxied: str, proxy: Proxy, run: Any, tmp_path: pathlib.Path
    ) -> None:
        """
        Nameko's own consumers wait for a broker that has gone, and keep the process from ending:
        the lines are there in time, before somebody kills it.
        """
        process = run(proxied, 200, "{flush_timeout: 0.5}", CALLED)
        proxy.close()
        (tmp_path / "go").touch()
        wait_until((tmp_path / "gone").exists)
        process.send_signal(signal.SIGTERM)

        lines = tmp_path / "undelivered"  # the last one may be half written
        wait_until(lambda: lines.read_bytes().count(b"\n") == 200)
        assert list(range(200)) == undelivered_numbers(tmp_path)

    def test_broker_down(self, uri: str, run: Any, tmp_path: pathlib.Path) -> None:
        """
        Without a broker the process starts, logs, ends in time, and leaves the lines.
        """
        process = run(with_port(uri, free_ports(1)[0]), 200, "{flush_timeout: 0.5}")
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: process.poll() is not None)

        assert time.monotonic() - began < 30
        assert list(range(200)) == undelivered_numbers(tmp_path)


SCRIPT = """
import logging
import sys

import logging_ext
from nameko_eventlog import EventLogDispatcher, compat

logger = logging.getLogger("foo")
logger.setLevel(logging.INFO)
logger.addHandler(logging_ext.EventLogHandler(service="foo"))
logging.getLogger("nameko_eventlog.undelivered").addHandler(logging.FileHandler("undelivered"))


class Foo:
    name = "foo"
    eventlog = EventLogDispatcher()


def log():
    section = {"flush_timeout": 5, "spool": sys.argv[2] if sys.argv[2:] else None}
    config = {"AMQP_URI": sys.argv[1], "EVENTLOG_DISPATCHER": section}
    with compat.container(Foo, config) as container:
        container.start()
        for number in range(500):
            logger.info("counted", extra={"number": number})


"""


class TestInterpreterExit:
    """
    A script that never stops its container.
    """

    @pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0"])
    def test_main_thread(
        self, uri: str, bound: Received, tmp_path: pathlib.Path, end: str
    ) -> None:
        """
        What waits when the interpreter ends is published.
        """
        self.run(tmp_path, f"log()\n{end}", uri)

        assert list(range(500)) == wait_for(bound, 500)
        assert not (tmp_path / "undelivered").read_text()

    def test_broker_down(self, nowhere: str, tmp_path: pathlib.Path) -> None:
        """
        Or is undelivered by name, within ``flush_timeout``.
        """
        began = time.monotonic()
        self.run(tmp_path, "log()", nowhere)

        assert time.monotonic() - began < 25
        assert list(range(500)) == undelivered_numbers(tmp_path)

    def test_another_thread(self, uri: str, bound: Received, tmp_path: pathlib.Path) -> None:
        """
        What a container in a thread that is gone has left is undelivered by name.
        """
        thread = "import threading\nt = threading.Thread(target=log)\nt.start()\nt.join()"
        self.run(tmp_path, thread, uri)

        bound.read()
        assert set(range(500)) == {*numbers(bound), *undelivered_numbers(tmp_path)}

    def test_another_thread_with_a_spool(self, nowhere: str, tmp_path: pathlib.Path) -> None:
        """
        With a spool it stays there, and its files are closed in order.
        """
        thread = "import threading\nt = threading.Thread(target=log)\nt.start()\nt.join()"
        self.run(tmp_path, thread, nowhere, "spool")

        (path,) = tmp_path.glob("spool/foo/*/*.jsonl")
        assert 501 == len(path.read_text().splitlines())
        assert (path.parent / "position").exists()
        assert not (tmp_path / "undelivered").read_text()

    def run(self, folder: pathlib.Path, end: str, *arguments: str) -> None:
        """
        Run the script, which ends like that.
        """
        (folder / "script.py").write_text(SCRIPT + end)
        subprocess.run(
            [sys.executable, "script.py", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"},
            check=False,
            timeout=60,
        )


@pytest.mark.filterwarnings("ignore:Using fork")
class TestFork:
    def test_child(
        self,
        uri: str,
        received: Received,
        make_delivery: Make,
        undelivered: Lines,
        tmp_path: pathlib.Path,
    ) -> None:
        """
        A child neither publishes nor disturbs the parent, even while it runs the hub; its own
        event logs are undelivered by name.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        for number in range(1, 2000):
            delivery.accept(make_message(number))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                delivery.accept(make_message(-1))
                began = time.monotonic()
                while time.monotonic() - began < 0.5:
                    eventlet.sleep(0.01)
                found = {
                    "lines": undelivered.texts,
                    "stats": delivery.stats(),
                }
                (tmp_path / "child").write_text(json.dumps(found))
                status = 0
            finally:
                os._exit(status)
        wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))
        delivery.deliver(make_message(2000))
        wait_until(settled(delivery))

        assert list(range(2001)) == received.wait_for(2001)
        assert 2001 == len(received.ids)
        assert 0 == check_sum(delivery)["republished"]
        found = json.loads((tmp_path / "child").read_text())
        (line,) = map(json.loads, found["lines"])
        assert '{"number": -1}' == line["body"]
        assert "a forked child has no relay" == line["reason"]
        assert line["properties"]["message_id"] not in received.ids
        assert (1, 1) == (found["stats"]["accepted"], found["stats"]["undelivered"])

    def test_child_of_a_stopped_service(self, uri: str, make_delivery: Make) -> None:
        """
        After the stop there is nothing left to leave to the parent.
        """
        delivery = make_delivery(uri)
        delivery.deliver(make_message(0))
        delivery.stop(1)
        child = os.fork()
        if child == 0:
            os._exit(0 if delivery._closed == "the service has stopped" else 1)

        wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))


def _configured(config: Any) -> Any:
    from tests.conftest import global_config

    return global_config(config)
