"""
structlog's event dicts, in its set-ups beside the standard library.
"""

from __future__ import annotations

import io
import json
import logging
import logging.config
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from structlog.stdlib import ProcessorFormatter

from logging_ext import (
    EventLogHandler,
    EventLogProcessor,
    WorkerContextFilter,
    add_worker_context,
    bind_sink,
    forwarding,
)
from tests.logging_ext.recording import (
    CONTEXT,
    RecordingSink,
    StrictHandler,
    Unprintable,
    drop,
    plain,
)


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
        log = self.log(both, EventLogProcessor(), drop)
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

    def test_handled_in_another_call(self, service: RecordingSink, stream: io.StringIO) -> None:
        """
        A record that got its context in one call, and is formatted in another, is the first one's.
        """
        logger = self.logger(stream, foreign_pre_chain=[EventLogProcessor()])
        record = logger.makeRecord("svc", 20, "x.py", 1, "paid", (), None)
        with bind_sink(RecordingSink(CONTEXT)):
            WorkerContextFilter().filter(record)

        with bind_sink(RecordingSink({**CONTEXT, "call_id": "foo.pay.2"})) as another:
            logger.handle(record)

        assert [] == another.events
        assert CONTEXT.items() <= service.metadata.items()

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
        record, other = (
            logging.Logger("svc").makeRecord(
                *("svc", 40, "x.py", 1, "user %s", ("bob",), (ValueError, ValueError("x"), None)),
                extra={"amount": 5, "metadata": {"team": "a"}, "event_data": {"a": 1}},
                sinfo="Stack (most recent call last):",
            )
            for _ in range(2)
        )
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
