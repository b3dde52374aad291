"""
The dependency provider: whose event logs, through all that may happen to a worker.
"""

from __future__ import annotations

import contextvars
import gc
import json
import logging
import random
import time
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.tpool
import pytest
from eventlet.event import Event
from greenlet import GreenletExit
from nameko.events import event_handler
from nameko.extensions import DependencyProvider, Entrypoint
from nameko.testing.services import entrypoint_hook, entrypoint_waiter
from nameko.testing.utils import get_extension

import logging_ext
from logging_ext import EventLog, EventLogHandler, current_sink
from nameko_eventlog import EventLogDispatcher, compat
from nameko_eventlog.dispatching import context_headers, dispatcher, sinks
from nameko_eventlog.dispatching.body import BodyEncoder
from nameko_eventlog.dispatching.capture import Capture
from tests.dispatching.services import (
    Foo,
    FooService,
    Listener,
    log_through_handler,
    log_through_structlog,
    without_ids,
)
from tests.waiting import wait_until


OUTSIDE = {
    "service_name": "foo",
    "entrypoint_protocol": None,
    "entrypoint_name": None,
    "call_id": None,
    "call_stack": [],
}


@pytest.fixture
def logger() -> logging.Logger:
    """
    The service's logger, with an `EventLogHandler`.
    """
    return log_through_handler()


def names(bodies: list[Any]) -> list[str]:
    """
    Return the event types.
    """
    return [body["event_type"] for body in bodies]


class Loud(DependencyProvider):  # type: ignore[misc]
    """
    A dependency provider that logs in each of its hooks.
    """

    def _log(self, hook: str) -> None:
        logging.getLogger("foo_service").info(hook)

    def get_dependency(self, worker_ctx: Any) -> None:
        """
        Log nothing yet: providers come in arbitrary order here.
        """

    def worker_setup(self, worker_ctx: Any) -> None:
        """
        Log.
        """
        self._log("setup")

    def worker_result(self, worker_ctx: Any, result: Any = None, exc_info: Any = None) -> None:
        """
        Log.
        """
        self._log("result")

    def worker_teardown(self, worker_ctx: Any) -> None:
        """
        Log.
        """
        self._log("teardown")


class TestContext:
    """
    Whose event logs.
    """

    def test_ways_in(self, foo: Foo, logger: logging.Logger) -> None:
        """
        The three ways in bear the worker's context and arrive in order.
        """
        events = log_through_structlog()

        def work(service: FooService) -> None:
            logger.info("a", extra={"amount": 5})
            events.info("b", amount=5)
            service.eventlog("c", {"amount": 5})

        foo.run(work)

        bodies = foo.bodies(3)
        assert ["a", "b", "c"] == names(bodies)
        assert [{"amount": 5}] * 3 == [body["data"] for body in bodies]
        assert 1 == len({body["call_id"] for body in bodies})
        assert {"level": "info", "logger": "foo_service"}.items() <= bodies[0].items()
        assert {
            "service_name": "foo",
            "entrypoint_protocol": "Entrypoint",
            "entrypoint_name": "foo_method",
            "event_type": "c",
            "data": {"amount": 5},
        } == without_ids(bodies[2])

    def test_fifty_workers_at_once(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        Workers that take turns do not get into each other's context.
        """
        foo = start_foo(max_workers=50)

        def work(number: int) -> None:
            def steps(service: FooService) -> None:
                for step in range(5):
                    logger.info("step", extra={"number": number, "step": step})
                    eventlet.sleep(0.001 * (number % 3))

            foo.run(steps)

        pool = eventlet.GreenPool(50)
        list(pool.imap(work, range(50)))

        bodies = foo.bodies(250)
        by_call: dict[str, list[Any]] = {}
        for body in bodies:
            by_call.setdefault(body["call_id"], []).append(body["data"])
        assert 50 == len(by_call)
        for data in by_call.values():
            assert [{"number": data[0]["number"], "step": n} for n in range(5)] == data

    def test_nested_worker(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        A worker that runs within another's green thread gives it its context back.
        """
        foo = start_foo({"auto_capture": False}, max_workers=1)
        entrypoint = _entrypoint(foo, "other_method")

        def work(service: FooService) -> None:
            logger.info("before")
            foo.container.spawn_worker(entrypoint, (lambda _: logger.info("inside"),), {})
            logger.info("after")

        foo.run(work)

        bodies = foo.bodies(3)
        assert [("before", "foo_method"), ("inside", "other_method"), ("after", "foo_method")] == [
            (body["event_type"], body["entrypoint_name"]) for body in bodies
        ]
        assert bodies[0]["call_id"] == bodies[2]["call_id"] != bodies[1]["call_id"]

    def test_nested_worker_that_never_ends(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        A nested worker that a timeout killed leaves nothing behind when the outer one ends.
        """
        foo = start_foo(
            {
                "auto_capture": True,
                "capture_stages": ["completed"],
                "capture_types": ["Entrypoint"],
            },
            max_workers=1,
        )
        entrypoint = _entrypoint(foo, "other_method")
        left: list[Any] = []
        provider = foo.provider
        worker_teardown = provider.worker_teardown
        provider.worker_teardown = lambda ctx: (
            left.append(current_sink().context["entrypoint_name"]),
            worker_teardown(ctx),
            left.append(current_sink()),
        )

        def inner(service: FooService) -> None:
            eventlet.sleep(10)

        def work(service: FooService) -> None:
            with eventlet.Timeout(0.01, False):
                foo.container.spawn_worker(entrypoint, (inner,), {})

        foo.run(work)

        assert ["foo_method", None] == left
        assert ["foo_method"] == [body["entrypoint_name"] for body in foo.bodies(1)]

    def test_killed_worker(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        A killed worker, which is never torn down, is forgotten.
        """
        foo = start_foo()
        entrypoint = _entrypoint(foo, "foo_method")
        contexts = []
        started = Event()

        def work(service: FooService) -> None:
            service.eventlog("started")
            logger.info("headers are made")
            started.send(None)
            eventlet.sleep(60)

        worker_ctx = foo.container.spawn_worker(entrypoint, (work,), {})
        with eventlet.Timeout(5):
            started.wait()
        contexts.append(weakref.ref(worker_ctx))
        thread = foo.container._worker_threads[worker_ctx]
        del worker_ctx
        thread.kill()
        del thread

        def is_gone() -> bool:
            gc.collect()
            return contexts[0]() is None

        wait_until(is_gone)
        assert 0 == len(foo.provider._workers)

    def test_other_providers(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        What other providers log in their hooks has the worker's context, whatever the order.
        """

        class Service(FooService):
            aaa = Loud()
            loud = Loud()
            zzz = Loud()

        foo = start_foo(service=Service)

        foo.run(lambda service: logger.info("work"))

        bodies = foo.stop()
        assert 3 == names(bodies).count("setup")
        assert 3 == names(bodies).count("result")
        assert "work" == names(bodies)[3]
        assert {"foo_method"} == {body["entrypoint_name"] for body in bodies}

    def test_two_services(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        Two services in one process each dispatch what is theirs.
        """

        class Bar(FooService):
            name = "bar"

        foo, bar = start_foo(), start_foo(service=Bar)

        def work(other: Foo | None) -> Callable[[Any], None]:
            def steps(service: FooService) -> None:
                logger.info("log")
                if other is not None:
                    other.run(work(None))
                service.eventlog("manual")

            return steps

        foo.run(work(bar))
        bar.run(work(foo))

        for one in (foo, bar):
            bodies = one.stop()
            assert sorted(["log", "manual"] * 2) == sorted(names(bodies))
            assert {one.container.service_name} == {body["service_name"] for body in bodies}

    def test_two_dispatchers(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        Two dispatchers in one service leave nothing bound; a log line goes out once.
        """

        class Service(FooService):
            second = EventLogDispatcher()

        foo = start_foo(service=Service)

        def work(service: Any) -> None:
            logger.info("log")
            service.eventlog("one")
            service.second("two")

        foo.run(work)

        assert ["log", "one", "two"] == sorted(names(foo.stop()))

    def test_subclass(self, start_foo: Any) -> None:
        """
        A subclass may change the class attributes, one class instead of a tuple among them.
        """

        class Dispatcher(EventLogDispatcher):
            ENTRYPOINT_FIRED = "begun"
            ENTRYPOINT_COMPLETED = "done"
            ENTRYPOINT_FAILED = "broken"
            EVENT_TYPE = "my_event"
            ENTRYPOINT_TYPES_TO_LOG = object  # type: ignore[assignment]

        class Service(FooService):
            eventlog = Dispatcher()

        section = {"auto_capture": True, "capture_stages": ["fired", "completed", "failed"]}
        foo = start_foo(section, service=Service, event_type="my_event")
        foo.run(lambda service: None)
        with pytest.raises(ZeroDivisionError):
            foo.run(lambda service: 1 / 0)

        assert ["begun", "done", "begun", "broken"] == names(foo.bodies(4))


def _entrypoint(foo: Foo, method: str) -> Any:
    return get_extension(foo.container, Entrypoint, method_name=method)


class TestOutside:
    """
    What no worker logs.
    """

    def test_nobody(self, foo: Foo, logger: logging.Logger) -> None:
        """
        A record from outside any worker is nobody's, which is counted.
        """
        before = foo.provider._delivery.stats()["not_forwarded"]
        logger.info("outside")

        assert before + 1 == foo.provider._delivery.stats()["not_forwarded"]
        assert [] == foo.stop()

    def test_option_service(self, foo: Foo, logger: logging.Logger) -> None:
        """
        With ``service`` it goes to that service's dispatcher, with null entrypoint fields.
        """
        logger.handlers[:] = [EventLogHandler(service="foo")]
        logger.info("outside", extra={"a": 1})
        foo.run(lambda service: logger.info("inside"))

        outside, inside = foo.bodies(2)
        expected = {**OUTSIDE, "level": "info", "logger": "foo_service", "data": {"a": 1}}
        assert expected.items() <= outside.items()
        assert "foo_method" == inside["entrypoint_name"]

    def test_after_stop(self, foo: Foo, logger: logging.Logger, caplog: Any) -> None:
        """
        A log call after the container has stopped is undelivered by name, or nobody's.
        """
        saved: list[Any] = []
        foo.run(lambda service: saved.extend([contextvars.copy_context(), service.eventlog]))
        foo.stop()
        context, dispatch = saved

        with caplog.at_level(logging.ERROR, "nameko_eventlog.undelivered"):
            context.run(logger.info, "late")
        (record,) = [r for r in caplog.records if r.name == "nameko_eventlog.undelivered"]
        assert "late" in record.getMessage()
        with pytest.raises(Exception, match="the service has stopped"):
            dispatch("late")
        logger.handlers[:] = [EventLogHandler(service="foo")]
        logger.info("nobody's")

    def test_green_threads(self, foo: Foo, logger: logging.Logger) -> None:
        """
        A green thread has its spawner's context if that is copied, and none if it is not.
        """

        def work(service: FooService) -> None:
            plain = eventlet.spawn(logger.info, "plain")
            copied = eventlet.spawn(contextvars.copy_context().run, logger.info, "copied")
            plain.wait()
            copied.wait()
            eventlet.spawn(service.eventlog, "by hand").wait()

        foo.run(work)

        bodies = foo.stop()
        assert ["copied", "by hand"] == names(bodies)
        assert {"foo_method"} == {body["entrypoint_name"] for body in bodies}

    def test_os_threads(self, foo: Foo, logger: logging.Logger) -> None:
        """
        Log calls and manual calls from real OS threads arrive.
        """

        def work(service: FooService) -> Any:
            eventlet.tpool.execute(
                contextvars.copy_context().run, lambda: logger.info("from a thread")
            )
            eventlet.tpool.execute(service.eventlog, "by hand from a thread", {"a": 1})
            with pytest.raises(TypeError, match="event_data must be"):
                eventlet.tpool.execute(service.eventlog, "bad", 5)

        foo.run(work)

        assert ["from a thread", "by hand from a thread"] == names(foo.bodies(2))

    def test_repr_that_logs(self, foo: Foo, logger: logging.Logger) -> None:
        """
        What is logged while an event log is made is not forwarded, in a circle or otherwise.
        """

        class Chatty:
            def __repr__(self) -> str:
                logger.info("chatting", extra={"me": self})
                return "Chatty"

            def __json__(self) -> str:
                logger.info("chatting", extra={"me": self})
                return "chatty"

            def __deepcopy__(self, memo: Any) -> Any:
                logger.info("chatting", extra={"me": self})
                return self

        foo.run(lambda service: logger.info("a", extra={"x": Chatty()}))
        foo.run(lambda service: service.eventlog("b", {"x": Chatty()}))

        assert ["a", "b"] == names(foo.stop())


class TestFailures:
    """
    Exceptions inside our own hooks: the worker goes on.
    """

    SECTION = {
        "auto_capture": True,
        "capture_stages": ["fired", "completed"],
        "capture_types": ["Entrypoint"],
    }

    @pytest.fixture
    def report(self, caplog: pytest.LogCaptureFixture) -> Any:
        """
        What ``nameko_eventlog`` logged at ERROR.
        """
        caplog.set_level(logging.ERROR, "nameko_eventlog")
        return lambda: [
            record.getMessage()
            for record in caplog.records
            if record.name == "nameko_eventlog" and record.exc_info
        ]

    @staticmethod
    def _boom(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("boom")

    def test_capture(self, start_foo: Any, monkeypatch: Any, report: Any) -> None:
        """
        An error in auto capture is logged.
        """
        foo = start_foo(self.SECTION)
        monkeypatch.setattr(Capture, "wants", self._boom)

        assert 5 == foo.run(lambda service: 5)

        assert [
            "could not capture stage fired of a worker of foo",
            "could not capture stage completed of a worker of foo",
        ] == report()

    def test_encoder(
        self, start_foo: Any, monkeypatch: Any, report: Any, logger: logging.Logger
    ) -> None:
        """
        An error in the encoder is logged, with the event log; the next goes out.
        """
        foo = start_foo(self.SECTION)
        with monkeypatch.context() as patch:
            patch.setattr(BodyEncoder, "encode_plain", self._boom)
            assert 5 == foo.run(lambda service: logger.info("lost") or 5)
        foo.run(lambda service: logger.info("found"))

        assert ["entrypoint_fired", "found", "entrypoint_completed"] == names(foo.bodies(3))
        assert 3 == len(report())
        assert all("could not accept an event log for delivery" in line for line in report())
        assert "event_type='lost'" in report()[1]

    @pytest.mark.parametrize("what", ["compat.worker_context", "ContextHeaders", "current_sink"])
    def test_context(
        self, start_foo: Any, monkeypatch: Any, report: Any, logger: logging.Logger, what: str
    ) -> None:
        """
        A worker whose context cannot be read dispatches in the service's name.
        """
        foo = start_foo()
        target, name = (compat, what[7:]) if what.startswith("compat.") else (dispatcher, what)

        def work(service: FooService) -> int:
            logger.info("log")
            service.eventlog("manual")
            return 5

        with monkeypatch.context() as patch:
            calls = [0]

            def once(*args: Any, **kwargs: Any) -> Any:
                calls[0] += 1
                if calls[0] == 1:
                    raise RuntimeError("boom")
                return current_sink()

            patch.setattr(target, name, once)
            assert 5 == foo.run(work)

        bodies = foo.bodies(2)
        assert ["log", "manual"] == names(bodies)
        for body in bodies:
            assert OUTSIDE.items() <= body.items()
        assert ["could not read the context of a worker of foo"] == report()
        assert current_sink() is None

    def test_binding(self, start_foo: Any, monkeypatch: Any, report: Any) -> None:
        """
        A worker whose context cannot be bound still gets its callable.
        """
        foo = start_foo(self.SECTION)
        with monkeypatch.context() as patch:
            patch.setattr(dispatcher, "set_sink", self._boom)
            foo.run(lambda service: service.eventlog("manual"))

        assert "manual" in names(foo.stop())
        assert ["could not bind the context of a worker of foo"] == report()

    def test_headers(self, start_foo: Any, monkeypatch: Any, report: Any) -> None:
        """
        A message whose headers cannot be made goes without.
        """
        foo = start_foo()
        monkeypatch.setattr(
            context_headers, "CALL_ID_STACK_CONTEXT_KEY", []
        )  # no key of a mapping
        foo.run(lambda service: service.eventlog("manual"))

        (message,) = foo.messages(1)
        assert {} == message.headers
        assert ["could not make the message headers of a worker"] == report()

    def test_handlers_that_raise(self, start_foo: Any, monkeypatch: Any, capsys: Any) -> None:
        """
        Not even a handler that raises while an error is reported harms the worker.
        """

        class Raising(logging.Handler):
            def handle(self, record: logging.LogRecord) -> bool:
                raise RuntimeError("handler")

        foo = start_foo(self.SECTION)
        monkeypatch.setattr(Capture, "wants", self._boom)
        ours = logging.getLogger("nameko_eventlog")
        ours.addHandler(Raising(logging.ERROR))

        assert 5 == foo.run(lambda service: 5)
        assert "RuntimeError: handler" in capsys.readouterr().err
        monkeypatch.setattr(logging, "raiseExceptions", False)
        assert 5 == foo.run(lambda service: 5)
        assert "" == capsys.readouterr().err
        ours.handlers[:] = []

    @pytest.mark.parametrize("error", [eventlet.Timeout, GreenletExit])
    def test_base_exceptions_escape(
        self, start_foo: Any, monkeypatch: Any, logger: logging.Logger, error: type
    ) -> None:
        """
        A timeout or a kill is the caller's, and gets out of a log call and a manual one.
        """
        foo = start_foo()

        def interrupt(*args: Any) -> Any:
            raise error

        def work(service: FooService) -> list[str]:
            escaped = []
            with monkeypatch.context() as patch:
                patch.setattr(sinks, "OutboxEntry", interrupt)
                for call in (logger.info, service.eventlog):
                    try:
                        call("x")
                    except error as exc:
                        escaped.append(type(exc))
            logger.info("and on")
            return escaped

        assert [error, error] == foo.run(work)
        assert ["and on"] == names(foo.stop())

    def test_unknown_worker(self, foo: Foo) -> None:
        """
        The hooks stand a worker that was never given its dependency.
        """

        class WorkerContext:
            entrypoint = None

        foo.provider.worker_setup(WorkerContext())
        foo.provider.worker_result(WorkerContext(), 1, None)
        foo.provider.worker_teardown(WorkerContext())
        foo.provider.worker_teardown(5)


class Bar:
    """
    A consumer that notes its own call stack.
    """

    name = "bar"

    class Context(DependencyProvider):  # type: ignore[misc]
        """
        Inject the worker's context.
        """

        def get_dependency(self, worker_ctx: Any) -> Any:
            """
            Return it.
            """
            return worker_ctx

    context = Context()

    @event_handler("foo", "log_event")
    def handle(self, body: Any) -> Any:
        """
        Return what came and what it came with.
        """
        return body, self.context.call_id_stack, dict(self.context.data)


class Adding(DependencyProvider):  # type: ignore[misc]
    """
    A provider that adds to the context data.
    """

    def worker_setup(self, worker_ctx: Any) -> None:
        """
        Add.
        """
        worker_ctx.data["user"] = "bob"


class TestMessage:
    """
    The message on the wire.
    """

    @pytest.fixture
    def wire(self, run_service: Any, any_config: Any) -> Any:
        """
        Start `FooService` on RabbitMQ and on memory.
        """
        listeners = []

        def start(service: type = FooService, section: Any = None, **config: Any) -> Foo:
            whole = {**any_config, "EVENTLOG_DISPATCHER": section, **config}
            container = run_service(service, whole, start=False)
            listeners.append(Listener(whole))
            container.start()
            return Foo(container, listeners[-1])

        yield start
        for listener in listeners:
            listener.close()

    def test_properties(self, wire: Any, logger: logging.Logger) -> None:
        """
        Id, time, type and service are in AMQP's own properties; the message is persistent.
        """
        foo = wire()
        began = time.time()
        random.seed(5)
        foo.run(lambda service: [service.eventlog("paid"), logger.info("é" * 300)])
        random.seed(5)
        foo.run(lambda service: [logger.info("a\ud800"), service.eventlog("paid")])

        messages = foo.messages(4)
        ids = [uuid.UUID(message.properties["message_id"]) for message in messages]
        assert [7] * 4 == [one.version for one in ids]
        assert ids == sorted(ids)
        assert 4 == len(set(ids))
        assert began - 1 <= (ids[0].int >> 80) / 1000 <= time.time() + 1
        assert ["paid", "é" * 127, "a?", "paid"] == [
            message.properties["type"] for message in messages
        ]
        for message in messages:
            properties = message.properties
            assert ("foo", 2) == (properties["app_id"], properties["delivery_mode"])
            stamp = properties["timestamp"]
            stamp = stamp.timestamp() if hasattr(stamp, "timestamp") else stamp
            assert began - 1 <= stamp <= time.time() + 1
            assert ("application/json", "utf-8") == (
                message.content_type,
                message.content_encoding,
            )
            assert "log_event" == message.delivery_info["routing_key"]
            assert "foo.events" == message.delivery_info["exchange"]

    def test_call_stack_continues(
        self, run_service: Any, any_config: Any, logger: logging.Logger
    ) -> None:
        """
        The consumer's call stack continues the sender's, and it gets the context data.
        """
        foo = run_service(FooService, any_config)
        bar = run_service(Bar, any_config)

        with entrypoint_waiter(bar, "handle", timeout=60) as result:
            data = {"language": "en", "call_id_stack": ["web.get.1"]}
            with entrypoint_hook(foo, "foo_method", data) as hook:
                hook(lambda service: logger.info("paid"))
        body, call_stack, context_data = result.get()

        assert ["web.get.1", body["call_id"]] == body["call_stack"]
        assert body["call_stack"] == call_stack[:2]
        assert call_stack[2].startswith("bar.handle.")
        assert "en" == context_data["language"]

    def test_context_data_that_changes(self, wire: Any) -> None:
        """
        The headers follow what other providers add, auto captured or not.
        """

        class Service(FooService):
            adding = Adding()

        foo = wire(Service, {"auto_capture": True, "capture_types": ["Entrypoint"]})

        def work(service: Any) -> None:
            service.eventlog("a")
            service.eventlog("b")

        foo.run(work)

        headers = [message.headers for message in foo.messages(3)]
        assert ["bob", "bob"] == [one["nameko.user"] for one in headers[1:]]
        assert 1 == len({one["nameko.call_id_stack"][0] for one in headers})

    def test_options(self, wire: Any) -> None:
        """
        The publisher's options that are honoured are honoured.
        """

        class Service(FooService):
            eventlog = EventLogDispatcher(
                serializer="yaml",
                headers={"tenant": "acme"},
                priority=3,
                expiration=60,
                compression="zlib",
            )

        foo = wire(Service)
        foo.run(lambda service: service.eventlog("paid", {"a": {1}}))

        (message,) = foo.messages(1)
        assert {"a": {1}} == message.decode()["data"]
        assert "acme" == message.headers["tenant"]
        assert (3, "60000") == (message.properties["priority"], message.properties["expiration"])
        assert ("application/x-yaml", "application/x-gzip") == (
            message.content_type,
            message.headers["compression"],
        )

    def test_option_uri(self, start_foo: Any) -> None:
        """
        A broker of its own for event logs: the option ``uri``, and the key over it.
        """

        class Service(FooService):
            eventlog = EventLogDispatcher(uri="memory://")

        foo = start_foo(service=Service)
        foo.run(lambda service: service.eventlog("paid"))

        assert ["paid"] == names(foo.bodies(1))
        settings = compat.publisher_settings(foo.provider, None)
        assert ("memory://", "memory://other") == (
            settings.connection.uri,
            compat.publisher_settings(foo.provider, "memory://other").connection.uri,
        )

    def test_serializers(self, start_foo: Any, logger: logging.Logger) -> None:
        """
        The service's configured serializer is used, one of its own under SERIALIZERS as well.
        """
        foo = start_foo(
            serializer="upper",
            accept=["upper"],
            SERIALIZERS={
                "upper": {
                    "encoder": "tests.dispatching.test_dispatcher.upper_dumps",
                    "decoder": "tests.dispatching.test_dispatcher.upper_loads",
                    "content_type": "application/x-upper",
                    "content_encoding": "utf-8",
                }
            },
        )
        foo.run(lambda service: [service.eventlog("paid", {"a": 1}), logger.info("log")])

        messages = foo.messages(2)
        assert ["application/x-upper"] * 2 == [one.content_type for one in messages]
        assert ["PAID", "LOG"] == [one.decode()["EVENT_TYPE"] for one in messages]

    def test_stats(self, foo: Foo, logger: logging.Logger) -> None:
        """
        The injected callable has the counts.
        """

        def work(service: FooService) -> Any:
            logger.info("log")
            service.eventlog("manual")
            return service.eventlog.stats()

        stats = foo.run(work)
        stats.pop("not_forwarded")

        assert {
            "accepted": 2,
            "confirmed": 2,
            "waiting": 0,
            "undelivered": 0,
            "republished": 0,
            "oldest_seconds": 0,
            "reconnects": 0,
            "blocked_seconds": 0,
            "unpersisted_count": 0,
            "stalled_seconds": 0,
            "refused": 0,
        } == stats


def upper_dumps(value: Any) -> str:
    """
    Encode in capitals.
    """
    return json.dumps(value).upper()


def upper_loads(text: str) -> Any:
    """
    Decode.
    """
    return json.loads(text)


class TestLifecycle:
    """
    Start, stop, kill.
    """

    def test_before_start(self, start_foo: Any) -> None:
        """
        Event logs are taken from ``setup`` on.
        """

        class Early(EventLogDispatcher):
            def setup(self) -> None:
                super().setup()
                self.outside.emit(EventLog("early"))

        class Service(FooService):
            eventlog = Early()

        assert ["early"] == names(start_foo(service=Service).bodies(1))

    def test_kill(self, foo: Foo, logger: logging.Logger) -> None:
        """
        A killed container still delivers what it has.
        """
        foo.run(lambda service: [logger.info("a") for _ in range(100)])
        foo.container.kill()

        assert 100 == len(foo.bodies(100))

    def test_stop_twice(self, foo: Foo) -> None:
        """
        Stopping twice, or before the setup, does nothing.
        """
        foo.provider.stop()
        foo.provider.stop()
        foo.provider.kill()
        EventLogDispatcher().stop()
        EventLogDispatcher().kill()

    def test_unregistered(self, foo: Foo, logger: logging.Logger) -> None:
        """
        A stopped service's sink is nobody's any more.
        """
        logger.handlers[:] = [EventLogHandler(service="foo")]
        foo.stop()
        with logging_ext.bind_sink(None):
            logger.info("late")

        assert [] == foo.listener.rest()
