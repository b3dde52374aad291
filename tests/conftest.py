"""
Fixtures: a broker of our own, Nameko services on it, and a clean slate around each test.
"""

# First of all: what is imported before this keeps the unpatched standard library.
import eventlet


eventlet.monkey_patch()

import contextlib
import gc
import itertools
import logging
import pathlib
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from types import FrameType
from typing import Any

import eventlet.tpool
import greenlet
import hypothesis
import kombu.pools
import pytest
import structlog
from kombu.mixins import ConsumerMixin
from kombu.transport import memory

import logging_ext
from tests.clickhouse import ClickHouse
from tests.databases import empty_database
from tests.examples import SHARED
from tests.nameko_version import NAMEKO
from tests.postgresql import PostgreSQL
from tests.proxy import Proxy
from tests.rabbitmq import Broker, free_ports


Config = dict[str, Any]

# Playwright does not survive the patches: those tests have a process of their own.
collect_ignore = ["browser"]

# `--hypothesis-profile` comes later, and wins.
hypothesis.settings.load_profile(SHARED)


# What coverage, if it runs, begins new threads with. Green threads begin without: their OS thread
# is followed already, and another tracer in its place would not count what runs by then.
thread_trace = threading.gettrace()
if thread_trace is not None:
    threading.settrace(None)


def trace_tpool(frame: FrameType, event: str, arg: object) -> Any:
    """
    Let coverage, if it runs, follow eventlet's OS threads, and no others.

    It follows the threads of the standard library; eventlet.tpool's come from another copy of
    the module, as do those that tests start. Measured, the latter may hang CPython 3.11 when
    several end at once: greenlet cleans up behind each in a pending call, where the end of a
    greenlet that coverage knows runs Python code, and there a function that is traced is
    entered again and again as long as the next pending call waits.
    """
    is_pool = getattr(frame.f_locals.get("self"), "_target", None) is eventlet.tpool.tworker
    if thread_trace is not None and is_pool:
        return thread_trace(frame, event, arg)
    sys.settrace(None)
    return None


eventlet.patcher.original("threading").settrace(trace_tpool)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """
    Show what the broker says of a test that failed on it.
    """
    report = yield
    broker = getattr(item, "funcargs", {}).get("broker")
    if report.failed and broker is not None:
        report.sections.append(("RabbitMQ's log", broker.recent_log))
    return report


_LONG = 50
"""So many elements are not shown in full, when two collections of them differ."""


def pytest_assertrepr_compare(op: str, left: Any, right: Any) -> list[str] | None:
    """
    Show what differs in long collections: how many elements, and the first few of them.
    """
    collections = (list, tuple, set, frozenset)
    if not (isinstance(left, collections) and isinstance(right, collections)):
        return None
    if max(len(left), len(right)) < _LONG:
        return None
    try:
        lefts, rights = Counter(left), Counter(right)
    except TypeError:  # what they hold has no hash
        return None
    lines = [f"{len(left)} elements {op} {len(right)} elements"]
    for side, alone in (("left", lefts - rights), ("right", rights - lefts)):
        if alone:
            first = ", ".join(repr(one)[:100] for one in itertools.islice(alone.elements(), 5))
            lines.append(f"{alone.total()} on the {side} alone: {first}, ...")
    if len(lines) == 1 and isinstance(left, list) and isinstance(right, list):
        number = next(
            (n for n, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]), None
        )
        lines.append(f"the same ones, in another order from index {number} on")
    return lines


class Watchdog:
    """
    Shows what all green threads wait for, five seconds before a test that hangs is ended.

    pytest-timeout shows the one of each OS thread that runs: the hub. One OS thread for all tests:
    each that ends is a risk, see `trace_tpool`.
    """

    def __init__(self) -> None:
        self._ends: float | None = None
        self._terminal: Any = None
        thread = eventlet.patcher.original("threading").Thread(target=self._watch, daemon=True)
        thread.start()

    def watch(self, seconds: float, terminal: Any) -> None:
        """
        Watch a test that has so much time.
        """
        self._terminal = terminal
        self._ends = time.monotonic() + seconds - 5

    def rest(self) -> None:
        """
        Watch nothing: the test has ended.
        """
        self._ends = None

    def _watch(self) -> None:
        sleep = eventlet.patcher.original("time").sleep
        while True:
            sleep(1)
            if self._ends is not None and time.monotonic() > self._ends:
                self._ends = None
                self._show()

    def _show(self) -> None:
        for one in gc.get_objects():
            if isinstance(one, greenlet.greenlet) and one.gr_frame is not None:
                self._terminal.line(f"\n{one!r} waits:")
                self._terminal.write("".join(traceback.format_stack(one.gr_frame)[-8:]))


watchdog = Watchdog()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """
    Let the watchdog watch the test.
    """
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else item.config.getini("timeout"))
    watchdog.watch(seconds, item.config.get_terminal_writer())
    try:
        return (yield)
    finally:
        watchdog.rest()


_SERVERS = {"broker", "clickhouse", "postgresql", "tls_broker"}
"""Fixtures that start a server."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark what needs a server: ``make quick`` leaves it out.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if fixtures & _SERVERS or {"rabbitmq", "clickhouse", "postgresql"} & {
            parameters.get("any_config"),
            parameters.get("database"),
        }:
            item.add_marker("server")


@contextlib.contextmanager
def global_config(config: Config, *, alone: bool = False) -> Iterator[Config]:
    """
    Put a configuration where Nameko 3 looks for it; Nameko 2 is handed it.

    Args:
        config: It is added to what is there.
        alone: It takes the place of what is there.
    """
    if NAMEKO == 2:
        yield config
    else:
        import nameko

        with nameko.config.patch(config, clear=alone):
            yield config


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """
    A running RabbitMQ that only this test session uses.

    A test that stops or kills it must start it again.
    """
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """
    A running PostgreSQL that only this test session uses.

    A test that stops or kills it must start it again.
    """
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse() -> Iterator[ClickHouse]:
    """
    A running ClickHouse that only this test session uses: its engine behind its HTTP interface.

    A test that stops or kills it must start it again.
    """
    with ClickHouse() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """
    The test runs twice: with the address of an empty database of SQLite's, and PostgreSQL's.

    Tests of the store itself run on `tests.databases.EVERY` kind.
    """
    return empty_database(request, tmp_path)


@pytest.fixture
def nowhere() -> str:
    """
    A broker that is not there.
    """
    (port,) = free_ports(1)
    return f"amqp://guest:guest@127.0.0.1:{port}//"


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """
    A network to the broker.
    """
    proxy = Proxy(broker.port)
    yield proxy
    proxy.close()


@pytest.fixture
def rabbit_config(broker: Broker) -> Iterator[Config]:
    """
    A Nameko configuration whose broker is an empty vhost of the test's own.

    Replaces the fixture of Nameko, which needs a RabbitMQ on a fixed port and which,
    on Nameko 3, gives None.
    """
    broker.start()
    vhost = broker.add_vhost()
    with global_config({"AMQP_URI": broker.vhost_uri(vhost)}) as config:
        yield config
    kombu.pools.reset()
    if broker.running:
        broker.delete_vhost(vhost)


@pytest.fixture
def memory_config() -> Iterator[Config]:
    """
    A Nameko configuration with kombu's broker within the process, empty.
    """
    _empty_memory_broker()
    with global_config(
        {
            "AMQP_URI": "memory://",
            "TRANSPORT_OPTIONS": {"polling_interval": 0.01},
        }
    ) as config:
        yield config
    kombu.pools.reset()
    _empty_memory_broker()


@pytest.fixture(params=["rabbitmq", "memory"])
def any_config(request: pytest.FixtureRequest) -> Config:
    """
    The test runs twice: with `rabbit_config` and with `memory_config`.
    """
    fixture = {"rabbitmq": "rabbit_config", "memory": "memory_config"}[request.param]
    return request.getfixturevalue(fixture)


@pytest.fixture
def web_config() -> Iterator[Config]:
    """
    The part of a Nameko configuration that puts its web server on a free port.

    Merge it: ``run_service(Service, memory_config | web_config)``.
    """
    with global_config({"WEB_SERVER_ADDRESS": f"127.0.0.1:{free_ports(1)[0]}"}) as config:
        yield config


@pytest.fixture
def run_service(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """
    Start a service: ``run_service(Service, config)`` returns its running container.

    Containers are stopped, as by SIGTERM, after the test: the last one first, and
    before their broker goes. ``start=False`` leaves the start to the test.
    """
    for fixture in ("rabbit_config", "memory_config", "any_config"):
        # Made before us and before Nameko's factory, so that they end after both: on Nameko 3
        # the factory patches the global configuration, too, and undoes that at its end.
        if fixture in request.fixturenames:
            request.getfixturevalue(fixture)
    container_factory = request.getfixturevalue("container_factory")

    containers = []

    def run(service_class: type, config: Config, *, start: bool = True) -> Any:
        container = container_factory(service_class, config)
        containers.append(container)
        if start:
            container.start()
        return container

    yield run

    for container in reversed(containers):
        with eventlet.Timeout(60):
            container.stop()


@pytest.fixture(autouse=True)
def clean_logging() -> Iterator[None]:
    """
    Give every logger back what it had: handlers, filters, level, propagation.
    """
    before = {logger: _state(logger) for logger in _loggers()}
    disabled_below = logging.root.manager.disable
    record_factory = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(record_factory)
    logging.disable(disabled_below)
    fresh = ([], [], logging.NOTSET, True, False)
    for logger in _loggers():
        handlers, filters, level, propagate, disabled = before.get(logger, fresh)
        logger.handlers[:] = handlers
        logger.filters[:] = filters
        logger.setLevel(level)
        logger.propagate = propagate
        logger.disabled = disabled


@pytest.fixture(autouse=True)
def clean_config() -> Iterator[None]:
    """
    Give Nameko 3's global configuration back what it had.

    A container factory undoes its own change after the test, later than a ``with`` in the test
    undoes an earlier one, and so brings that one back.
    """
    if NAMEKO == 2:
        yield
        return
    import nameko

    before = dict(nameko.config.data)
    yield
    nameko.config.setup(before)


@pytest.fixture(autouse=True)
def clean_structlog() -> Iterator[None]:
    """
    Give structlog its defaults back, and unbind its context variables.
    """
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture(autouse=True)
def quick_consumers(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let consumers look around ten times a second, and kombu's memory a hundred times.

    Both do so once a second, which makes each stop of a container take two.
    Nameko 3 has no setting for the one, kombu none for the other.
    """
    monkeypatch.setattr(ConsumerMixin.consume, "__defaults__", (None, None, 0.1))
    monkeypatch.setattr(memory.Transport, "polling_interval", 0.01)


@pytest.fixture(autouse=True)
def clean_context() -> Iterator[None]:
    """
    Check that the test's own green thread is nobody's worker, before and after.
    """
    assert logging_ext.current_sink() is None, "an earlier test left its sink bound"
    yield
    assert logging_ext.current_sink() is None, "this test left its sink bound"


def _loggers() -> list[logging.Logger]:
    known = list(logging.root.manager.loggerDict.values())
    return [logging.root, *(one for one in known if isinstance(one, logging.Logger))]


def _state(logger: logging.Logger) -> tuple[Any, ...]:
    return (
        list(logger.handlers),
        list(logger.filters),
        logger.level,
        logger.propagate,
        logger.disabled,
    )


def _empty_memory_broker() -> None:
    # All connections to memory:// share these class attributes.
    memory.Transport.global_state.clear()
    memory.Channel.queues.clear()
    memory.Channel.events.clear()
