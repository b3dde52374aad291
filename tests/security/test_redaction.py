"""
What is named in ``redact`` leaves the service nowhere: neither in bodies nor in headers.
"""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
from nameko.extensions import DependencyProvider
from nameko.testing.services import dummy, entrypoint_hook

from nameko_eventlog import EventLogDispatcher
from tests.dispatching.conftest import start_foo
from tests.dispatching.services import Foo, FooService, log_through_handler


__all__ = ["start_foo"]

SECRET = "hunter2"
REDACTED = "[redacted]"
CONTEXT = {
    "Auth_Token": SECRET,
    "session": {"user": 5, "TOKENS": [{"auth_token": SECRET}, {"AUTH_TOKEN": [SECRET]}]},
    "pairs": ({"auth_token": SECRET}, "kept"),
    "language": "en",
}

Start = Callable[..., Foo]


class WithHeaders(FooService):
    """
    A service whose publisher has headers of its own.
    """

    eventlog = EventLogDispatcher(headers={"auth_token": SECRET, "tenant": "north"})


class TestHeaders:
    def test_sent(self, start_foo: Start) -> None:
        """
        Context data that are named are redacted in the headers, at any depth, in any case; the
        call stack and what is not named are as they were.
        """
        foo = start_foo({"redact": ["auth_token", "call_id_stack"]}, service=WithHeaders)
        logger = log_through_handler()

        def work(service: Any) -> None:
            logger.info("line")
            service.eventlog("by_hand")

        foo.run(work, context_data=CONTEXT)
        for message in foo.messages(2):
            headers = dict(message.headers)
            assert SECRET not in repr(headers)
            assert REDACTED == headers["nameko.Auth_Token"] == headers["auth_token"]
            session = headers["nameko.session"]
            tokens = [{"auth_token": REDACTED}, {"AUTH_TOKEN": REDACTED}]
            assert {"user": 5, "TOKENS": tokens} == session
            assert ({"auth_token": REDACTED}, "kept") == headers["nameko.pairs"]
            assert ("en", "north") == (headers["nameko.language"], headers["tenant"])
            assert 1 == len(headers["nameko.call_id_stack"])
            assert REDACTED not in headers["nameko.call_id_stack"]

    def test_what_the_worker_has(self, start_foo: Start) -> None:
        """
        The worker's own context data stay as they are: calls of others need them.
        """
        foo = start_foo({"redact": ["auth_token"]}, service=WithContext)
        seen = []

        def work(service: Any) -> None:
            service.eventlog("by_hand")
            seen.append({name: service.data[name] for name in CONTEXT})

        foo.run(work, context_data=CONTEXT)

        assert [CONTEXT] == seen

    @pytest.mark.parametrize("spooled", [False, True])
    def test_kept(
        self, start_foo: Start, caplog: Any, tmp_path: pathlib.Path, spooled: bool
    ) -> None:
        """
        Neither an undelivered line nor a file of the spool holds what is redacted, not even of a
        message whose headers no broker takes.
        """
        section = {"redact": ["auth_token"], "uri": "amqp://127.0.0.1:1//", "flush_timeout": 0}
        if spooled:
            section["spool"] = str(tmp_path)
        foo = start_foo(section)
        logger = log_through_handler()

        def work(service: Any) -> None:
            logger.info("line")

        with caplog.at_level(logging.ERROR, "nameko_eventlog.undelivered"):
            foo.run(work, context_data=CONTEXT)
            foo.run(work, context_data={**CONTEXT, "odd": object(), "deep": _deep(500)})
            written = [path.read_text() for path in tmp_path.rglob("*.jsonl")]
            foo.container.stop()

        assert spooled == bool(written)
        assert SECRET not in "".join(written)
        assert SECRET not in caplog.text
        assert REDACTED in "".join([caplog.text, *written])


def _deep(levels: int) -> Any:
    value: Any = {"auth_token": SECRET}
    for _ in range(levels):
        value = [value]
    return value


class Signing(EventLogDispatcher):
    """
    Capture every call.
    """

    ENTRYPOINT_TYPES_TO_LOG = (object,)


class LoginService:
    """
    Methods that take secrets.
    """

    name = "foo"

    eventlog = Signing()

    @dummy
    def login(self, user: str, password: str) -> None:
        """
        Take a secret by name.
        """

    @dummy(sensitive_arguments="password")
    def sensitive(self, user: str, password: str) -> None:
        """
        Take a secret that Nameko is told about.
        """


class TestArguments:
    @pytest.mark.parametrize("method", ["login", "sensitive"])
    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            (("bob", SECRET, "more"), {}),
            (("bob", {"a": SECRET}, [SECRET], SECRET), {}),
            ((SECRET,), {"user": "bob", "password": SECRET}),
            (("bob", SECRET), {"more": 1}),
            (("bob",), {"PASSWORD": SECRET}),
        ],
    )
    def test_not_fitting(
        self, start_foo: Start, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """
        Arguments that do not fit the method are never given by position.
        """
        foo = start_foo(
            {"redact": ["password"], "auto_capture": True, "capture_arguments": True},
            service=LoginService,
        )
        with pytest.raises(TypeError):
            with entrypoint_hook(foo.container, method) as hook:
                hook(*args, **kwargs)
        (body,) = foo.bodies(1)

        assert SECRET not in repr(body)
        assert "[redacted" in repr(body)

    def test_not_copied(self, start_foo: Start) -> None:
        """
        Arguments that fit, and that Nameko cannot copy, are given by name, and so redacted.
        """

        class Uncopied:
            def __deepcopy__(self, memo: Any) -> Any:
                raise RuntimeError("no copies")

        foo = start_foo(
            {"redact": ["password"], "auto_capture": True, "capture_arguments": True},
            service=LoginService,
        )
        with entrypoint_hook(foo.container, "login") as hook:
            hook(Uncopied(), SECRET)
        (body,) = foo.bodies(1)

        assert REDACTED == body["data"]["password"]
        assert SECRET not in repr(body)


class ContextData(DependencyProvider):
    """
    Give a service its workers' context data.
    """

    def get_dependency(self, worker_ctx: Any) -> Any:
        """
        Return the worker's own.
        """
        return worker_ctx.data


class WithContext(FooService):
    """
    A service that changes its workers' context data.
    """

    eventlog = EventLogDispatcher()

    data = ContextData()


class TestAtOnce:
    def test_changed_later(self, start_foo: Start) -> None:
        """
        What the worker changes in its context data after a log call, at any depth, is in the
        headers of what it logs then, and not of what it has logged before.
        """
        foo = start_foo(service=WithContext)
        logger = log_through_handler()
        data = {"roles": ["clerk"], "user": {"tags": {"a": 1}}}

        def work(service: Any) -> None:
            live = service.data
            logger.info("first")
            live["roles"].append("admin")
            logger.info("second")
            live["user"]["tags"]["a"] = 2
            service.eventlog("third")
            live["user"]["tags"]["a"] = 3
            live["roles"].clear()

        foo.run(work, context_data=data)

        found = [
            (dict(one.headers)["nameko.roles"], dict(one.headers)["nameko.user"]["tags"]["a"])
            for one in foo.messages(3)
        ]
        assert [(["clerk"], 1), (["clerk", "admin"], 1), (["clerk", "admin"], 2)] == found

    def test_not_copied_again(self, start_foo: Start) -> None:
        """
        Context data that have not changed are not copied for each event log.
        """
        foo = start_foo(service=WithContext)
        made: list[Any] = []

        def work(service: Any) -> None:
            sink = service.eventlog._sink
            made.append(sink._headers())
            made.append(sink._headers())
            service.data["roles"].append("admin")
            made.append(sink._headers())

        foo.run(work, context_data={"roles": ["clerk"]})

        assert made[0] is made[1]
        assert made[1] is not made[2]
        assert ["clerk"] == made[0]["nameko.roles"]

    def test_endless(self, start_foo: Start) -> None:
        """
        Context data that contain themselves, twice, cost neither the event log nor the service.
        """
        foo = start_foo(service=WithContext)
        logger = log_through_handler()

        def work(service: Any) -> None:
            endless: list[Any] = []
            endless += [endless, endless]
            service.data["endless"] = endless
            logger.info("line")
            del service.data["endless"]
            logger.info("line")

        foo.run(work, context_data={"language": "en"})

        first, second = (dict(one.headers) for one in foo.messages(2))
        assert "nameko.endless" not in first
        assert "en" == second["nameko.language"]
