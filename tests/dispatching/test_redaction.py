"""
Redaction: by key, at any depth, whatever the case, wherever data comes from.
"""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nameko.testing.services import dummy, entrypoint_hook

from logging_ext import EventLog
from nameko_eventlog import EventLogDispatcher
from tests.dispatching.services import (
    FooService,
    log_through_handler,
    log_through_structlog,
)
from tests.dispatching.test_serialization import Money, any_text, dispatched, encoder, logged


SECRET = "hunter2"
REDACTED = "[redacted]"

key = any_text | st.sampled_from(["password", "PassWord", "TOKEN", "token"])
secrets = st.recursive(
    st.just(SECRET) | st.integers(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(key, children, max_size=4),
    max_leaves=20,
)


def redacted(value: Any) -> Any:
    """
    Return what the simplest thing that could work makes of *value*.
    """
    if isinstance(value, dict):
        return {
            name: REDACTED if name.lower() in {"password", "token"} else redacted(element)
            for name, element in value.items()
        }
    return [redacted(element) for element in value] if isinstance(value, list) else value


class TestEncoding:
    """
    What the encoder redacts.
    """

    @pytest.mark.parametrize("serializer", ["json", "yaml", "pickle"])
    @given(data=st.dictionaries(key, secrets, max_size=4))
    def test_any_depth(self, serializer: str, data: dict[str, Any]) -> None:
        """
        Values go by their keys, at any depth, whatever the case, in data and metadata.
        """
        encode = encoder(serializer, "Password", "token")
        metadata = {"nested": data}

        assert redacted(data) == logged(data, encode)["data"]
        assert redacted(data) == dispatched(data, encode)["data"]
        assert redacted(data) == logged({}, encode, metadata)["nested"]
        assert redacted(data) == dispatched({}, encode, metadata)["nested"]

    @pytest.mark.parametrize(
        "data",
        [
            {"a": ({"password": SECRET},)},
            {"password": {SECRET}},
            {"password": [{"deep": SECRET}]},
            {b"PASSWORD": SECRET},
            {"a": Money({"password": SECRET})},
            {"a": [Money([{"b": {"password": SECRET}}])]},
            {"a": {"__type__": 1, "__value__": {"password": SECRET}}},
            {"__type__": "password", "password": SECRET},
        ],
    )
    def test_odd_places(self, data: Any) -> None:
        """
        A secret does not get out by a type, by a key, or by a value made while encoding.
        """
        body = logged(data, encoder("json", "password"))

        assert SECRET not in repr(body)
        assert REDACTED in repr(body)

    def test_cycles_show_nothing(self) -> None:
        """
        The cut of a cycle does not show what is redacted elsewhere.
        """
        cycle: dict[str, Any] = {"password": SECRET}
        cycle["self"] = cycle

        expected = {"password": REDACTED, "self": "[contains itself: cut]"}
        assert expected == logged(cycle, encoder("json", "password"))["data"]

    def test_the_body_is_not_touched(self) -> None:
        """
        Redaction is for data and metadata: the body's own attributes stay.
        """
        body = logged({"a": 1}, encoder("json", "data", "event_type", "call_id"))

        assert ({"a": 1}, "paid") == (body["data"], body["event_type"])
        assert body["call_id"] != REDACTED

    def test_what_the_caller_holds_is_not_touched(self) -> None:
        """
        The caller's own data stays as it is.
        """
        data = {"password": SECRET, "nested": [{"password": SECRET}]}
        logged(data, encoder("json", "password"))

        assert {"password": SECRET, "nested": [{"password": SECRET}]} == data


class Service(FooService):
    """
    A service whose method takes a secret.
    """

    eventlog = EventLogDispatcher()

    @dummy
    def login(self, user: str, password: str) -> None:
        """
        Fail with a secret among the locals.
        """
        secret = password  # noqa: F841
        raise LookupError(user)


class Dispatcher(EventLogDispatcher):
    """
    Capture every call.
    """

    ENTRYPOINT_TYPES_TO_LOG = (object,)


class CapturingService(Service):
    """
    The same, captured.
    """

    eventlog = Dispatcher()


class TestWaysIn:
    """
    Redaction through a running service.
    """

    def test_all(self, start_foo: Any) -> None:
        """
        The four ways in are redacted alike.
        """
        foo = start_foo(
            {
                "redact": ["password"],
                "auto_capture": True,
                "capture_arguments": True,
                "capture_stages": ["fired", "failed"],
            },
            service=CapturingService,
        )
        logger = log_through_handler()
        events = log_through_structlog()

        def work(service: Any) -> None:
            data = {"Password": SECRET}
            logger.info("a", extra={**data, "metadata": {"m": [data]}})
            events.info("b", deep=[data], PASSWORD=SECRET)
            service.eventlog("c", {"deep": data}, data)

        foo.run(work)
        with pytest.raises(LookupError):
            with entrypoint_hook(foo.container, "login") as login:
                login("bob", password=SECRET)
        fired, a, b, c, login_fired, login_failed = foo.bodies(6)

        assert {"function": fired["data"]["function"]} == fired["data"]
        assert ({"Password": REDACTED}, [{"Password": REDACTED}]) == (a["data"], a["m"])
        assert {"deep": [{"Password": REDACTED}], "PASSWORD": REDACTED} == b["data"]
        assert ({"deep": {"Password": REDACTED}}, REDACTED) == (c["data"], c["Password"])
        assert {"user": "bob", "password": REDACTED} == login_fired["data"]
        assert SECRET not in repr(login_failed)
        assert "LookupError" == login_failed["exception"][0]["exc_type"]

    def test_exception(self, start_foo: Any) -> None:
        """
        Redaction reaches into the structured exception.
        """
        foo = start_foo({"redact": ["exc_value"]})
        logger = log_through_handler()

        def work(service: Any) -> None:
            try:
                raise LookupError(SECRET)
            except LookupError:
                logger.exception("failed")

        foo.run(work)

        (exception,) = foo.bodies(1)[0]["exception"]
        assert REDACTED == exception["exc_value"]

    def test_undelivered(self, start_foo: Any, caplog: Any) -> None:
        """
        An undelivered line holds nothing that is redacted.
        """
        foo = start_foo({"redact": ["password"]})
        dispatch = foo.run(lambda service: service.eventlog)
        foo.container.stop()
        with caplog.at_level(logging.ERROR, "nameko_eventlog.undelivered"):
            dispatch._sink.emit(EventLog("late", {"password": SECRET}))

        assert SECRET not in caplog.text
        assert REDACTED in caplog.text
