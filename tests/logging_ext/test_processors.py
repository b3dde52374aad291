"""
structlog's event dicts, in its three set-ups.
"""

from __future__ import annotations

import collections
import contextvars
import copy
import io
import json
import logging
import logging.config
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import eventlet
import msgspec
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.stdlib import ProcessorFormatter

from logging_ext import (
    EventLogHandler,
    EventLogProcessor,
    add_worker_context,
    bind_sink,
    forwarding,
)
from tests.logging_ext.recording import (
    CONTEXT,
    OUTSIDE,
    Incomparable,
    RecordingSink,
    StrictHandler,
    Unprintable,
)


LEVELS = {
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "err": "error",
    "failure": "error",
    "exception": "error",
    "critical": "critical",
    "fatal": "critical",
    "msg": "info",
    "log": "info",
}

Dicts = list[dict[str, Any]]


def plain(*processors: Any, logger: Any = None, **values: Any) -> tuple[Any, Dicts]:
    """
    Return a logger of structlog's own, and what arrives behind *processors*.
    """
    arrived: Dicts = []

    def last(logger: Any, method_name: str, event_dict: Any) -> Any:
        arrived.append(event_dict)
        raise structlog.DropEvent

    log = structlog.wrap_logger(
        logger, processors=[*processors, last], wrapper_class=structlog.BoundLogger, **values
    )
    return log, arrived


class TestAddWorkerContext:
    def test_inside(self, worker: RecordingSink) -> None:
        """
        Inside a worker its five attributes are added, to a copy.
        """
        event_dict = {"event": "paid", "amount": 5}

        assert {**event_dict, **CONTEXT} == add_worker_context(None, "info", event_dict)
        assert {"event": "paid", "amount": 5} == event_dict

    def test_outside(self) -> None:
        """
        Outside any worker they are there all the same.
        """
        assert {"event": "paid", **OUTSIDE} == add_worker_context(None, "info", {"event": "paid"})

    def test_callers_own(self, worker: RecordingSink) -> None:
        """
        What the caller bound under such a name stays.
        """
        event_dict = add_worker_context(None, "info", {"event": "paid", "call_id": 7})

        assert {"event": "paid", **CONTEXT, "call_id": 7} == event_dict

    @pytest.mark.parametrize("rendered", ["a line", b"a line", (("a line",), {})])
    def test_behind_a_renderer(self, worker: RecordingSink, rendered: Any) -> None:
        """
        What a renderer has made is left alone.
        """
        assert rendered is add_worker_context(None, "info", rendered)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"service": 5}, TypeError, "service must be the name of a service, not 5"),
            ({"fields": "level"}, TypeError, "fields must be a list of names, not 'level'"),
            ({"fields": [5]}, TypeError, "fields must be a list of names, 5 is none"),
            ({"fields": ["lineno"]}, ValueError, "fields: 'lineno' is not a field"),
        ],
    )
    def test_wrong(self, options: dict[str, Any], error: type, message: str) -> None:
        """
        A wrong option is named, with its value.
        """
        with pytest.raises(error) as raised:
            EventLogProcessor(**options)

        assert message in str(raised.value)

    def test_fields(self, worker: RecordingSink) -> None:
        """
        The fields say which metadata is added.
        """
        log, _ = plain(EventLogProcessor(fields=["level"]))
        log.info("paid", exc_info=ValueError("boom"), stack_info=True)

        assert {"level": "info"} == worker.metadata

    def test_no_fields(self, worker: RecordingSink) -> None:
        """
        Without fields there is no metadata but the caller's.
        """
        log, _ = plain(EventLogProcessor(fields=[]))
        log.info("paid", metadata={"team": "a"})

        assert {"team": "a"} == worker.metadata

    def test_service(self, service: RecordingSink) -> None:
        """
        With the option ``service``, what comes from outside any worker is that service's.
        """
        log, _ = plain(EventLogProcessor(service="foo"))
        log.info("started", amount=5)

        assert ["started"] == service.types
        assert {"amount": 5} == service.data


class TestTable:
    def test_paid(self, worker: RecordingSink) -> None:
        """
        The event is the event type, the keyword arguments and bound values are the data.
        """
        log, _ = plain(EventLogProcessor())
        log.bind(order=7).info("paid", amount=5)

        assert "paid" == worker.only.event_type
        assert {"order": 7, "amount": 5} == worker.data
        assert {"level": "info"} == worker.metadata

    def test_passes_on(self, worker: RecordingSink) -> None:
        """
        The event dict passes on with the worker context and nothing else.
        """
        log, arrived = plain(EventLogProcessor())
        log.info("paid", amount=5, event_data={"a": 1}, metadata={"b": 2})

        assert [
            {
                "event": "paid",
                "amount": 5,
                "event_data": {"a": 1},
                "metadata": {"b": 2},
                **CONTEXT,
            }
        ] == arrived

    def test_is_not_changed(self, worker: RecordingSink) -> None:
        """
        The event dict that the processor gets stays as it is.
        """
        event_dict = {"event": "paid", "items": [1, {"a": 2}], "metadata": {"b": 2}}
        before = copy.deepcopy(event_dict)

        EventLogProcessor()(None, "info", event_dict)

        assert before == event_dict

    def test_own_copy(self, worker: RecordingSink) -> None:
        """
        A processor behind that empties the event dict does not change the event log.
        """

        def spoil(logger: Any, method_name: str, event_dict: Any) -> Any:
            event_dict.clear()
            return event_dict

        log, arrived = plain(EventLogProcessor(), spoil)
        log.info("paid", amount=5)

        assert ("paid", {"amount": 5}) == (worker.only.event_type, worker.data)
        assert [{}] == arrived

    def test_can_be_encoded(self, worker: RecordingSink) -> None:
        """
        What passes on is of plain types, which any encoder takes.
        """
        passed = EventLogProcessor()(None, "info", {"event": "paid", "amount": 5})

        assert {"event": "paid", "amount": 5, **CONTEXT} == msgspec.json.decode(
            msgspec.json.encode(passed)
        )
        assert str is type(passed["event"])

    def test_any_mapping(self, worker: RecordingSink) -> None:
        """
        An event dict may be any mutable mapping.
        """
        log, _ = plain(EventLogProcessor(), context_class=collections.OrderedDict)
        log.bind(user="ada").info("paid")
        EventLogProcessor()(None, "info", collections.UserDict(event="again", user="bob"))

        assert [("paid", {"user": "ada"}), ("again", {"user": "bob"})] == [
            (event.event_type, event.event_data) for event in worker.events
        ]

    def test_default_configuration(
        self, worker: RecordingSink, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        It goes with structlog's default configuration, which prints.
        """
        structlog.configure(
            processors=[EventLogProcessor(), *structlog.get_config()["processors"]]
        )
        structlog.get_logger().info("paid", amount=5)

        assert ({"amount": 5}, {"level": "info"}) == (worker.data, worker.metadata)
        assert CONTEXT["call_id"] in capsys.readouterr().out

    def test_dropped(self, worker: RecordingSink) -> None:
        """
        What a processor before drops is no event log; what one behind drops is.
        """

        def drop(*args: Any) -> Any:
            raise structlog.DropEvent

        plain(drop, EventLogProcessor())[0].info("no")
        plain(EventLogProcessor(), drop)[0].info("paid")

        assert ["paid"] == worker.types
        assert 0 == forwarding.not_forwarded.value

    @pytest.mark.parametrize(
        "wrapper_class",
        [structlog.stdlib.BoundLogger, structlog.make_filtering_bound_logger(logging.NOTSET)],
    )
    def test_rendered_arguments(self, worker: RecordingSink, wrapper_class: Any) -> None:
        """
        Arguments that were rendered before the processor leave the text alone.
        """
        log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[
                structlog.stdlib.PositionalArgumentsFormatter(),
                EventLogProcessor(),
                lambda *args: "a line",
            ],
            wrapper_class=wrapper_class,
        )
        log.info("user %s", "bob")

        assert ("user bob", {}) == (worker.only.event_type, worker.data)
        assert {"level": "info"} == worker.metadata

    def test_arguments_pass_on(self, worker: RecordingSink) -> None:
        """
        Positional arguments pass on for the processor that renders them.
        """
        passed = EventLogProcessor()(
            None, "info", {"event": "user %s", "positional_args": ("bob",)}
        )

        assert ("user %s", ("bob",)) == (passed["event"], passed["positional_args"])

    def test_event_data_and_metadata(self, worker: RecordingSink) -> None:
        """
        ``event_data`` and ``metadata`` are those of the manual call; others join the data.
        """
        log, _ = plain(EventLogProcessor())
        log.info("paid", event_data={"a": 1, "b": 2}, metadata={"level": "mine"}, b=3)

        assert {"a": 1, "b": 3} == worker.data
        assert {"level": "mine"} == worker.metadata

    @pytest.mark.parametrize("name", ["event_data", "metadata"])
    @pytest.mark.parametrize("wrong", [5, "text", [1], Unprintable()])
    def test_of_the_wrong_kind(self, worker: RecordingSink, name: str, wrong: Any) -> None:
        """
        Of the wrong kind they become data, as a repr.
        """
        log, _ = plain(EventLogProcessor())
        log.info("paid", **{name: wrong})

        assert [name] == list(worker.data)
        assert isinstance(worker.data[name], str)

    def test_positional_arguments(self, worker: RecordingSink) -> None:
        """
        With positional arguments the template is the event type, and there is a message.
        """
        log = structlog.wrap_logger(
            None,
            processors=[EventLogProcessor(), lambda *args: _drop()],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.info("user %s paid %d", "bob", 5)
        log.info("user %(name)s", {"name": "bob"})
        log.info("user %s %s", "bob")

        assert ["user %s paid %d", "user %(name)s", "user %s %s"] == worker.types
        messages = [event.metadata["message"] for event in worker.events]
        assert ["user bob paid 5", "user bob"] == messages[:2]
        assert "bob" in messages[2]
        assert [{}, {}, {}] == [event.event_data for event in worker.events]

    @pytest.mark.parametrize(
        ("event", "expected"),
        [("", "(empty)"), (None, "(empty)"), (5, "5"), (["a"], "['a']"), ("x", "x")],
    )
    def test_events(self, worker: RecordingSink, event: Any, expected: str) -> None:
        """
        An event that is no string counts by its text.
        """
        EventLogProcessor()(None, "info", {"event": event})

        assert expected == worker.only.event_type

    def test_no_event(self, worker: RecordingSink) -> None:
        """
        So does one that is missing.
        """
        log, _ = plain(EventLogProcessor())
        log.info(amount=5)

        assert ["(empty)"] == worker.types
        assert {"amount": 5} == worker.data

    @pytest.mark.parametrize(("method", "level"), LEVELS.items())
    def test_levels(self, worker: RecordingSink, method: str, level: str) -> None:
        """
        The level is that of the method.
        """
        EventLogProcessor()(None, method, {"event": "paid"})

        assert {"level": level} == worker.metadata

    @pytest.mark.parametrize(("method", "level"), LEVELS.items())
    def test_levels_by_add_log_level(self, worker: RecordingSink, method: str, level: str) -> None:
        """
        So it is where structlog has put the method's name for the level, which is no data.
        """
        log, arrived = plain(structlog.processors.add_log_level, EventLogProcessor())
        getattr(log, method)("paid")

        assert {"level": level} == worker.metadata
        assert {} == worker.data
        shown = {"warn": "warning", "exception": "error"}.get(method, method)
        assert shown == arrived[0]["level"]

    @pytest.mark.parametrize("method", ["debug", "msg", "warn", "exception", "fatal"])
    @pytest.mark.parametrize("before", [[], [structlog.processors.add_log_level]])
    def test_levels_of_the_filtering_logger(
        self, worker: RecordingSink, method: str, before: list[Any]
    ) -> None:
        """
        The levels of structlog's default logger are the same.
        """
        log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[*before, EventLogProcessor(), lambda *args: "a line"],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        )
        getattr(log, method)("paid")

        assert {"level": LEVELS[method]} == worker.metadata
        assert {} == worker.data

    @pytest.mark.parametrize("level", [10, 20, 30, 40, 50])
    def test_log_of_the_filtering_logger(self, worker: RecordingSink, level: int) -> None:
        """
        Its ``log(level, ...)`` has the level that it is given.
        """
        log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[EventLogProcessor(), lambda *args: "a line"],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        )
        log.log(level, "paid")

        assert {"level": logging.getLevelName(level).lower()} == worker.metadata

    @pytest.mark.parametrize("method", ["log", "msg"])
    def test_level_in_the_event_dict(self, worker: RecordingSink, method: str) -> None:
        """
        A call that tells its level in the event dict alone has that one.
        """
        EventLogProcessor()(None, method, {"event": "paid", "level": "WARNING"})

        assert "warning" == worker.metadata["level"]

    def test_level_of_the_callers(self, worker: RecordingSink) -> None:
        """
        A value called ``level`` that is not the call's is data.
        """
        log, _ = plain(EventLogProcessor())
        log.fatal("paid", level="high")

        assert {"level": "critical"} == worker.metadata
        assert {"level": "high"} == worker.data

    def test_level_of_ones_own(self, worker: RecordingSink) -> None:
        """
        A method of a logger's own is a level of its own.
        """
        EventLogProcessor()(None, "audit", {"event": "paid", "level": "audit"})

        assert {"level": "audit"} == worker.metadata
        assert {} == worker.data

    def test_level_by_number(self, worker: RecordingSink) -> None:
        """
        ``log(level, ...)`` has the level that it is given.
        """
        log = structlog.wrap_logger(
            logging.Logger("svc"),
            processors=[
                structlog.stdlib.add_log_level,
                EventLogProcessor(),
                lambda *args: _drop(),
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.log(logging.WARNING, "paid")

        assert {"level": "warning", "logger": "svc"} == worker.metadata
        assert {} == worker.data

    def test_logger(self, worker: RecordingSink) -> None:
        """
        The logger is the wrapped one's name, or what the event dict says.
        """
        plain(EventLogProcessor(), logger=logging.Logger("svc"))[0].info("paid")
        plain(EventLogProcessor())[0].info("paid", logger="named")
        plain(EventLogProcessor())[0].info("paid", logger=5)

        assert ["svc", "named", None] == [event.metadata.get("logger") for event in worker.events]
        assert [{}, {}, {"logger": 5}] == [event.event_data for event in worker.events]

    def test_own_level_and_logger_are_dropped(self, worker: RecordingSink) -> None:
        """
        ``level`` and ``logger`` as structlog's processors put them are no data; others are.
        """
        log, arrived = plain(
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            EventLogProcessor(),
            logger=logging.Logger("svc"),
        )
        log.info("paid")
        EventLogProcessor()(None, "info", {"event": "paid", "level": 9})

        assert [{}, {"level": 9}] == [event.event_data for event in worker.events]
        assert ("info", "svc") == (arrived[0]["level"], arrived[0]["logger"])

    def test_context_variables(self, worker: RecordingSink) -> None:
        """
        What structlog's context variables hold is data.
        """
        log, _ = plain(structlog.contextvars.merge_contextvars, EventLogProcessor())
        with structlog.contextvars.bound_contextvars(request="r1"):
            log.info("paid", amount=5)

        assert {"request": "r1", "amount": 5} == worker.data

    def test_context_variables_merged_behind(self, worker: RecordingSink) -> None:
        """
        What is merged behind the processor is no data, and is there for the renderer.
        """
        log, arrived = plain(EventLogProcessor(), structlog.contextvars.merge_contextvars)
        with structlog.contextvars.bound_contextvars(request="r1"):
            log.info("paid")

        assert {} == worker.data
        assert "r1" == arrived[0]["request"]

    def test_context_as_context_variables(self, worker: RecordingSink) -> None:
        """
        The worker's own context bound as context variables is no data, another value is.
        """
        log, _ = plain(structlog.contextvars.merge_contextvars, EventLogProcessor())
        with structlog.contextvars.bound_contextvars(
            call_id=CONTEXT["call_id"], service_name="other"
        ):
            log.info("paid")

        assert {"service_name": "other"} == worker.data

    def test_context_is_no_data(self, worker: RecordingSink) -> None:
        """
        The worker context, whoever has added it, is no data; a value of the caller's is.
        """
        log, _ = plain(add_worker_context, EventLogProcessor())
        log.info("paid")
        log.info("paid", call_id="mine", call_stack=Incomparable())

        assert {} == worker.events[0].event_data
        assert ["call_id", "call_stack"] == sorted(worker.events[1].event_data)


class TestTimestamps:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("2017-06-12T13:48:16+00:00", 1497275296.0),
            ("2017-06-12T13:48:16.500000Z", 1497275296.5),
            (1497275296.25, 1497275296.25),
            (datetime(2017, 6, 12, 13, 48, 16, tzinfo=timezone.utc), 1497275296.0),
        ],
    )
    def test_read(self, worker: RecordingSink, value: Any, expected: float) -> None:
        """
        A key ``timestamp`` is the event log's time if it can be read as one.
        """
        log, arrived = plain(EventLogProcessor())
        log.info("paid", timestamp=value)

        assert expected == worker.only.timestamp
        assert {} == worker.data
        assert value == arrived[0]["timestamp"]

    @pytest.mark.parametrize("value", ["yesterday", "2017-06-12", None, [], True, 1e300, "1:2"])
    def test_not_read(self, worker: RecordingSink, value: Any) -> None:
        """
        Otherwise it is data.
        """
        log, _ = plain(EventLogProcessor())
        log.info("paid", timestamp=value)

        assert worker.only.timestamp is None
        assert {"timestamp": value} == worker.data

    @pytest.mark.parametrize(
        "options",
        [
            {"fmt": "iso"},
            {"fmt": "iso", "utc": False},
            {"fmt": None},
            {"fmt": "%Y-%m-%d %H:%M:%S"},
            {"fmt": "%Y-%m-%d %H:%M:%S", "utc": False},
        ],
    )
    def test_time_stamper(self, worker: RecordingSink, options: dict[str, Any]) -> None:
        """
        What structlog's TimeStamper puts is now.
        """
        log, _ = plain(structlog.processors.TimeStamper(**options), EventLogProcessor())
        log.info("paid")

        now = datetime.now(timezone.utc).timestamp()
        assert now - 5 < worker.only.timestamp <= now + 1
        assert {} == worker.data


class TestExceptions:
    SECRET = "hunter2"

    def fail(self, log: Callable[..., Any]) -> None:
        """
        Log an exception out of a frame with a secret in it.
        """
        secret = self.SECRET
        try:
            raise ValueError("boom")
        except ValueError:
            log("failed", exc_info=True)
        assert secret

    @pytest.mark.parametrize(
        "before",
        [
            [],
            [structlog.processors.dict_tracebacks],
            [
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
                )
            ],
        ],
        ids=["exc_info", "dict_tracebacks", "with locals"],
    )
    def test_structured(self, worker: RecordingSink, before: list[Any]) -> None:
        """
        An exception is metadata, as structured data without local variables.
        """
        log, _ = plain(*before, EventLogProcessor())
        self.fail(log.error)

        (exception,) = worker.metadata["exception"]
        assert ("ValueError", "boom") == (exception["exc_type"], exception["exc_value"])
        assert ["fail"] == [frame["name"] for frame in exception["frames"]]
        assert self.SECRET not in json.dumps(worker.metadata, default=repr)
        assert {} == worker.data

    def test_rendered(self, worker: RecordingSink) -> None:
        """
        One that ``format_exc_info`` has rendered stays text.
        """
        log, _ = plain(structlog.processors.format_exc_info, EventLogProcessor())
        self.fail(log.error)

        assert worker.metadata["exception"].endswith("ValueError: boom")
        assert {} == worker.data

    @pytest.mark.parametrize(
        "wrapper_class",
        [
            structlog.BoundLogger,
            structlog.stdlib.BoundLogger,
            structlog.make_filtering_bound_logger(logging.NOTSET),
        ],
    )
    def test_method(self, worker: RecordingSink, wrapper_class: Any) -> None:
        """
        ``exception`` has the exception that is being handled, whichever logger's it is.
        """
        arrived: Dicts = []
        log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[EventLogProcessor(), lambda *args: arrived.append(args[2]) or "a line"],
            wrapper_class=wrapper_class,
        )
        self.fail(lambda event, exc_info: log.exception(event))

        assert "boom" == worker.metadata["exception"][0]["exc_value"]
        assert {} == worker.data
        if wrapper_class is structlog.BoundLogger:  # passes it on as it came
            assert "exc_info" not in arrived[0]

    @pytest.mark.parametrize("values", [{"exc_info": None}, {"exc_info": False}])
    def test_method_without(self, worker: RecordingSink, values: dict[str, Any]) -> None:
        """
        It has none if the caller says so, or if none is being handled.
        """
        log, _ = plain(EventLogProcessor())
        self.fail(lambda event, exc_info: log.exception(event, **values))
        log.exception("failed")

        assert [{"level": "error"}] * 2 == [event.metadata for event in worker.events]
        assert [{}, {}] == [event.event_data for event in worker.events]

    def test_method_rendered(self, worker: RecordingSink) -> None:
        """
        What was rendered as text stays text.
        """
        log, _ = plain(
            structlog.dev.set_exc_info, structlog.processors.format_exc_info, EventLogProcessor()
        )
        self.fail(lambda event, exc_info: log.exception(event))

        assert worker.metadata["exception"].endswith("ValueError: boom")

    def test_passes_on(self, worker: RecordingSink) -> None:
        """
        The renderer behind still has it.
        """
        log, arrived = plain(EventLogProcessor())
        self.fail(log.error)

        assert arrived[0]["exc_info"] is True

    def test_stack(self, worker: RecordingSink) -> None:
        """
        A stack is metadata, to be rendered or rendered already.
        """
        plain(EventLogProcessor())[0].info("paid", stack_info=True)
        plain(structlog.processors.StackInfoRenderer(), EventLogProcessor())[0].info(
            "paid", stack_info=True
        )

        first, second = worker.events
        for event in (first, second):
            assert "test_stack" in event.metadata["stack"]
            assert {} == event.event_data

    def test_a_stack_of_the_callers(self, worker: RecordingSink) -> None:
        """
        A value called ``stack`` or ``exception`` that is none is data.
        """
        log, _ = plain(EventLogProcessor())
        log.info("paid", stack="of plates", exception="")

        assert {"stack": "of plates", "exception": ""} == worker.data
        assert {"level": "info"} == worker.metadata


class TestNobodys:
    def test_counted(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        What comes from outside any worker is not forwarded: counted, and said once.
        """
        log, arrived = plain(EventLogProcessor())
        log.info("paid")
        log.info("paid")

        assert 2 == forwarding.not_forwarded.value
        assert 1 == sum("was not forwarded" in line for line in caplog.messages)
        assert [{"event": "paid", **OUTSIDE}] * 2 == arrived

    def test_unknown_service(self, caplog: pytest.LogCaptureFixture) -> None:
        """
        So is what is a service's that does not run here.
        """
        plain(EventLogProcessor(service="bar"))[0].info("paid")

        assert "no dispatcher of a service 'bar' runs in this process" in caplog.text

    @pytest.mark.parametrize("name", ["kombu.x", "amqp", "nameko_eventlog.undelivered"])
    def test_own_loggers(self, worker: RecordingSink, name: str) -> None:
        """
        What delivery itself logs is never forwarded.
        """
        plain(EventLogProcessor(), logger=logging.Logger(name))[0].info("paid")

        assert [] == worker.events

    def test_nameko(self, service: RecordingSink) -> None:
        """
        What Nameko logs is forwarded from inside a worker only.
        """
        log, _ = plain(EventLogProcessor(service="foo"), logger=logging.Logger("nameko.runners"))
        log.info("starting")
        with bind_sink(service):
            log.info("inside")

        assert ["inside"] == service.types

    def test_in_a_green_thread(self, worker: RecordingSink) -> None:
        """
        A spawned green thread is outside, unless it runs in a copy of the context.
        """
        log, _ = plain(EventLogProcessor())
        eventlet.spawn(log.info, "nobody's").wait()
        eventlet.spawn(contextvars.copy_context().run, log.info, "paid").wait()

        assert ["paid"] == worker.types
        assert 1 == forwarding.not_forwarded.value

    def test_inside_another_worker(self, service: RecordingSink) -> None:
        """
        Inside a worker the worker's sink counts, whatever the option ``service`` says.
        """
        log, _ = plain(EventLogProcessor(service="foo"))
        with bind_sink(RecordingSink()) as mine:
            log.info("paid")

        assert (["paid"], []) == (mine.types, service.types)

    def test_text_that_logs(self, worker: RecordingSink) -> None:
        """
        What an event's own ``__str__`` logs is not forwarded but counted, and does not recurse.
        """
        log, _ = plain(EventLogProcessor())

        class Chatty:
            def __str__(self) -> str:
                log.info("asked for my text")
                return "chatty"

        log.info(Chatty())

        assert ["chatty"] == worker.types
        assert 1 == forwarding.not_forwarded.value

    def test_while_delivering(self, worker: RecordingSink) -> None:
        """
        What is logged while an event log is being taken is not forwarded but counted, once.
        """
        log, _ = plain(EventLogProcessor(), EventLogProcessor())
        emit = worker.emit

        def log_and_emit(event: Any) -> None:
            log.info("inner")
            emit(event)

        worker.emit = log_and_emit  # type: ignore[method-assign]
        log.info("outer")

        assert ["outer"] == worker.types
        assert 1 == forwarding.not_forwarded.value

    @pytest.mark.parametrize("name", ["amqp", "nameko_eventlog.undelivered", "nameko.runners"])
    def test_others_while_delivering(
        self, service: RecordingSink, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What delivery logs meanwhile, or Nameko outside any worker, is not counted.
        """
        processor = EventLogProcessor(service="foo")
        inner, arrived = plain(processor, logger=logging.Logger(name))
        monkeypatch.setattr(service, "emit", lambda event: inner.info("inner"))

        plain(processor)[0].info("outer")

        assert ["inner"] == [one["event"] for one in arrived]
        assert 0 == forwarding.not_forwarded.value


class TestErrors:
    def test_sink(self, worker: RecordingSink, caplog: pytest.LogCaptureFixture) -> None:
        """
        A sink that raises does not raise into the caller; it is counted and reported.
        """

        def boom(event: Any) -> None:
            raise RuntimeError("boom")

        worker.emit = boom  # type: ignore[method-assign]
        log, arrived = plain(EventLogProcessor())
        log.info("paid")

        assert 1 == len(arrived)
        assert 1 == forwarding.not_forwarded.value
        assert "could not be forwarded" in caplog.text

    def test_base_exceptions_escape(self, worker: RecordingSink) -> None:
        """
        A timeout or a kill is the caller's.
        """

        def interrupt(event: Any) -> None:
            raise KeyboardInterrupt

        worker.emit = interrupt  # type: ignore[method-assign]
        log, _ = plain(EventLogProcessor())
        with pytest.raises(KeyboardInterrupt):
            log.info("paid")

    @pytest.mark.parametrize("rendered", ["a line", b"a line", (("a line",), {})])
    def test_behind_a_renderer(
        self, worker: RecordingSink, caplog: pytest.LogCaptureFixture, rendered: Any
    ) -> None:
        """
        Behind a renderer there is nothing to forward: counted and said; the line passes on.
        """
        assert rendered is EventLogProcessor()(None, "info", rendered)
        assert [] == worker.events
        assert 1 == forwarding.not_forwarded.value
        assert "could not be forwarded" in caplog.text

    def test_report_that_raises(self, worker: RecordingSink) -> None:
        """
        A handler of the report that raises does not raise into the caller either.
        """

        class Broken(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise RuntimeError("disk full")

        def boom(event: Any) -> None:
            raise ValueError("boom")

        logging.getLogger("logging_ext").addHandler(Broken())
        worker.emit = boom  # type: ignore[method-assign]
        log, arrived = plain(EventLogProcessor())
        log.info("paid")

        assert [{"event": "paid", **CONTEXT}] == arrived
        assert 1 == forwarding.not_forwarded.value

    def test_report_through_the_processor(
        self, worker: RecordingSink, stream: io.StringIO
    ) -> None:
        """
        A report that comes by a processor of ours does not go in a circle.
        """

        def boom(event: Any) -> None:
            raise ValueError("boom")

        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            ProcessorFormatter(
                foreign_pre_chain=[EventLogProcessor()],
                processor=structlog.processors.KeyValueRenderer(),
            )
        )
        logging.getLogger("logging_ext").addHandler(handler)
        worker.emit = boom  # type: ignore[method-assign]
        plain(EventLogProcessor())[0].info("paid")

        assert 1 == forwarding.not_forwarded.value
        assert 1 == stream.getvalue().count("could not be forwarded")

    def test_name(self, worker: RecordingSink) -> None:
        """
        A logger whose name raises costs the event log, and is counted.
        """

        class Nameless:
            @property
            def name(self) -> str:
                raise ValueError("no name")

        passed = EventLogProcessor()(Nameless(), "info", {"event": "paid"})

        assert {"event": "paid", **CONTEXT} == passed
        assert 1 == forwarding.not_forwarded.value

    def test_unreadable(self, worker: RecordingSink) -> None:
        """
        An event dict that cannot be read passes on as it is, and is counted.
        """

        class Unreadable(collections.UserDict[str, Any]):
            def __iter__(self) -> Any:
                raise ValueError("no keys")

        event_dict = Unreadable(event="paid")

        assert event_dict is EventLogProcessor()(None, "info", event_dict)
        assert 1 == forwarding.not_forwarded.value

    def test_after_an_error(self, worker: RecordingSink) -> None:
        """
        The next call is forwarded.
        """
        log, _ = plain(EventLogProcessor())
        log.info("user", logger=None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker, "emit", None)
            log.info("no")
        log.info("paid")

        assert ["user", "paid"] == worker.types
        assert 1 == forwarding.not_forwarded.value

    @given(
        st.dictionaries(
            st.text(),
            st.recursive(
                st.none() | st.integers() | st.floats() | st.text() | st.binary(),
                lambda values: st.lists(values) | st.dictionaries(st.text(), values),
            ),
        )
    )
    def test_anything(self, event_dict: dict[str, Any]) -> None:
        """
        Whatever an event dict holds, one event log comes of it, and it passes on.
        """
        sink = RecordingSink()
        with bind_sink(sink):
            passed = EventLogProcessor()(None, "info", event_dict)

        assert sink.only.event_type
        assert event_dict.keys() | CONTEXT.keys() == passed.keys()


def _drop() -> Any:
    raise structlog.DropEvent


@pytest.fixture
def stream() -> io.StringIO:
    """
    Where the ordinary handler writes.
    """
    return io.StringIO()


@pytest.fixture
def both(stream: io.StringIO, handler: StrictHandler) -> Any:
    """
    A standard logger with an ordinary handler and an event log handler.
    """
    logger = logging.Logger("svc", logging.DEBUG)
    logger.addHandler(logging.StreamHandler(stream))
    logger.addHandler(handler)
    yield logger
    assert [] == handler.errors


class TestThroughTheStandardLibrary:
    """
    Processor and handler both see one call: one event log.
    """

    SETUPS: dict[str, Callable[[logging.Logger], list[Any]]] = {
        "render_to_log_kwargs": lambda logger: [structlog.stdlib.render_to_log_kwargs],
        "wrap_for_formatter": lambda logger: [ProcessorFormatter.wrap_for_formatter],
        "JSONRenderer": lambda logger: [structlog.processors.JSONRenderer(default=repr)],
        "KeyValueRenderer": lambda logger: [structlog.processors.KeyValueRenderer()],
        "ConsoleRenderer": lambda logger: [structlog.dev.ConsoleRenderer()],
    }

    def log(self, logger: logging.Logger, *processors: Any) -> Any:
        """
        Return structlog's logger over the standard one.
        """
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setFormatter(
                    ProcessorFormatter(processor=structlog.processors.JSONRenderer(default=repr))
                )
        return structlog.wrap_logger(
            logger,
            processors=[structlog.stdlib.add_log_level, *processors],
            wrapper_class=structlog.stdlib.BoundLogger,
        )

    @pytest.mark.parametrize("setup", SETUPS)
    def test_once(
        self, worker: RecordingSink, both: logging.Logger, stream: io.StringIO, setup: str
    ) -> None:
        """
        One event log, from the processor, and one ordinary line.
        """
        log = self.log(both, EventLogProcessor(), *self.SETUPS[setup](both))
        for number in range(3):
            log.info("paid", amount=number)

        assert ["paid"] * 3 == worker.types
        assert [{"amount": number} for number in range(3)] == [
            event.event_data for event in worker.events
        ]
        assert {"level": "info", "logger": "svc"} == worker.events[0].metadata
        assert 3 == len(stream.getvalue().splitlines())

    @pytest.mark.parametrize("setup", SETUPS)
    def test_while_delivering(
        self, worker: RecordingSink, both: logging.Logger, setup: str
    ) -> None:
        """
        What is logged while an event log is being taken is counted once; that is still one.
        """
        log = self.log(both, EventLogProcessor(), *self.SETUPS[setup](both))
        emit = worker.emit

        def log_and_emit(event: Any) -> None:
            log.info("inner")
            both.info("inner")
            emit(event)

        worker.emit = log_and_emit  # type: ignore[method-assign]
        log.info("outer")
        both.info("outer")

        assert ["outer", "outer"] == worker.types
        assert 4 == forwarding.not_forwarded.value

    @pytest.mark.parametrize("setup", ["render_to_log_kwargs", "wrap_for_formatter"])
    def test_handler_alone(self, worker: RecordingSink, both: logging.Logger, setup: str) -> None:
        """
        Without the processor the handler reads the same.
        """
        log = self.log(both, *self.SETUPS[setup](both))
        log.bind(order=7).warning("paid", amount=5, metadata={"team": "a"})

        assert "paid" == worker.only.event_type
        assert {"order": 7, "amount": 5} == worker.data
        assert {"level": "warning", "logger": "svc", "team": "a"} == worker.metadata

    @pytest.mark.parametrize("setup", SETUPS)
    def test_mixed(self, worker: RecordingSink, both: logging.Logger, setup: str) -> None:
        """
        Calls of the standard library in between are event logs of their own.
        """
        log = self.log(both, EventLogProcessor(), *self.SETUPS[setup](both))
        log.info("first")
        both.info("second", extra={"amount": 5})
        log.info("third")
        both.info("third")

        assert ["first", "second", "third", "third"] == worker.types

    def test_disabled(self, worker: RecordingSink, both: logging.Logger) -> None:
        """
        A call that the wrapped logger drops is the processor's, and the next not confused.
        """
        both.setLevel(logging.WARNING)
        log = self.log(both, EventLogProcessor(), structlog.stdlib.render_to_log_kwargs)
        log.info("quiet")
        both.warning("quiet")

        assert ["quiet", "quiet"] == worker.types

    def test_dropped_behind(self, worker: RecordingSink, both: logging.Logger) -> None:
        """
        Nor is a call of the standard library behind one that a processor behind ours dropped.
        """
        log = self.log(both, EventLogProcessor(), lambda *args: _drop())
        log.info("dropped")
        both.info("paid")

        assert ["dropped", "paid"] == worker.types

    def test_arguments(self, worker: RecordingSink, both: logging.Logger) -> None:
        """
        The handler alone reads positional arguments of an event dict, too.
        """
        log = self.log(both, ProcessorFormatter.wrap_for_formatter)
        log.info("user %s", "bob", amount=5)

        assert ("user %s", {"amount": 5}) == (worker.only.event_type, worker.data)
        assert {"level": "info", "logger": "svc", "message": "user bob"} == worker.metadata

    def test_disabled_then_another_chain(self, worker: RecordingSink) -> None:
        """
        Nor is a call that comes through a chain without the processor.
        """
        logger = logging.getLogger("svc")
        logger.setLevel(logging.WARNING)
        logger.addHandler(StrictHandler())
        renderer = structlog.processors.JSONRenderer()
        self.log(logger, EventLogProcessor(), renderer).info("quiet")
        logger.setLevel(logging.DEBUG)
        self.log(logger, renderer).info("paid")

        assert ["quiet", '{"event": "paid", "level": "info"}'] == worker.types

    def test_handler_with_service(self, service: RecordingSink, both: logging.Logger) -> None:
        """
        A handler with a service forwards what the processor counted as nobody's.
        """
        both.addHandler(StrictHandler(service="foo"))
        log = self.log(both, EventLogProcessor(), structlog.stdlib.render_to_log_kwargs)
        log.info("paid", amount=5)

        assert ("paid", {"amount": 5}) == (service.only.event_type, service.data)

    def test_line(self, worker: RecordingSink, both: logging.Logger, stream: io.StringIO) -> None:
        """
        The ordinary line is the event dict with the worker context, and nothing else.
        """
        log = self.log(both, EventLogProcessor(), ProcessorFormatter.wrap_for_formatter)
        log.info("paid", amount=5)

        expected = {"event": "paid", "amount": 5, "level": "info", **CONTEXT}
        assert expected == json.loads(stream.getvalue())

    def test_outside(self, both: logging.Logger) -> None:
        """
        Outside any worker one call is counted once.
        """
        log = self.log(both, EventLogProcessor(), structlog.stdlib.render_to_log_kwargs)
        log.info("paid")

        assert 1 == forwarding.not_forwarded.value

    def test_exception(self, worker: RecordingSink, both: logging.Logger) -> None:
        """
        ``exception`` arrives with its traceback through the handler, too.
        """
        log = self.log(both, structlog.stdlib.render_to_log_kwargs)
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("failed")

        assert "error" == worker.metadata["level"]
        assert "boom" == worker.metadata["exception"][0]["exc_value"]


class TestSeveralProcessors:
    """
    Processors of one chain see one call: one event log.
    """

    @pytest.mark.parametrize("event", ["paid", "x", "", 5, None, Unprintable()])
    def test_once(self, worker: RecordingSink, event: Any) -> None:
        """
        One event log a call, whatever the event is, and equal calls are not taken for one.
        """
        log, arrived = plain(EventLogProcessor(), EventLogProcessor(), EventLogProcessor())
        for number in range(3):
            log.info(event, amount=number)

        assert [{"amount": number} for number in range(3)] == [
            event.event_data for event in worker.events
        ]
        assert 3 == len(arrived)
        assert [event] * 3 == [event_dict.get("event") for event_dict in arrived]

    @pytest.mark.parametrize("event", ["paid", "x", "", 5, None])
    def test_once_with_the_handler(
        self, worker: RecordingSink, both: logging.Logger, event: Any
    ) -> None:
        """
        So it is with the handler behind them.
        """
        log = structlog.wrap_logger(
            both,
            processors=[
                EventLogProcessor(),
                EventLogProcessor(),
                ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        for _ in range(2):
            log.info(event)

        assert 2 == len(worker.events)

    def test_changed_between(self, worker: RecordingSink) -> None:
        """
        A processor between them may make an event dict of its own.
        """

        def change(logger: Any, method_name: str, event_dict: Any) -> Any:
            return {"event": event_dict["event"], "added": 1}

        log, arrived = plain(EventLogProcessor(), change, EventLogProcessor())
        log.info("paid", amount=5)

        assert {"amount": 5} == worker.data
        assert [{"event": "paid", "added": 1, **CONTEXT}] == arrived

    @pytest.mark.parametrize("event", ["paid", 5])
    def test_counted_once(self, event: Any) -> None:
        """
        Outside any worker they count a call once.
        """
        log, _ = plain(EventLogProcessor(), EventLogProcessor(), EventLogProcessor())
        log.info(event)

        assert 1 == forwarding.not_forwarded.value

    @pytest.mark.parametrize("event", ["paid", 5])
    def test_one_with_service(self, service: RecordingSink, event: Any) -> None:
        """
        One with a service forwards what one before it counted, and those behind know it.
        """
        log, _ = plain(
            EventLogProcessor(),
            EventLogProcessor(service="foo"),
            EventLogProcessor(service="foo"),
            EventLogProcessor(),
        )
        log.info(event)

        assert [str(event)] == service.types
        assert 1 == forwarding.not_forwarded.value

    def test_call_within_a_call(self, worker: RecordingSink) -> None:
        """
        An equal call that a processor makes is an event log of its own.
        """
        inner, _ = plain(EventLogProcessor())

        def log_too(logger: Any, method_name: str, event_dict: Any) -> Any:
            inner.info("paid")
            return event_dict

        plain(EventLogProcessor(), log_too)[0].info("paid")
        inner.info("paid")

        assert ["paid", "paid", "paid"] == worker.types


class TestInProcessorFormatter:
    """
    The processor among those of a ``ProcessorFormatter``.
    """

    def logger(self, stream: io.StringIO, **where: Any) -> logging.Logger:
        """
        Return a standard logger whose handler formats with the processor.
        """
        handler = logging.StreamHandler(stream)
        handler.setFormatter(
            ProcessorFormatter(
                **{
                    "processors": [
                        ProcessorFormatter.remove_processors_meta,
                        structlog.processors.JSONRenderer(default=repr),
                    ],
                    **where,
                }
            )
        )
        logger = logging.Logger("svc", logging.DEBUG)
        logger.addHandler(handler)
        return logger

    def test_foreign(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        In ``foreign_pre_chain`` it forwards the standard library's records.
        """
        logger = self.logger(
            stream, foreign_pre_chain=[structlog.stdlib.ExtraAdder(), EventLogProcessor()]
        )
        logger.warning("user %s paid", "bob", extra={"amount": 5})

        assert "user %s paid" == worker.only.event_type
        assert {"amount": 5} == worker.data
        assert {
            "level": "warning",
            "logger": "svc",
            "message": "user bob paid",
        } == worker.metadata
        line = json.loads(stream.getvalue())
        assert ("user bob paid", 5, CONTEXT["call_id"]) == (
            line["event"],
            line["amount"],
            line["call_id"],
        )

    def test_foreign_and_handler(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        With the handler beside it, in whichever order, there is one event log.
        """
        logger = self.logger(
            stream, foreign_pre_chain=[structlog.stdlib.ExtraAdder(), EventLogProcessor()]
        )
        logger.addHandler(EventLogHandler())
        logger.info("first", extra={"amount": 5})
        logger.handlers.reverse()
        logger.info("second", extra={"amount": 5})

        assert ["first", "second"] == worker.types
        assert [{"amount": 5}] * 2 == [event.event_data for event in worker.events]

    def test_while_delivering(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        With both, what is logged while an event log is being taken is counted once.
        """
        logger = self.logger(stream, foreign_pre_chain=[EventLogProcessor()])
        logger.addHandler(EventLogHandler())
        worker.emit = lambda event: logger.info("inner")  # type: ignore[method-assign]
        logger.info("first")
        logger.handlers.reverse()
        logger.info("second")

        assert 2 == forwarding.not_forwarded.value

    def test_of_structlog(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        In ``processors`` it forwards structlog's event dicts.
        """
        logger = self.logger(
            stream,
            processors=[
                EventLogProcessor(),
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=repr),
            ],
        )
        log = structlog.wrap_logger(
            logger,
            processors=[
                structlog.stdlib.add_log_level,
                ProcessorFormatter.wrap_for_formatter,
            ],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.info("paid", amount=5)

        assert "paid" == worker.only.event_type
        assert {"amount": 5} == worker.data
        assert {"level": "info", "logger": "svc"} == worker.metadata

    def test_of_both(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        In ``processors`` it forwards the standard library's records, too, and handlers beside
        it and processors elsewhere make no second event log.
        """
        logger = self.logger(
            stream,
            foreign_pre_chain=[EventLogProcessor()],
            processors=[
                EventLogProcessor(),
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=repr),
            ],
        )
        logger.addHandler(EventLogHandler())
        logger.addHandler(logger.handlers[0])
        log = structlog.wrap_logger(
            logger,
            processors=[EventLogProcessor(), ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.info("first", amount=1)
        logger.info("second", extra={"amount": 2})
        log.info("third", amount=3)

        assert [("first", {"amount": 1}), ("second", {"amount": 2}), ("third", {"amount": 3})] == [
            (event.event_type, event.event_data) for event in worker.events
        ]

    def test_outside(self, stream: io.StringIO) -> None:
        """
        Outside any worker a record that several of them see is counted once.
        """
        logger = self.logger(stream, foreign_pre_chain=[EventLogProcessor()] * 2)
        logger.addHandler(EventLogHandler())
        logger.addHandler(logger.handlers[0])
        logger.info("paid")

        assert 1 == forwarding.not_forwarded.value

    @pytest.mark.parametrize(
        "before",
        [
            [],
            [structlog.stdlib.ExtraAdder()],
            [
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso"),
            ],
        ],
        ids=["alone", "extras", "usual"],
    )
    def test_same_as_the_handler(
        self, worker: RecordingSink, stream: io.StringIO, before: list[Any]
    ) -> None:
        """
        Of a record it makes the event log that the handler makes.
        """
        record = logging.Logger("svc").makeRecord(
            *("svc", 40, "x.py", 1, "user %s", ("bob",), (ValueError, ValueError("x"), None)),
            extra={"amount": 5, "metadata": {"team": "a"}, "event_data": {"a": 1}},
            sinfo="Stack (most recent call last):",
        )
        other = logging.makeLogRecord(record.__dict__)
        self.logger(stream, foreign_pre_chain=[*before, EventLogProcessor()]).handle(record)
        with bind_sink(RecordingSink()) as sink:
            forwarding._seen.set(None)
            StrictHandler().handle(other)

        for read in ("event_type", "event_data", "metadata"):
            assert getattr(sink.only, read) == getattr(worker.only, read)
        assert abs(sink.only.timestamp - worker.only.timestamp) < 5

    def test_arguments_kept(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        With ``pass_foreign_args`` the template is the event type, the rendered text a message.
        """
        logger = self.logger(
            stream,
            foreign_pre_chain=[EventLogProcessor()],
            pass_foreign_args=True,
            use_get_message=False,
        )
        logger.info("user %s", "bob")

        assert ("user %s", {}) == (worker.only.event_type, worker.data)
        assert "user bob" == worker.metadata["message"]

    def test_behind_dict_tracebacks(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        Behind ``dict_tracebacks`` no local variables either.
        """
        secret = "hunter2"
        logger = self.logger(
            stream,
            processors=[
                structlog.processors.ExceptionRenderer(
                    structlog.tracebacks.ExceptionDictTransformer(show_locals=True)
                ),
                EventLogProcessor(),
                ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=repr),
            ],
        )
        try:
            raise ValueError("boom")
        except ValueError:
            logger.exception("failed")

        assert "boom" == worker.metadata["exception"][0]["exc_value"]
        assert secret in stream.getvalue()
        assert secret not in repr(worker.only)

    def test_level_without_a_name(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        A level of one's own has the name that records have for it.
        """
        self.logger(stream, foreign_pre_chain=[EventLogProcessor()]).log(17, "paid")

        assert "level 17" == worker.metadata["level"]

    @pytest.mark.parametrize("name", ["amqp", "kombu.x", "nameko_eventlog", "logging_ext"])
    def test_own_loggers(self, service: RecordingSink, stream: io.StringIO, name: str) -> None:
        """
        What delivery itself logs is never forwarded.
        """
        handler = self.logger(
            stream, foreign_pre_chain=[EventLogProcessor(service="foo")]
        ).handlers[0]
        record = {"name": name, "levelname": "ERROR", "msg": "x"}
        handler.handle(logging.makeLogRecord(record))
        with bind_sink(service):
            handler.handle(logging.makeLogRecord(record))

        assert [] == service.types
        assert 0 == forwarding.not_forwarded.value

    def test_nameko(self, service: RecordingSink, stream: io.StringIO) -> None:
        """
        What Nameko logs is forwarded from inside a worker only, and outside not counted.
        """
        handler = self.logger(
            stream, foreign_pre_chain=[EventLogProcessor(service="foo")]
        ).handlers[0]
        record = {"name": "nameko.runners", "levelname": "INFO"}
        handler.handle(logging.makeLogRecord({**record, "msg": "starting"}))
        with bind_sink(service):
            handler.handle(logging.makeLogRecord({**record, "msg": "inside"}))

        assert ["inside"] == service.types
        assert 0 == forwarding.not_forwarded.value

    def test_by_dict_config(self, worker: RecordingSink, stream: io.StringIO) -> None:
        """
        dictConfig makes all of it, with the handler beside it.
        """
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {
                    "structlog": {
                        "()": ProcessorFormatter,
                        "foreign_pre_chain": [structlog.stdlib.ExtraAdder()],
                        "processors": [
                            add_worker_context,
                            ProcessorFormatter.remove_processors_meta,
                            structlog.processors.JSONRenderer(),
                        ],
                    }
                },
                "handlers": {
                    "eventlog": {"class": "logging_ext.EventLogHandler"},
                    "console": {
                        "class": "logging.StreamHandler",
                        "stream": stream,
                        "formatter": "structlog",
                    },
                },
                "loggers": {"svc": {"level": "INFO", "handlers": ["eventlog", "console"]}},
            }
        )
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                EventLogProcessor(),
                ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        structlog.get_logger("svc").info("paid", amount=5)
        structlog.get_logger("svc").debug("no")
        logging.getLogger("svc").info("refunded", extra={"amount": 6})

        assert [("paid", {"amount": 5}), ("refunded", {"amount": 6})] == [
            (event.event_type, event.event_data) for event in worker.events
        ]
        assert [
            {"event": "paid", "amount": 5, **CONTEXT},
            {"event": "refunded", "amount": 6, **CONTEXT},
        ] == [json.loads(line) for line in stream.getvalue().splitlines()]
