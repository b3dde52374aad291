"""
structlog's event dicts: what becomes of what is in them.
"""

from __future__ import annotations

import collections
import copy
import logging
import logging.config
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
import structlog

from logging_ext import (
    EventLogProcessor,
    add_worker_context,
    forwarding,
)
from tests.logging_ext.recording import (
    CONTEXT,
    OUTSIDE,
    Incomparable,
    RecordingSink,
    Unprintable,
    drop,
    plain,
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
            ({"fields": [5]}, TypeError, "fields must be a list of names, but contains 5"),
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
            processors=[EventLogProcessor(), drop],
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
                drop,
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
