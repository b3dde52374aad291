"""
Every bad input that the issue names, through the manual call and through the loggers.

A manual call says what is wrong with which argument and dispatches nothing; a log line's
event log goes out, with a repr in the place of what cannot be sent.
"""

from __future__ import annotations

import contextvars
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import eventlet
import eventlet.tpool
import pytest
import structlog
from nameko.testing.services import dummy, entrypoint_hook

import logging_ext
from nameko_eventlog import EventLogDispatcher, NotConfirmed
from tests.dispatching.services import (
    Foo,
    FooService,
    Listener,
    log_through_handler,
    log_through_structlog,
)
from tests.dispatching.test_dispatcher import Loud


class Unprintable:
    """
    An object whose ``__repr__`` and ``__str__`` raise.
    """

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")


UNPRINTABLE = "<Unprintable object whose repr raised RuntimeError>"


def cycle() -> dict[str, Any]:
    """
    Return a mapping that contains itself.
    """
    value: dict[str, Any] = {}
    value["self"] = value
    return value


def deep() -> dict[str, Any]:
    """
    Return 10,000 levels of nesting.
    """
    value: dict[str, Any] = {}
    for _ in range(10_000):
        value = {"d": value}
    return value


def levels(value: Any) -> int:
    """
    Return how deep *value* is nested.
    """
    count = 0
    while isinstance(value, dict):
        value, count = next(iter(value.values())), count + 1
    return count


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Let pytest's own handlers stand records that cannot be formatted: by default they raise.
    """
    monkeypatch.setattr(type(caplog.handler), "handleError", lambda self, record: None)


@pytest.fixture(params=["handler", "structlog"])
def log(request: pytest.FixtureRequest) -> Callable[..., None]:
    """
    Log an event type with data, through the standard library or through structlog.
    """
    if request.param == "handler":
        logger = log_through_handler()
        logger.propagate = False  # pytest's own handler lets errors of a __str__ out
        return lambda event_type, **data: logger.info(event_type, extra=data)
    events = log_through_structlog()
    return lambda event_type, **data: events.info(event_type, **data)


def refused(foo: Foo, *args: Any, error: type[Exception], **kwargs: Any) -> str:
    """
    Return what a manual call says; nothing is dispatched, and the next call works.
    """

    def work(service: FooService) -> str:
        with pytest.raises(error) as raised:
            service.eventlog(*args, **kwargs)
        service.eventlog("next")
        return str(raised.value)

    message: str = foo.run(work)
    assert ["next"] == [body["event_type"] for body in foo.stop()]
    return message


def one(foo: Foo, function: Callable[[], Any]) -> Any:
    """
    Return the body of the one event log that *function* makes in a worker.
    """
    foo.run(lambda service: function())
    (body,) = foo.stop()
    return body


VALUES: list[tuple[Any, type[Exception], str, Any]] = [
    (float("nan"), ValueError, "{path} is nan, which JSON cannot represent", "nan"),
    (float("inf"), ValueError, "{path} is inf, which JSON cannot represent", "inf"),
    (float("-inf"), ValueError, "{path} is -inf, which JSON cannot represent", "-inf"),
    ({5}, TypeError, "{path} is {{5}}, of type set", "{5}"),
    (Unprintable(), TypeError, f"{{path}} is {UNPRINTABLE}", UNPRINTABLE),
    ({1: 2}, TypeError, "{path} has the key 1; keys must be strings", {"1": 2}),
    ({None: {2.5: 1}}, TypeError, "{path} has the key None", {"None": {"2.5": 1}}),
    (
        {"__type__": "x", "__value__": 1},
        ValueError,
        "{path} has only the keys '__type__' and '__value__'",
        "{'__type__': 'x', '__value__': 1}",
    ),
]


class TestValues:
    """
    Values that cannot be sent.
    """

    @pytest.mark.parametrize(("value", "error", "message", "shown"), VALUES)
    @pytest.mark.parametrize("argument", ["event_data", "metadata"])
    def test_manual(
        self, foo: Foo, argument: str, value: Any, error: Any, message: str, shown: Any
    ) -> None:
        """
        A manual call names the argument and the path, at depth.
        """
        said = refused(foo, "paid", **{argument: {"items": [0, {"owner": value}]}}, error=error)

        assert said.startswith(message.format(path=f"{argument}.items[1].owner"))
        assert "; " in said

    @pytest.mark.parametrize(("value", "error", "message", "shown"), VALUES)
    def test_logged(
        self, foo: Foo, log: Any, value: Any, error: Any, message: str, shown: Any
    ) -> None:
        """
        A log line has a repr in the value's place, and all else as it was.
        """
        body = one(foo, lambda: log("paid", top=value, items=[0, {"owner": value}], good=1))

        assert {"top": shown, "items": [0, {"owner": shown}], "good": 1} == body["data"]

    @pytest.mark.parametrize("value", [b"bytes", b"\xff\x00", "\ud800", "a\udfffb", 2**100])
    def test_what_only_looks_bad(self, foo: Foo, log: Any, value: Any) -> None:
        """
        Bytes, lone surrogates and large integers arrive as what they were, all three ways.
        """

        def work(service: FooService) -> None:
            service.eventlog("paid", {"value": value}, {"m": [value]})
            log("paid", value=value, metadata={"m": [value]})

        foo.run(work)
        for body in foo.bodies(2):
            assert ({"value": value}, [value]) == (body["data"], body["m"])

    def test_cycle(self, start_foo: Any, log: Any) -> None:
        """
        A cycle is refused by path, or cut.
        """
        message = refused(start_foo(), "paid", cycle(), error=ValueError)
        assert "event_data.self contains itself; pass a copy without the cycle" == message

        body = one(start_foo(), lambda: log("paid", value=cycle()))
        assert {"value": {"self": "[contains itself: cut]"}} == body["data"]

    def test_depth(self, start_foo: Any, log: Any) -> None:
        """
        10,000 levels are refused by path, or cut after 100.
        """
        message = refused(start_foo(), "paid", deep(), error=ValueError)
        assert message.startswith("event_data.d.d.d")
        assert message.endswith(".d is nested more than 100 levels deep; flatten it")

        body = one(start_foo(), lambda: log("paid", value=deep()))
        assert 100 == levels(body["data"])

    def test_ten_megabytes(self, start_foo: Any, log: Any) -> None:
        """
        10 MB are refused, or replaced by a marker that says how large it was.
        """
        message = refused(start_foo(), "paid", {"a": "x" * 10_000_000}, error=ValueError)
        assert "has 10000" in message
        assert "max_event_bytes (1048576)" in message

        body = one(start_foo(), lambda: log("paid", value="x" * 10_000_000))
        assert "has 10000" in body["data"]["oversized"]

    def test_keys_on_top(self, start_foo: Any, log: Any) -> None:
        """
        Keys that are no strings are refused, or become their repr, on top as well.
        """
        message = refused(start_foo(), "paid", {5: 1}, error=TypeError)
        assert message.startswith("event_data has the key 5; keys must be strings")

        body = one(start_foo(), lambda: log("paid", event_data={5: 1}, metadata={6: 2}))
        assert ({"5": 1}, 2) == (body["data"], body["6"])


class TestEventTypes:
    """
    Event types.
    """

    @pytest.mark.parametrize("value", [None, 5, b"paid", ["paid"], Unprintable()])
    def test_manual(self, foo: Foo, value: Any) -> None:
        """
        A manual call wants a string.
        """
        message = refused(foo, value, error=TypeError)
        assert message.startswith("event_type must be a string, not ")

    def test_empty(self, start_foo: Any, log: Any) -> None:
        """
        An empty one is refused, or shown as such.
        """
        message = refused(start_foo(), "", error=ValueError)
        assert "event_type must not be empty; say what happened" == message

        assert "(empty)" == one(start_foo(), lambda: log(""))["event_type"]

    @pytest.mark.parametrize(
        ("value", "shown"),
        [(5, "5"), (None, None), (["a"], "['a']")],
    )
    def test_no_string(self, foo: Foo, log: Any, value: Any, shown: str | None) -> None:
        """
        One that is no string counts by its text.
        """
        body = one(foo, lambda: log(value))
        assert body["event_type"] == shown if shown else body["event_type"] in ("None", "(empty)")

    @pytest.mark.parametrize("value", ["x" * 300, "é" * 200, "a\ud800b"])
    def test_what_does_not_fit_into_amqp(self, foo: Foo, log: Any, value: str) -> None:
        """
        A long one, or lone surrogates, are whole in the body and cut in the message's type.
        """
        foo.run(lambda service: [service.eventlog(value), log(value)])

        cut = value.encode("utf-8", "replace")[:255].decode("utf-8", "ignore")
        for message in foo.messages(2):
            assert (value, cut) == (message.decode()["event_type"], message.properties["type"])


class TestArguments:
    """
    Event data and metadata of the wrong kind.
    """

    @pytest.mark.parametrize("value", ["text", [1], 5, {1}, Unprintable()])
    @pytest.mark.parametrize("argument", ["event_data", "metadata"])
    def test_manual(self, foo: Foo, argument: str, value: Any) -> None:
        """
        A manual call wants mappings.
        """
        message = refused(foo, "paid", **{argument: value}, error=TypeError)
        assert message.startswith(f"{argument} must be a mapping or None, not ")

    @pytest.mark.parametrize(
        ("value", "shown"),
        [("text", "'text'"), ([1], "[1]"), (5, "5"), (Unprintable(), UNPRINTABLE)],
    )
    def test_logged(self, foo: Foo, log: Any, value: Any, shown: str) -> None:
        """
        Our own reserved names, bound to the wrong kind, become data as their repr.
        """
        body = one(foo, lambda: log("paid", event_data=value, metadata=value, other=1))

        assert {"event_data": shown, "metadata": shown, "other": 1} == body["data"]

    def test_none(self, foo: Foo, log: Any) -> None:
        """
        None is no data.
        """
        assert {} == one(foo, lambda: log("paid", event_data=None, metadata=None))["data"]


class TestMessages:
    """
    Log messages.
    """

    @pytest.mark.parametrize(
        ("template", "args"),
        [("paid %d", ("x",)), ("paid", ("x",)), ("%s %s", ("x",)), ("%s", (Unprintable(),))],
    )
    def test_arguments_that_do_not_fit(
        self, foo: Foo, quiet: None, template: str, args: tuple[Any, ...]
    ) -> None:
        """
        Arguments that do not fit are rendered as far as they go.
        """
        logger = log_through_handler()
        body = one(foo, lambda: logger.info(template, *args))

        assert template == body["event_type"]
        assert "x" in body["message"] or UNPRINTABLE in body["message"]

    def test_root_at_debug(self, foo: Foo) -> None:
        """
        The handler on the root logger at DEBUG forwards a worker's records, and no circle.
        """
        logging.root.addHandler(logging_ext.EventLogHandler())
        logging.root.setLevel(logging.DEBUG)
        logger = logging.getLogger("foo_service.root")

        def work(service: FooService) -> None:
            logger.debug("debugged")
            service.eventlog("by hand")

        foo.run(work)
        logging.root.setLevel(logging.WARNING)

        bodies = foo.stop()
        kinds = [body["event_type"] for body in bodies]
        assert 1 == kinds.count("debugged")
        assert 1 == kinds.count("by hand")
        assert {"nameko"} == {
            body["logger"].partition(".")[0]
            for body in bodies
            if body.get("logger") not in (None, "foo_service.root")
        }

    def test_processor_and_handler(self, foo: Foo) -> None:
        """
        structlog's processor and the handler both see a call: one event log.
        """
        log_through_handler()
        for last in (
            structlog.stdlib.render_to_log_kwargs,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            structlog.processors.JSONRenderer(),
        ):
            structlog.configure(
                processors=[
                    structlog.stdlib.add_log_level,
                    logging_ext.EventLogProcessor(),
                    last,
                ],
                logger_factory=structlog.stdlib.LoggerFactory(),
                wrapper_class=structlog.stdlib.BoundLogger,
                cache_logger_on_first_use=False,
            )
            events = structlog.get_logger("foo_service")
            foo.run(lambda service, events=events: events.info("paid", amount=5))

        bodies = foo.stop()
        assert [("paid", {"amount": 5})] * 3 == [
            (body["event_type"], body["data"]) for body in bodies
        ]


class TestPlaces:
    """
    Calls from odd places.
    """

    def test_threads(self, foo: Foo, log: Any) -> None:
        """
        From a real OS thread, and from a green thread.
        """

        def work(service: FooService) -> None:
            def spawned() -> None:
                log("spawned", value={1})

            eventlet.tpool.execute(contextvars.copy_context().run, lambda: log("tpool", value={1}))
            eventlet.tpool.execute(service.eventlog, "tpool by hand")
            eventlet.spawn(contextvars.copy_context().run, spawned).wait()
            eventlet.spawn(log, "nobody's").wait()

        foo.run(work)

        bodies = foo.stop()
        assert ["tpool", "tpool by hand", "spawned"] == [body["event_type"] for body in bodies]
        assert 1 == len({body["call_id"] for body in bodies})

    def test_after_the_container_has_stopped(self, foo: Foo, log: Any, caplog: Any) -> None:
        """
        After the container has stopped an event log is undelivered by name.
        """
        saved: list[Any] = []
        foo.run(lambda service: saved.extend([contextvars.copy_context(), service.eventlog]))
        foo.stop()

        saved[0].run(log, "late")
        with pytest.raises(NotConfirmed, match="the service has stopped; it was not sent"):
            saved[1]("late by hand")

        lines = [
            json.loads(record.getMessage())
            for record in caplog.records
            if record.name == "nameko_eventlog.undelivered"
        ]
        assert ["late"] == [json.loads(line["body"])["event_type"] for line in lines]
        assert 1 == saved[1].stats()["undelivered"]

    @pytest.mark.filterwarnings("ignore:Using fork:DeprecationWarning")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_forked_child(self, foo: Foo, log: Any) -> None:
        """
        A forked child neither publishes nor hangs: what it logs is undelivered by name.
        """
        read, write = os.pipe()

        def work(service: FooService) -> int:
            service.eventlog("parent")
            child = os.fork()
            if child:
                return child
            status = 1
            try:
                signal.alarm(20)
                lines: list[str] = []
                handler = logging.Handler()
                handler.emit = lambda record: lines.append(  # type: ignore[method-assign]
                    record.getMessage()
                )
                logging.getLogger("nameko_eventlog.undelivered").addHandler(handler)
                log("child", value={1})
                try:
                    service.eventlog("child by hand")
                except NotConfirmed as exc:
                    lines.append(str(exc))
                os.write(write, json.dumps([lines, service.eventlog.stats()]).encode())
                status = 0
            finally:
                os._exit(status)

        child = foo.run(work)
        _, status = eventlet.tpool.execute(os.waitpid, child, 0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            lines, stats = json.load(pipe)

        assert 0 == status
        assert '"type": "child"' in lines[0]
        assert "forked child" in lines[1]
        assert (1, 1) == (stats["accepted"], stats["undelivered"])
        foo.run(lambda service: service.eventlog("parent again"))
        assert ["parent", "parent again"] == [body["event_type"] for body in foo.stop()]

    def test_module_import(self, tmp_path: Any) -> None:
        """
        A log call while a module is imported is nobody's, said once, and harms nothing.
        """
        script = """
            import logging
            logging.basicConfig(format="%(name)s %(message)s")
            import logging_ext, structlog
            logging.getLogger("app").addHandler(logging_ext.EventLogHandler())
            structlog.configure(processors=[
                logging_ext.EventLogProcessor(), lambda *args: ""],
                logger_factory=structlog.ReturnLoggerFactory())
            for _ in range(3):
                logging.getLogger("app").warning("imported")
                structlog.get_logger().info("imported")
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

        assert 1 == done.stderr.count("was logged outside any worker and was not forwarded")
        assert 3 == done.stderr.count("app imported")

    def test_two_services(self, start_foo: Any, log: Any) -> None:
        """
        Two services in one process, bad values in both.
        """

        class Bar(FooService):
            name = "bar"

        foo, bar = start_foo(), start_foo(service=Bar)
        foo.run(lambda _: bar.run(lambda _: log("inner", v={1})) or log("outer", v={2}))

        assert [("foo", "outer", {"v": "{2}"})] == _seen(foo)
        assert [("bar", "inner", {"v": "{1}"})] == _seen(bar)

    def test_subclass_and_loud_providers(self, start_foo: Any, log: Any) -> None:
        """
        A subclass with the three attributes changed, beside providers that log in their hooks.
        """

        class Dispatcher(EventLogDispatcher):
            ENTRYPOINT_FIRED = "begun"
            EVENT_TYPE = "mine"
            ENTRYPOINT_TYPES_TO_LOG = (object,)

        class Service(FooService):
            aaa = Loud()
            eventlog = Dispatcher()
            zzz = Loud()

        log_through_handler()
        foo = start_foo({"auto_capture": True}, service=Service, event_type="mine")
        foo.run(lambda service: log("work"))

        kinds = [body["event_type"] for body in foo.stop()]
        assert {"begun": 1, "setup": 2, "work": 1, "result": 2} == {
            kind: kinds.count(kind) for kind in ("begun", "setup", "work", "result")
        }


def _seen(foo: Foo) -> list[Any]:
    return [(body["service_name"], body["event_type"], body["data"]) for body in foo.stop()]


class TestHeaders:
    """
    Context headers.
    """

    def test_200_kilobytes(self, run_service: Any, rabbit_config: Any, caplog: Any) -> None:
        """
        Headers that no AMQP frame holds: undelivered by name, and the next event logs arrive.
        """

        class Service(FooService):
            @dummy
            def small(self) -> None:
                self.eventlog("small")

        config = {**rabbit_config, "EVENTLOG_DISPATCHER": {"confirm_timeout": 30}}
        container = run_service(Service, config)
        listener = Listener(config)
        logger = log_through_handler()

        def work(service: FooService) -> str:
            logger.info("logged")
            with pytest.raises(NotConfirmed) as raised:
                service.eventlog("by hand")
            return str(raised.value)

        with entrypoint_hook(container, "foo_method", {"big": "x" * 200_000}) as hook:
            message = hook(work)
        with entrypoint_hook(container, "small") as hook:
            hook()

        assert "was not confirmed" in message
        assert ["small"] == [body["event_type"] for body in listener.bodies(1)]
        listener.close()
        lines = [
            json.loads(record.getMessage())
            for record in caplog.records
            if record.name == "nameko_eventlog.undelivered"
        ]
        assert ["logged", "by hand"] == [line["properties"]["type"] for line in lines]
        assert {200_000} == {len(line["properties"]["headers"]["nameko.big"]) for line in lines}
