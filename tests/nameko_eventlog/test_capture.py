"""
Auto capture: stages, types, exclusions, arguments.
"""

from __future__ import annotations

import urllib.request
from typing import Any

import pytest
from nameko.rpc import Rpc, rpc
from nameko.testing.services import dummy, entrypoint_hook
from nameko.web.handlers import HttpRequestHandler, http

from nameko_eventlog import EventLogDispatcher
from nameko_eventlog.capture import as_tuple
from tests.nameko_eventlog.services import FooService, Listener, without_ids


class Expected(Exception):
    """
    An error that the entrypoint expects.
    """


class SpecialRpc(Rpc):  # type: ignore[misc]
    """
    A derived entrypoint.
    """


special_rpc = SpecialRpc.decorator


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
            (["Extension"], 0),
            (["entrypoint"], 0),
            (["extensions.Entrypoint"], 0),
            (["nameko.extensions.Extension"], 0),
            ([], 0),
        ],
    )
    def test_by_name(self, call: Any, types: list[str], captured: int) -> None:
        """
        Names are exact class names or dotted paths, not those of bases, and replace the default.
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
        RPC and HTTP entrypoints are captured by default, derived classes by the default alone.
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
            section = {"auto_capture": True, "capture_types": types, "capture_arguments": True}
            config = {**rabbit_config, **web_config, "EVENTLOG_DISPATCHER": section}
            container = run_service(Service, config, start=False)
            listener = Listener(config)
            container.start()
            for method in ("by_rpc", "by_special_rpc"):
                with entrypoint_hook(container, method) as hook:
                    hook()
            urllib.request.urlopen(f"http://{config['WEB_SERVER_ADDRESS']}/").close()
            container.stop()
            bodies = listener.rest()
            listener.close()
            names.append([body["entrypoint_protocol"] for body in bodies])
            assert bodies[-1]["data"].keys() in ({"request"}, {"args", "kwargs"})

        assert [
            ["Rpc", "SpecialRpc", HttpRequestHandler.__name__],
            ["Rpc", HttpRequestHandler.__name__],
        ] == names


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

        counted = "[redacted: 3 without a name, which do not fit the method]"
        assert {"args": counted, "kwargs": {"x": 4}} == body["data"]

    def test_arguments_that_cannot_be_copied(self, call: Any) -> None:
        """
        Arguments that cannot be copied are given as they are, if none of them is sensitive.
        """
        (body,) = call("plain", Unreadable(), capture_arguments=True)
        assert {"value": "Unreadable", "other": 2} == body["data"]

        (body,) = call("pay", Unreadable(), "secret", capture_arguments=True)
        assert {"arguments": "[redacted: RuntimeError on reading them]"} == body["data"]
