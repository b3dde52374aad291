"""
structlog's event dicts: exceptions, nobody's, and what cannot be read.
"""

from __future__ import annotations

import collections
import contextvars
import io
import json
import logging
import logging.config
from collections.abc import Callable
from typing import Any

import eventlet
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.stdlib import ProcessorFormatter

from logging_ext import (
    EventLogProcessor,
    bind_sink,
    forwarding,
)
from tests.logging_ext.recording import (
    CONTEXT,
    OUTSIDE,
    RecordingSink,
    plain,
)


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
        arrived: list[dict[str, Any]] = []
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
        An event from outside any worker is not forwarded. It is counted, with one warning.
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

        assert "this process runs no dispatcher for service 'bar'" in caplog.text

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
        After a renderer there is nothing to forward: this is counted and logged.
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
