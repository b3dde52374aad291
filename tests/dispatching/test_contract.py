"""
The contract of nameko-eventlog-dispatcher, which ours replaces: calls, configuration, bodies.

Where the old library is installed the same cases run against it as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from nameko.events import event_handler
from nameko.rpc import Rpc, rpc
from nameko.testing.services import dummy, entrypoint_hook, entrypoint_waiter
from nameko.testing.utils import get_extension
from nameko.web.handlers import HttpRequestHandler, http

from tests.dispatching.services import Listener, without_ids
from tests.nameko_version import NAMEKO


HAS_OLD = NAMEKO == 2 and importlib.util.find_spec("nameko_eventlog_dispatcher") is not None

ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    (("foo_type",), {}, {}, {}),
    (("foo_type", {"a": 1}), {}, {"a": 1}, {}),
    (("foo_type", None), {}, {}, {}),
    (("foo_type", {}), {}, {}, {}),
    (("foo_type", {"a": 1}, {"m": 2}), {}, {"a": 1}, {"m": 2}),
    (("foo_type",), {"metadata": {"m": [2]}}, {}, {"m": [2]}),
    (("foo_type",), {"event_data": {"a": {"b": None}}}, {"a": {"b": None}}, {}),
    ((), {"event_type": "foo_type", "event_data": {"a": 1}, "metadata": None}, {"a": 1}, {}),
    (("foo_type", {}, {"service_name": "other"}), {}, {}, {"service_name": "other"}),
    (("foo_type", {"a": 1}, {"timestamp": "x", "event_type": "y", "data": 1}), {}, {"a": 1}, {}),
]


@pytest.fixture(params=["ours", "theirs"] if HAS_OLD else ["ours"])
def dispatcher_class(request: pytest.FixtureRequest) -> Any:
    """
    The dispatcher: ours, and the old one where it is installed.
    """
    modules = {"ours": "nameko_eventlog", "theirs": "nameko_eventlog_dispatcher"}
    return importlib.import_module(modules[request.param]).EventLogDispatcher


@pytest.fixture
def start(
    dispatcher_class: Any, run_service: Callable[..., Any], rabbit_config: Any, web_config: Any
) -> Callable[..., Any]:
    """
    Start the service with a dispatcher, or a subclass of it with these attributes.
    """

    def start(section: Any = None, **attributes: Any) -> Any:
        provider = type("Dispatcher", (dispatcher_class,), attributes)

        class Service:
            name = "test_service"
            eventlog = provider()

            @rpc
            def rpc_entrypoint(self) -> None:
                pass

            @http("GET", "/test")
            def http_entrypoint(self, request: Any) -> str:
                return ""

            @dummy
            def dummy_entrypoint(self) -> None:
                pass

            @dummy
            def log(self, *args: Any, **kwargs: Any) -> None:
                self.eventlog(*args, **kwargs)

            @event_handler("test_service", "log_event")
            def handle_log_event(self, body: Any) -> Any:
                return body

            @event_handler("test_service", "custom")
            def handle_custom(self, body: Any) -> Any:
                return body

        config = {**rabbit_config, **web_config}
        if section is not None:
            config["EVENTLOG_DISPATCHER"] = section
        container = run_service(Service, config)
        container.test_config = config
        return container

    return start


def handled(
    container: Any, fire: Callable[[], Any], handler: str = "handle_log_event"
) -> dict[str, Any]:
    """
    Return the body that the service's own handler gets when *fire* is called.

    A handler that is captured gets what tells of itself, too, maybe sooner: that is not it.
    """

    def is_of_another(context: Any, body: Any, raised: Any) -> bool:
        return raised is not None or handler != body["entrypoint_name"]

    with entrypoint_waiter(container, handler, timeout=60, callback=is_of_another) as result:
        fire()
    body: dict[str, Any] = result.get()
    return body


def hook(container: Any, method: str, *args: Any, **kwargs: Any) -> Any:
    """
    Call an entrypoint.
    """
    with entrypoint_hook(container, method) as call:
        return call(*args, **kwargs)


def get(container: Any) -> None:
    """
    Call the HTTP entrypoint.
    """
    address = container.test_config["WEB_SERVER_ADDRESS"]
    urllib.request.urlopen(f"http://{address}/test").close()


class TestManual:
    """
    ``self.eventlog(event_type, event_data=None, metadata=None)``.
    """

    @pytest.mark.parametrize("auto_capture", [True, False])
    def test_bodies(self, start: Any, auto_capture: bool) -> None:
        """
        The body equals the context, the metadata over it, and the three attributes over both.
        """
        container = start({"auto_capture": auto_capture})
        for args, kwargs, data, metadata in ARGUMENTS:
            body = handled(container, lambda a=args, k=kwargs: hook(container, "log", *a, **k))

            call_id = body["call_id"]
            assert re.fullmatch(r"test_service\.log\.[0-9a-f-]{36}", call_id)
            assert [call_id] == body["call_stack"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", body["timestamp"])
            assert {
                "service_name": "test_service",
                "entrypoint_protocol": "Entrypoint",
                "entrypoint_name": "log",
                **metadata,
                "event_type": "foo_type",
                "data": data,
            } == without_ids(body)

    def test_custom_event_type(self, start: Any) -> None:
        """
        ``event_type`` in the configuration is the Nameko event's, not the body's.
        """
        container = start({"event_type": "custom"})

        body = handled(container, lambda: hook(container, "log", "mine"), "handle_custom")

        assert "mine" == body["event_type"]

    def test_nothing_is_returned(self, start: Any) -> None:
        """
        The call returns None.
        """
        container = start()
        assert hook(container, "log", "foo_type") is None


class TestAutoCapture:
    """
    ``entrypoint_fired``.
    """

    @pytest.mark.parametrize(
        ("protocol", "method"), [("Rpc", "rpc_entrypoint"), ("HttpRequestHandler", None)]
    )
    def test_fired(self, start: Any, protocol: str, method: str | None) -> None:
        """
        RPC and HTTP entrypoints are captured, with a body that holds nothing else.
        """
        container = start({"auto_capture": True})

        body = handled(container, lambda: hook(container, method) if method else get(container))

        name = method or "http_entrypoint"
        assert body["call_id"].startswith(f"test_service.{name}.")
        assert [body["call_id"]] == body["call_stack"]
        assert {
            "service_name": "test_service",
            "entrypoint_protocol": protocol,
            "entrypoint_name": name,
            "event_type": "entrypoint_fired",
            "data": {},
        } == without_ids(body)

    @pytest.mark.parametrize(
        ("section", "method"),
        [
            (None, "rpc_entrypoint"),
            ({}, "rpc_entrypoint"),
            ({"auto_capture": False}, "rpc_entrypoint"),
            ({"auto_capture": None}, "rpc_entrypoint"),
            (
                {"auto_capture": True, "entrypoints_to_exclude": ["a", "rpc_entrypoint"]},
                "rpc_entrypoint",
            ),
            ({"auto_capture": True}, "dummy_entrypoint"),
        ],
    )
    def test_not_fired(self, start: Any, section: Any, method: str) -> None:
        """
        Nothing is captured when it is off, excluded, or another kind of entrypoint.
        """
        container = start(section)

        # what is captured would come before what is dispatched by hand
        body = handled(
            container, lambda: (hook(container, method), hook(container, "log", "after"))
        )

        assert "after" == body["event_type"]

    def test_subclass(self, start: Any) -> None:
        """
        A subclass may change the three class attributes.
        """
        container = start(
            {"auto_capture": True},
            ENTRYPOINT_FIRED="begun",
            EVENT_TYPE="custom",
            ENTRYPOINT_TYPES_TO_LOG=(object,),
        )

        body = handled(container, lambda: hook(container, "dummy_entrypoint"), "handle_custom")

        assert ("begun", "dummy_entrypoint") == (body["event_type"], body["entrypoint_name"])


class TestAttributes:
    """
    What others read from the provider and its class.
    """

    def test_class_attributes(self, dispatcher_class: Any) -> None:
        """
        The defaults of the three class attributes.
        """
        assert (
            "entrypoint_fired",
            "log_event",
            (Rpc, HttpRequestHandler),
        ) == (
            dispatcher_class.ENTRYPOINT_FIRED,
            dispatcher_class.EVENT_TYPE,
            tuple(dispatcher_class.ENTRYPOINT_TYPES_TO_LOG),
        )

    @pytest.mark.parametrize(
        ("section", "expected"),
        [
            (None, (False, [], "log_event")),
            ({}, (False, [], "log_event")),
            (
                {"auto_capture": None, "entrypoints_to_exclude": None, "event_type": None},
                (False, [], "log_event"),
            ),
            (
                {"auto_capture": True, "entrypoints_to_exclude": ["a"], "event_type": "b"},
                (True, ["a"], "b"),
            ),
        ],
    )
    def test_configuration(
        self, start: Any, dispatcher_class: Any, section: Any, expected: Any
    ) -> None:
        """
        The configuration is readable on the bound provider.
        """
        provider = get_extension(start(section), dispatcher_class)

        assert expected == (
            provider.auto_capture,
            provider.entrypoints_to_exclude,
            provider.event_type,
        )
        assert "test_service.events" == provider.exchange.name


class TestMessage:
    """
    What both send beside the body.
    """

    def test_wire(self, start: Any, rabbit_config: Any) -> None:
        """
        A persistent JSON message with Nameko's context headers.
        """
        listener = Listener(rabbit_config, "test_service")
        container = start()
        with entrypoint_hook(container, "log", {"language": "en", "none": None}) as log:
            if NAMEKO == 2:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr("warnings.warn", lambda *args, **kwargs: None)
                    log("foo_type")
            else:
                log("foo_type")
        (message,) = listener.messages(1)
        listener.close()

        body = message.decode()
        assert {
            "nameko.language": "en",
            "nameko.call_id_stack": body["call_stack"],
        } == message.headers
        assert ("application/json", "utf-8") == (message.content_type, message.content_encoding)
        assert 2 == message.properties["delivery_mode"]
        assert "log_event" == message.delivery_info["routing_key"]
