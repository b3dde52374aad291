"""
Auto capture: stages, types, exclusions, arguments.
"""

from __future__ import annotations

import logging
import urllib.request
from typing import Any

import eventlet
import pytest
from greenlet import GreenletExit
from nameko.containers import WorkerContext
from nameko.exceptions import ConfigurationError
from nameko.extensions import Entrypoint
from nameko.rpc import Rpc, rpc
from nameko.testing.services import dummy, entrypoint_hook
from nameko.testing.utils import get_extension
from nameko.web.handlers import HttpRequestHandler, http

from logging_ext import EventLogHandler
from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.dispatching.capture import as_tuple
from tests.dispatching.services import FooService, Listener, without_ids
from tests.waiting import wait_until


class Expected(Exception):
    """
    An error that the entrypoint expects.
    """


class SpecialRpc(Rpc):  # type: ignore[misc]
    """
    A derived entrypoint.
    """


special_rpc = SpecialRpc.decorator

QUERY = {"a": ["1", "2"], "password": "[redacted]", "order": "7"}


class Unreadable:
    """
    An argument that cannot be copied.
    """

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("secret")

    def __repr__(self) -> str:
        return "Unreadable"


class CapturedService(FooService):
    """
    Entrypoints of all kinds; the RPC ones are fired by hooks, which need no broker.
    """

    eventlog = EventLogDispatcher()

    @dummy(expected_exceptions=Expected)
    def expecting(self, error: Exception) -> None:
        """
        Raise what is passed.
        """
        raise error

    @dummy(expected_exceptions=(Expected, KeyError))
    def expecting_two(self, error: Exception) -> None:
        """
        Raise what is passed.
        """
        raise error

    @dummy(sensitive_arguments=("password", "card.number"))
    def pay(self, card: Any, password: str = "none", *more: Any, **options: Any) -> str:
        """
        Take arguments of all kinds.
        """
        return "paid"

    @dummy
    def plain(self, value: Any, other: Any = 2) -> Any:
        """
        Return the value.
        """
        return value


class DummyDispatcher(EventLogDispatcher):
    """
    Capture entrypoints of every class.
    """

    ENTRYPOINT_TYPES_TO_LOG = (object,)


class EverythingService(CapturedService):
    """
    The same, all of it captured.
    """

    eventlog = DummyDispatcher()


@pytest.fixture
def call(start_foo: Any) -> Any:
    """
    Start the service, call one of its methods, and return the bodies dispatched.
    """

    def call(
        method: str,
        *args: Any,
        raises: type[Exception] | None = None,
        service: type = EverythingService,
        arguments: dict[str, Any] | None = None,
        **eventlog: Any,
    ) -> list[Any]:
        foo = start_foo({"auto_capture": True, **eventlog}, service=service)
        with entrypoint_hook(foo.container, method) as hook:
            if raises is None:
                hook(*args, **(arguments or {}))
            else:
                with pytest.raises(raises):
                    hook(*args, **(arguments or {}))
        bodies: list[Any] = foo.stop()
        return bodies

    return call


class TestStages:
    """
    What is captured when.
    """

    def test_fired_by_default(self, call: Any) -> None:
        """
        By default a call is captured when it begins, and the body holds nothing else.
        """
        (body,) = call("plain", 1)

        assert {
            "service_name": "foo",
            "entrypoint_protocol": "Entrypoint",
            "entrypoint_name": "plain",
            "event_type": "entrypoint_fired",
            "data": {},
        } == without_ids(body)
        assert body["call_id"].startswith("foo.plain.")
        assert [body["call_id"]] == body["call_stack"]

    def test_completed(self, call: Any) -> None:
        """
        A call that returned is completed, with its duration.
        """
        fired, completed = call("plain", 1, capture_stages=["fired", "completed", "failed"])

        assert ["entrypoint_fired", "entrypoint_completed"] == [
            fired["event_type"],
            completed["event_type"],
        ]
        assert 0 <= completed["duration"] < 10
        assert {"duration"} == completed.keys() - fired.keys()
        assert fired["call_id"] == completed["call_id"]

    @pytest.mark.parametrize(
        ("method", "error", "expected"),
        [
            ("expecting", Expected("a"), True),
            ("expecting", KeyError("a"), False),
            ("expecting_two", KeyError("a"), True),
            ("expecting_two", ValueError("a"), False),
        ],
    )
    def test_failed(self, call: Any, method: str, error: Exception, expected: bool) -> None:
        """
        A call that raised has failed, with the exception, and whether it was expected.
        """
        (failed,) = call(method, error, raises=type(error), capture_stages=["completed", "failed"])

        assert ("entrypoint_failed", expected) == (failed["event_type"], failed["expected"])
        (exception,) = failed["exception"]
        assert type(error).__name__ == exception["exc_type"]
        assert method == exception["frames"][-1]["name"]
        assert not any("locals" in frame for frame in exception["frames"])
        assert failed["duration"] >= 0

    @pytest.mark.parametrize("stages", [[], ["failed"]])
    def test_none_of_them(self, call: Any, stages: list[str]) -> None:
        """
        A stage that is not asked for is not captured.
        """
        assert [] == call("plain", 1, capture_stages=stages)

    def test_off_by_default(self, start_foo: Any) -> None:
        """
        Without ``auto_capture`` nothing is captured.
        """
        foo = start_foo({"capture_stages": ["fired", "completed"]}, service=EverythingService)
        foo.run(lambda service: None)

        assert [] == foo.stop()


class TestTypes:
    """
    Which entrypoints are captured.
    """

    def test_default_types(self, call: Any) -> None:
        """
        By default others than RPC and HTTP are not.
        """
        assert [] == call("plain", 1, service=CapturedService)

    @pytest.mark.parametrize(
        ("types", "captured"),
        [
            (["Entrypoint"], 1),
            (["nameko.extensions.Entrypoint"], 1),
            (["Rpc", "Entrypoint"], 1),
            (["Extension"], 1),
            (["nameko.extensions.Extension"], 1),
            (["entrypoint"], 0),
            (["extensions.Entrypoint"], 0),
            (["object"], 0),
            ([], 0),
        ],
    )
    def test_by_name(self, call: Any, types: list[str], captured: int) -> None:
        """
        Names are class names or dotted paths, of the class or of a base; they replace the default.
        """
        assert captured == len(call("plain", 1, capture_types=types))

    def test_excluded(self, call: Any) -> None:
        """
        A method that is excluded is not captured, at no stage.
        """
        assert [] == call(
            "plain",
            1,
            entrypoints_to_exclude=["other", "plain"],
            capture_stages=["fired", "completed", "failed"],
        )

    @pytest.mark.parametrize(
        ("given", "expected"), [(Rpc, (Rpc,)), ([Rpc], (Rpc,)), ((Rpc, int), (Rpc, int))]
    )
    def test_one_class_or_several(self, given: Any, expected: Any) -> None:
        """
        The class attribute may be one class, as ``isinstance`` takes it.
        """
        assert expected == as_tuple(given)

    def test_rpc_and_http(self, run_service: Any, rabbit_config: Any, web_config: Any) -> None:
        """
        RPC and HTTP entrypoints are captured by default and by name, derived ones among them.
        """

        class Service(FooService):
            eventlog = EventLogDispatcher()

            @rpc
            def by_rpc(self) -> None:
                pass

            @special_rpc
            def by_special_rpc(self) -> None:
                pass

            @http("GET", "/")
            def by_http(self, request: Any) -> str:
                return ""

        names = []
        for types in (None, ["Rpc", "HttpRequestHandler"]):
            section = {
                "auto_capture": True,
                "capture_types": types,
                "capture_arguments": True,
                "redact": ["password"],
            }
            config = {**rabbit_config, **web_config, "EVENTLOG_DISPATCHER": section}
            container = run_service(Service, config, start=False)
            listener = Listener(config)
            container.start()
            for method in ("by_rpc", "by_special_rpc"):
                with entrypoint_hook(container, method) as hook:
                    hook()
            address = f"http://{config['WEB_SERVER_ADDRESS']}/?a=1&a=2&password=secret&order=7"
            urllib.request.urlopen(address).close()
            container.stop()
            bodies = listener.rest()
            listener.close()
            names.append([body["entrypoint_protocol"] for body in bodies])

        assert {"method": "GET", "path": "/", "query": QUERY} == bodies[-1]["data"]["request"]
        assert [
            ["Rpc", "SpecialRpc", HttpRequestHandler.__name__],
            ["Rpc", "SpecialRpc", HttpRequestHandler.__name__],
        ] == names

    @pytest.mark.parametrize(
        ("section", "expected"),
        [
            ({"capture_types": ["Entrypoint", "nameko.extensions.Extension"]}, []),
            (
                {"capture_types": ["Entrypoit", "kafka.Consumer"]},
                [
                    ("capture_types", "'Entrypoit'", "did you mean 'Entrypoint'?"),
                    ("capture_types", "'kafka.Consumer'", "it has Entrypoint"),
                ],
            ),
            (
                {"entrypoints_to_exclude": ["foo_methode"]},
                [
                    (
                        "entrypoints_to_exclude",
                        "'foo_methode'",
                        "did you mean 'foo_method' or 'other_method'?",
                    )
                ],
            ),
            ({"auto_capture": False, "capture_types": ["Entrypoit"]}, []),
        ],
    )
    def test_unknown_names(
        self, start_foo: Any, caplog: Any, section: dict[str, Any], expected: list[Any]
    ) -> None:
        """
        A name that matches no entrypoint gets a warning at the start, with similar names.
        """
        start_foo({"auto_capture": True, **section})

        form = "EVENTLOG_DISPATCHER.{}: {} matches no entrypoint of service foo; {}"
        assert [form.format(*parts) for parts in expected] == [
            record.getMessage()
            for record in caplog.records
            if record.name == "nameko_eventlog" and "matches no" in record.msg
        ]

    @pytest.mark.parametrize("wrong", [5, "Rpc", ("Rpc",), None])
    def test_wrong_class_attribute(self, start_foo: Any, wrong: Any) -> None:
        """
        A class attribute that is no class stops the service at its start.
        """

        class Service(FooService):
            eventlog = type("Own", (EventLogDispatcher,), {"ENTRYPOINT_TYPES_TO_LOG": wrong})()

        with pytest.raises(ConfigurationError, match="ENTRYPOINT_TYPES_TO_LOG must be an entryp"):
            start_foo({"auto_capture": True}, service=Service)


ALL_STAGES = {"auto_capture": True, "capture_stages": ["fired", "completed", "failed"]}


class TestTwoDispatchers:
    """
    Two dispatchers in one service.
    """

    def test_once(self, start_foo: Any) -> None:
        """
        Every captured call is told once, by the first one declared that captures it.
        """

        class Second(DummyDispatcher):
            ENTRYPOINT_FIRED = "second"

        class Service(CapturedService):
            eventlog = DummyDispatcher()
            another = Second()

        foo = start_foo(ALL_STAGES, service=Service)
        with entrypoint_hook(foo.container, "plain") as hook:
            hook(1)

        assert ["entrypoint_fired", "entrypoint_completed"] == [
            body["event_type"] for body in foo.stop()
        ]

    def test_different_types(self, start_foo: Any) -> None:
        """
        What the first one does not capture, the second one may.
        """

        class Second(DummyDispatcher):
            ENTRYPOINT_FIRED = "second"

        class Service(CapturedService):
            eventlog = EventLogDispatcher()
            another = Second()

        foo = start_foo({"auto_capture": True}, service=Service)
        with entrypoint_hook(foo.container, "plain") as hook:
            hook(1)

        assert ["second"] == [body["event_type"] for body in foo.stop()]

    def test_log_lines(self, start_foo: Any) -> None:
        """
        Log lines go to the first one declared, inside and outside workers, in any order of hooks.
        """

        class Second(EventLogDispatcher):
            EVENT_TYPE = "second"

        class Service(FooService):
            eventlog = EventLogDispatcher()
            another = Second()
            third = Second()

        handler = EventLogHandler(service="foo")
        for _ in range(3):  # the order of Nameko's hooks is that of a set
            foo = start_foo(service=Service)

            def work(service: Any) -> None:
                handler.handle(logging.makeLogRecord({"msg": "inside", "name": "foo"}))

            foo.run(work)
            handler.handle(logging.makeLogRecord({"msg": "outside", "name": "foo"}))
            assert ["inside", "outside"] == [body["event_type"] for body in foo.stop()]


def _raising(error: type[BaseException]) -> property:
    """
    Return a property that raises once the service has started: Nameko reads it before.
    """

    def read(self: Any) -> Any:
        if self._is_open:
            raise error
        return "x"

    return property(read)


class TestHooks:
    """
    What our hooks read is read inside the guard.
    """

    STAGES = ("ENTRYPOINT_FIRED", "ENTRYPOINT_COMPLETED", "ENTRYPOINT_FAILED")

    @pytest.mark.parametrize("wrong", [_raising(RuntimeError), None, 5, "", "x" * 600])
    def test_class_attributes(self, start_foo: Any, wrong: Any) -> None:
        """
        A class attribute that raises, or is no event type, leaves the container alive.
        """
        own = type("Own", (DummyDispatcher,), dict.fromkeys(self.STAGES, wrong))

        class Service(CapturedService):
            eventlog = own()

        foo = start_foo(ALL_STAGES, service=Service)
        for _ in range(2):
            with entrypoint_hook(foo.container, "plain") as hook:
                assert 1 == hook(1)
            with entrypoint_hook(foo.container, "expecting") as hook, pytest.raises(Expected):
                hook(Expected())

        bodies = foo.stop()
        assert (0 if isinstance(wrong, property) else 8) == len(bodies)
        assert all(type(body["event_type"]) is str and body["event_type"] for body in bodies)

    def test_class_that_raises(self, start_foo: Any) -> None:
        """
        A class whose check of instances raises leaves the container alive.
        """

        class Meta(type):
            def __instancecheck__(cls, instance: Any) -> bool:
                if instance is None:
                    return False
                raise RuntimeError("boom")

        class Service(CapturedService):
            eventlog = type(
                "Own", (EventLogDispatcher,), {"ENTRYPOINT_TYPES_TO_LOG": Meta("Own", (), {})}
            )()

        foo = start_foo(ALL_STAGES, service=Service)
        with entrypoint_hook(foo.container, "plain") as hook:
            assert 1 == hook(1)

    @pytest.mark.parametrize("error", [eventlet.Timeout, GreenletExit])
    def test_base_exceptions_escape(self, start_foo: Any, error: type[BaseException]) -> None:
        """
        A timeout or a kill in a hook is the worker's.
        """
        foo = start_foo(ALL_STAGES, service=EverythingService)
        provider = foo.provider
        own = {"ENTRYPOINT_FIRED": _raising(error)}
        provider.__class__ = type("Own", (DummyDispatcher,), own)
        worker_ctx = _worker_context(foo)
        provider.get_dependency(worker_ctx)

        with pytest.raises(error):
            provider.worker_setup(worker_ctx)
        provider.worker_teardown(worker_ctx)

    def test_worker_contexts(self, start_foo: Any) -> None:
        """
        A worker's context that raises, whatever is read of it, is stood.
        """

        class Odd:
            __hash__ = object.__hash__

            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(name)

        class Unhashable:
            __hash__ = None  # type: ignore[assignment]

        foo = start_foo(ALL_STAGES, service=EverythingService)
        for worker_ctx in (Odd(), Unhashable(), None):
            assert callable(foo.provider.get_dependency(worker_ctx))
            foo.provider.worker_setup(worker_ctx)
            foo.provider.worker_result(worker_ctx, 1, None)
            foo.provider.worker_teardown(worker_ctx)


def _worker_context(foo: Any) -> Any:
    entrypoint = get_extension(foo.container, Entrypoint, method_name="plain")
    return WorkerContext(foo.container, EverythingService(), entrypoint, (1,), {}, {})


class TestUnfinished:
    """
    Calls of which Nameko tells no result: what came out of them is no ``Exception``.
    """

    def _fire(self, foo: Any, function: Any) -> None:
        entrypoint = get_extension(foo.container, Entrypoint, method_name="foo_method")
        foo.container.spawn_worker(entrypoint, (function,), {})

    def test_timeout(self, start_foo: Any) -> None:
        """
        ``eventlet.Timeout`` out of an entrypoint is an ``entrypoint_failed``.
        """

        def work(service: Any) -> None:
            with eventlet.Timeout(0.01):
                eventlet.sleep(60)

        foo = start_foo(ALL_STAGES, service=EverythingService)
        self._fire(foo, work)

        fired, failed = foo.bodies(2)
        assert ("entrypoint_fired", "entrypoint_failed") == (
            fired["event_type"],
            failed["event_type"],
        )
        assert ("Timeout", False) == (failed["exception"][0]["exc_type"], failed["expected"])
        assert fired["call_id"] == failed["call_id"]
        assert failed["duration"] > 0
        assert [] == foo.stop()

    def test_killed(self, start_foo: Any) -> None:
        """
        So is a worker that is killed with its container.
        """
        foo = start_foo(ALL_STAGES, service=EverythingService)
        self._fire(foo, lambda service: eventlet.sleep(60))
        foo.bodies(1)
        foo.container.kill()

        (failed,) = foo.bodies(1)
        assert ("entrypoint_failed", "GreenletExit") == (
            failed["event_type"],
            failed["exception"][0]["exc_type"],
        )

    def test_other_stages(self, start_foo: Any) -> None:
        """
        Where failures are not captured, nothing is told.
        """

        def work(service: Any) -> None:
            with eventlet.Timeout(0.01):
                eventlet.sleep(60)

        foo = start_foo({"auto_capture": True}, service=EverythingService)
        self._fire(foo, work)
        eventlet.sleep(0)
        wait_until(lambda: not foo.container._worker_threads)

        assert ["entrypoint_fired"] == [body["event_type"] for body in foo.stop()]

    def test_manual_call(self, start_foo: Any) -> None:
        """
        A manual call that a timeout ends stays accepted, and is delivered.
        """

        class Idle(EventLogDispatcher):
            def start(self) -> None:
                pass

        class Service(FooService):
            eventlog = Idle()

        foo = start_foo(service=Service)

        def work(service: Any) -> dict[str, int]:
            with eventlet.Timeout(0.05, False):
                service.eventlog("paid")
            stats: dict[str, int] = service.eventlog.stats()
            return stats

        stats = foo.run(work)
        assert (1, 1) == (stats["accepted"], stats["waiting"])

        foo.provider._delivery.start()
        assert ["paid"] == [body["event_type"] for body in foo.bodies(1)]


class TestArguments:
    """
    ``capture_arguments``.
    """

    def test_by_name(self, call: Any) -> None:
        """
        The call's arguments are the data, by name, with defaults, at every stage.
        """
        bodies = call("plain", [1], capture_arguments=True, capture_stages=["fired", "completed"])

        assert [{"value": [1], "other": 2}] * 2 == [body["data"] for body in bodies]

    def test_sensitive_arguments(self, call: Any) -> None:
        """
        What Nameko calls sensitive is redacted as Nameko does it, and so is what we are told.
        """
        (body,) = call(
            "pay",
            {"number": 1234, "name": "bob"},
            "secret",
            "more",
            arguments={"pin": 5, "day": 6},
            capture_arguments=True,
            redact=["PIN"],
        )

        assert {
            "card": {"number": "********", "name": "bob"},
            "password": "********",
            "more": ["more"],
            "options": {"pin": "[redacted]", "day": 6},
        } == body["data"]

    def test_arguments_that_do_not_fit(self, call: Any) -> None:
        """
        Of arguments that do not fit the method those that have a name are given, the others
        counted: redaction goes by names.
        """
        (body,) = call(
            "plain", 1, 2, 3, arguments={"x": 4}, raises=TypeError, capture_arguments=True
        )

        counted = "[redacted: 3 positional, which do not match the method's signature]"
        assert {"args": counted, "kwargs": {"x": 4}} == body["data"]

    def test_arguments_that_cannot_be_copied(self, call: Any) -> None:
        """
        Arguments that cannot be copied are given as they are, if none of them is sensitive.
        """
        (body,) = call("plain", Unreadable(), capture_arguments=True)
        assert {"value": "Unreadable", "other": 2} == body["data"]

        (body,) = call("pay", Unreadable(), "secret", capture_arguments=True)
        assert {"arguments": "[redacted: reading them raised RuntimeError]"} == body["data"]
