"""
JSON lines that read like event logs.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import io
import json
import logging
import logging.config
import math
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from logging_ext import EventLogHandler, JsonFormatter, WorkerContextFilter
from tests.logging_ext.recording import CONTEXT, OUTSIDE, RecordingSink, Unprintable


def refuse(constant: str) -> None:
    """
    Refuse NaN and infinities, which are not JSON.
    """
    raise AssertionError(constant)


class Unreadable(dict):
    """
    A mapping that cannot be read.
    """

    def items(self) -> Any:
        raise ValueError("no items")


class Ratio(enum.Enum):
    """
    Members whose values are no JSON.
    """

    NONE = math.nan


@dataclasses.dataclass
class Price:
    """
    What the encoder takes apart.
    """

    amount: Any


def record_of(**attributes: Any) -> logging.LogRecord:
    """
    Return a record.
    """
    return logging.makeLogRecord(
        {"name": "svc", "levelno": 20, "levelname": "INFO", "msg": "paid"} | attributes
    )


@pytest.fixture
def lines() -> Callable[[], list[dict[str, Any]]]:
    """
    Configure the logger ``svc`` by ``dictConfig``, and return what reads its lines.
    """
    stream = io.StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": "logging_ext.JsonFormatter"}},
            "handlers": {
                "console": {
                    "class": "logging.StreamHandler",
                    "stream": stream,
                    "formatter": "json",
                }
            },
            "loggers": {"svc": {"level": "DEBUG", "handlers": ["console"], "propagate": False}},
        }
    )

    def read() -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=refuse) for line in stream.getvalue().splitlines()]

    return read


@pytest.fixture
def svc() -> logging.Logger:
    """
    The logger.
    """
    return logging.getLogger("svc")


Read = Callable[[], list[dict[str, Any]]]


class TestLine:
    def test_inside(self, lines: Read, svc: logging.Logger, worker: RecordingSink) -> None:
        """
        A line has the names of a body, with the worker context.
        """
        svc.info("paid", extra={"amount": 5})
        (line,) = lines()
        timestamp = line.pop("timestamp")

        assert {
            "message": "paid",
            "event_type": "paid",
            "level": "info",
            "logger": "svc",
            "data": {"amount": 5},
            **CONTEXT,
        } == line
        assert 0 == datetime.fromisoformat(timestamp).utcoffset().total_seconds()

    def test_outside(self, lines: Read, svc: logging.Logger) -> None:
        """
        Outside any worker the context attributes are there all the same.
        """
        svc.info("started")

        assert OUTSIDE.items() <= lines()[0].items()

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("bob", 5), "user bob paid 5"),
            (("bob",), "user %s paid %d ('bob',)"),
            ((Unprintable(), 5), "user <Unprintable"),
        ],
    )
    def test_arguments(self, arguments: Any, expected: str) -> None:
        """
        The message is rendered, as far as it goes; the event type is the template.
        """
        record = logging.makeLogRecord({"msg": "user %s paid %d", "args": arguments})
        line = json.loads(JsonFormatter().format(record))

        assert "user %s paid %d" == line["event_type"]
        assert line["message"].startswith(expected)

    def test_metadata(self, lines: Read, svc: logging.Logger) -> None:
        """
        The caller's metadata is at the top, as in a body.
        """
        svc.info("paid", extra={"metadata": {"team": "a"}, "event_data": {"name": "bob"}})

        assert "a" == lines()[0]["team"]
        assert {"name": "bob"} == lines()[0]["data"]

    def test_metadata_named_like_a_record(self, lines: Read, svc: logging.Logger) -> None:
        """
        Metadata under a record's own name does not take its place.
        """
        svc.info("paid", extra={"metadata": {"message": "x", "args": [1], "msg": "y"}})

        assert ("paid", "paid") == (lines()[0]["message"], lines()[0]["event_type"])

    def test_private_metadata(self, lines: Read, svc: logging.Logger) -> None:
        """
        Metadata whose name begins with an underscore is there, as in a body.
        """
        svc.info("paid", extra={"metadata": {"_team": "a"}})

        assert "a" == lines()[0]["_team"]

    def test_mapping(self, lines: Read, svc: logging.Logger) -> None:
        """
        A mapping as message is data.
        """
        svc.info({"event": "user %s", "card": "4111"}, "ada")

        (line,) = lines()
        assert ("user %s", "user ada", {"card": "4111"}) == (
            line["event_type"],
            line["message"],
            line["data"],
        )

    def test_record_factory(self, lines: Read, svc: logging.Logger) -> None:
        """
        A record that renders itself is asked, and no second one is made by its factory.
        """
        made = []

        class Record(logging.LogRecord):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                made.append(self)

            def getMessage(self) -> str:  # noqa: N802
                return str(self.msg).format(*self.args or ())

        logging.setLogRecordFactory(Record)
        try:
            svc.info("user {}", "ada")
        finally:
            logging.setLogRecordFactory(logging.LogRecord)

        assert ("user ada", 1) == (lines()[0]["message"], len(made))

    def test_exception(self, lines: Read, svc: logging.Logger) -> None:
        """
        An exception is structured, without local variables.
        """
        secret = "hunter2"
        try:
            raise ValueError("boom")
        except ValueError:
            svc.exception("failed", stack_info=True)
        (line,) = lines()

        assert "boom" == line["exception"][0]["exc_value"]
        assert "test_exception" in line["stack"]
        assert secret not in json.dumps(line)
        assert "exc_info" not in line

    def test_filter_before(self, lines: Read, svc: logging.Logger, worker: RecordingSink) -> None:
        """
        What the filter has attached is context, not data, and shown once.
        """
        svc.handlers[0].addFilter(WorkerContextFilter())
        svc.info("paid", extra={"amount": 5})

        assert {"amount": 5} == lines()[0]["data"]
        assert CONTEXT.items() <= lines()[0].items()

    def test_attached_elsewhere(
        self, lines: Read, svc: logging.Logger, worker: RecordingSink
    ) -> None:
        """
        A record formatted outside its worker, behind a queue, keeps that worker's context.
        """
        record = svc.makeRecord("svc", 20, "x.py", 1, "paid", (), None)
        WorkerContextFilter().filter(record)
        worker.context = {**CONTEXT, "call_id": "another"}
        svc.handle(record)

        assert CONTEXT["call_id"] == lines()[0]["call_id"]

    def test_callers_own_context(self, lines: Read, svc: logging.Logger) -> None:
        """
        What the caller passed under the name of a context attribute is data.
        """
        svc.info("paid", extra={"call_id": "mine"})

        assert {"call_id": "mine"} == lines()[0]["data"]
        assert lines()[0]["call_id"] is None

    def test_structlog(self, lines: Read, svc: logging.Logger) -> None:
        """
        structlog's event dicts read alike, with their own time.
        """
        log = structlog.wrap_logger(
            svc,
            processors=[structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
            wrapper_class=structlog.stdlib.BoundLogger,
        )
        log.info("user %s", "bob", amount=5, timestamp="2017-06-12T13:48:16+00:00")
        (line,) = lines()

        assert ("user %s", "user bob") == (line["event_type"], line["message"])
        assert {"amount": 5} == line["data"]
        assert "2017-06-12T13:48:16+00:00" == line["timestamp"]

    def test_record_is_not_changed(self) -> None:
        """
        The record stays as it is for the next handler.
        """
        record = logging.makeLogRecord({"msg": "user %s", "args": ("bob",), "amount": [5]})
        before = dict(record.__dict__)
        JsonFormatter().format(record)

        assert before == record.__dict__

    def test_record_with_an_exception_is_not_changed(self, svc: logging.Logger) -> None:
        """
        Neither is one with an exception, a stack and a context of the caller's own.
        """
        exc = ValueError("boom")
        extra = {"call_id": "mine", "metadata": {"m": 1}, "event_data": {"a": [1]}, "b": 2}
        record = svc.makeRecord(
            *("svc", 40, "x.py", 1, "user %s", ("bob",), (ValueError, exc, None)),
            extra=extra,
            sinfo="Stack (most recent call last):",
        )
        before = copy.copy(record.__dict__)
        JsonFormatter("%(asctime)s %(message)s").format(record)

        assert before == record.__dict__
        assert {"call_id": "mine", "metadata": {"m": 1}, "event_data": {"a": [1]}, "b": 2} == extra

    @pytest.mark.parametrize(
        ("message", "text", "event_type"),
        [
            ("", "", "(empty)"),
            (None, "None", "None"),
            ({"a": 1}, "", "(empty)"),
            ({"message": "paid", "a": 1}, "paid", "paid"),
            ("x" * 681, "x" * 681, "x" * 499 + "…"),
            (Unprintable(), *["<Unprintable object whose repr raised ValueError>"] * 2),
        ],
    )
    def test_messages(self, message: Any, text: str, event_type: str) -> None:
        """
        A message that is no string counts by its text, an empty one is an event type, too.
        """
        line = json.loads(JsonFormatter().format(record_of(msg=message)))

        assert (text, event_type) == (line["message"], line["event_type"])

    def test_own_level_and_logger(self, lines: Read, svc: logging.Logger) -> None:
        """
        ``level`` and ``logger`` among the extras are data when they are not the record's own.
        """
        svc.info("paid", extra={"level": "info", "logger": "svc"})
        svc.info("paid", extra={"level": "high"})

        assert [{}, {"level": "high"}] == [line["data"] for line in lines()]
        assert ["info", "info"] == [line["level"] for line in lines()]

    def test_precedence(self, lines: Read, svc: logging.Logger, worker: RecordingSink) -> None:
        """
        As in a body: metadata goes over the context, time, event type and data over both.
        """
        svc.info(
            "paid",
            extra={
                "amount": 5,
                "metadata": {
                    "call_id": "c",
                    "level": "l",
                    "timestamp": "t",
                    "event_type": "e",
                    "data": "d",
                },
            },
        )
        (line,) = lines()

        assert ("c", "l", "paid") == (line["call_id"], line["level"], line["event_type"])
        assert {"amount": 5} == line["data"]
        assert "t" != line["timestamp"]

    def test_time(self) -> None:
        """
        The time is the record's creation, in UTC, whatever the local time is.
        """
        line = json.loads(JsonFormatter().format(record_of(created=1497275296.25)))

        assert "2017-06-12T13:48:16.250000+00:00" == line["timestamp"]

    def test_exception_as_text(self) -> None:
        """
        A record that has its exception as text only shows the text.
        """
        line = json.loads(JsonFormatter().format(record_of(exc_text="Traceback ...")))

        assert "Traceback ..." == line["exception"]

    def test_exc_info_without_exception(self, lines: Read, svc: logging.Logger) -> None:
        """
        Without an exception there is no such field.
        """
        svc.info("fine", exc_info=True)

        assert "exception" not in lines()[0]

    def test_like_the_event_log(
        self, lines: Read, svc: logging.Logger, worker: RecordingSink
    ) -> None:
        """
        Line and event log say the same, whichever handler is first.
        """
        svc.handlers.append(EventLogHandler())
        svc.info("first", extra={"amount": 5})
        svc.handlers.reverse()
        svc.info("second", extra={"amount": 5})

        for line, event in zip(lines(), worker.events, strict=True):
            assert (event.event_type, event.event_data) == (line["event_type"], line["data"])
            assert event.metadata.items() <= line.items()


class TestTime:
    @pytest.mark.parametrize("created", [math.nan, math.inf, None, "now", 1e300])
    def test_out_of_range(self, created: Any) -> None:
        """
        A time that is none is now.
        """
        record = logging.makeLogRecord({"msg": "paid"})
        record.created = created
        line = json.loads(JsonFormatter().format(record))

        moment = datetime.fromisoformat(line["timestamp"])
        assert abs((datetime.now(moment.tzinfo) - moment).total_seconds()) < 60


class TestRubbish:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (math.nan, "nan"),
            (-math.inf, "-inf"),
            ([1, math.nan], [1, "nan"]),
            ({"a": {"b": math.inf}}, {"a": {"b": "inf"}}),
            ("NaN and Infinity", "NaN and Infinity"),
            ({5: 1}, {"5": 1}),
            (("a", 1), ["a", 1]),
            (Ratio.NONE, "nan"),
            (Price(math.inf), {"amount": "inf"}),
            ([Price([-math.inf, "NaN"])], [{"amount": ["-inf", "NaN"]}]),
            (Price(Ratio.NONE), {"amount": "nan"}),
            ({math.nan: 1}, {"nan": 1}),
            (Unreadable(a=1), "{'a': 1}"),
            pytest.param(10**5000, "<int object whose repr raised ValueError>", id="huge"),
        ],
    )
    def test_values(self, lines: Read, svc: logging.Logger, value: Any, expected: Any) -> None:
        """
        What JSON cannot express is there as text, the rest as it is.
        """
        svc.info("paid", extra={"value": value})

        assert {"value": expected} == lines()[0]["data"]

    @pytest.mark.parametrize(
        "value", [Unprintable(), [Unprintable()], {"a": Unprintable()}, {1, 2}, b"\xff", object()]
    )
    def test_no_json(self, lines: Read, svc: logging.Logger, value: Any) -> None:
        """
        A value that cannot be encoded does not cost the line.
        """
        svc.info("paid", extra={"value": value, "amount": 5})

        assert 5 == lines()[0]["data"]["amount"]
        assert "value" in lines()[0]["data"]

    def test_keys(self, lines: Read, svc: logging.Logger) -> None:
        """
        Nor does a key.
        """
        svc.info("paid", extra={"value": {(1, 2): 3, Unprintable(): 4}})

        assert [3, 4] == list(lines()[0]["data"]["value"].values())

    def test_keys_the_slow_way(self, lines: Read, svc: logging.Logger) -> None:
        """
        Keys that are no strings are there as text.
        """
        svc.info("paid", extra={"value": {None: 1, True: 2, 1.5: 3, (1,): 4, "a": math.nan}})

        expected = {"None": 1, "True": 2, "1.5": 3, "(1,)": 4, "a": "nan"}
        assert {"value": expected} == lines()[0]["data"]

    def test_metadata(self, lines: Read, svc: logging.Logger) -> None:
        """
        It is the same with metadata.
        """
        svc.info("paid", extra={"metadata": {5: math.nan, "a": {(1,): Ratio.NONE}}})

        assert ("nan", {"(1,)": "nan"}) == (lines()[0]["5"], lines()[0]["a"])

    def test_twice(self, lines: Read, svc: logging.Logger) -> None:
        """
        What is there twice is no cycle.
        """
        shared = [1, math.nan]
        svc.info("paid", extra={"value": [shared, {"a": shared}, shared]})

        expected = [[1, "nan"], {"a": [1, "nan"]}, [1, "nan"]]
        assert {"value": expected} == lines()[0]["data"]

    def test_cycle(self, lines: Read, svc: logging.Logger) -> None:
        """
        A cycle is cut.
        """
        value: dict[str, Any] = {"amount": 5}
        value["self"] = value
        svc.info("paid", extra={"value": value})

        assert {"amount": 5, "self": "..."} == lines()[0]["data"]["value"]

    def test_deep(self, lines: Read, svc: logging.Logger) -> None:
        """
        Nesting beyond what an encoder stands is cut.
        """
        value: list[Any] = []
        for _ in range(10_000):
            value = [value]
        svc.info("paid", extra={"value": value, "amount": 5})

        assert 5 == lines()[0]["data"]["amount"]
        found, depth = lines()[0]["data"]["value"], 0
        while found != "...":
            (found,), depth = found, depth + 1
        assert 99 == depth  # the line and its data are two more

    @given(
        st.dictionaries(
            st.text(),
            st.recursive(
                st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
                lambda values: st.lists(values) | st.dictionaries(st.text(), values),
            ),
        )
    )
    def test_anything(self, data: dict[str, Any]) -> None:
        """
        Whatever is logged, one line of JSON comes of it.
        """
        record = logging.makeLogRecord({"msg": "paid", "event_data": data})
        line = JsonFormatter().format(record)

        assert 1 == len(line.splitlines()) or "\n" not in line
        assert data.keys() == json.loads(line, parse_constant=refuse)["data"].keys()


class TestOptions:
    def test_of_python_json_logger(self) -> None:
        """
        python-json-logger's own options work.
        """
        formatter = JsonFormatter(
            rename_fields={"level": "severity"}, static_fields={"team": "a"}, json_indent=2
        )
        line = formatter.format(logging.makeLogRecord({"msg": "paid", "levelname": "INFO"}))

        assert ("info", "a") == (json.loads(line)["severity"], json.loads(line)["team"])
        assert "\n" in line

    def test_format_string(self) -> None:
        """
        A format string chooses among a record's own attributes.
        """
        formatter = JsonFormatter("%(message)s %(lineno)d %(call_id)s")
        line = json.loads(formatter.format(logging.makeLogRecord({"msg": "paid", "lineno": 7})))

        assert ("paid", 7, None) == (line["message"], line["lineno"], line["call_id"])

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"static_fields": {"env": "prod", "level": "x"}}, {"env": "prod", "level": "info"}),
            ({"defaults": {"env": "prod", "level": "x"}}, {"env": "prod", "level": "info"}),
            ({"rename_fields": {"call_id": "id", "data": "d"}}, {"id": None, "d": {}}),
            (
                {"rename_fields": {"exception": "e"}, "rename_fields_keep_missing": True},
                {"e": None},
            ),
            ({"timestamp": "ts"}, {"ts": "2017-06-12T13:48:16.250000+00:00"}),
            ({"timestamp": True}, {"timestamp": "2017-06-12T13:48:16.250000+00:00"}),
            ({"reserved_attrs": ["msg"]}, {"lineno": 0, "levelname": "INFO", "message": "paid"}),
            ({"fmt": "{levelname} {name}", "style": "{"}, {"levelname": "INFO", "name": "svc"}),
            ({"fmt": "%(exc_info)s"}, {"exc_info": None}),
        ],
    )
    def test_fields(self, options: dict[str, Any], expected: dict[str, Any]) -> None:
        """
        Its options add and rename fields; they take the place of none of ours.
        """
        line = json.loads(JsonFormatter(**options).format(record_of(created=1497275296.25)))

        assert expected.items() <= line.items()
        assert {"service_name", "call_stack", "event_type"} <= line.keys()

    def test_asctime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        ``asctime`` and ``datefmt`` work as with any formatter.
        """
        monkeypatch.setattr(JsonFormatter, "converter", time.gmtime)
        formatter = JsonFormatter("%(asctime)s", datefmt="%H:%M:%S")

        assert "13:48:16" == json.loads(formatter.format(record_of(created=1497275296)))["asctime"]

    def test_prefix(self) -> None:
        """
        A prefix goes before the line.
        """
        assert JsonFormatter(prefix="@cee: ").format(record_of()).startswith('@cee: {"message"')

    def test_ensure_ascii(self) -> None:
        """
        Text beyond ASCII is escaped, or not.
        """
        record = record_of(msg="zahl\N{LATIN SMALL LETTER E WITH ACUTE}")

        assert "zahl\\u00e9" in JsonFormatter().format(record)
        assert "zahl\N{LATIN SMALL LETTER E WITH ACUTE}" in JsonFormatter(
            json_ensure_ascii=False
        ).format(record)

    def test_encoders(self) -> None:
        """
        An encoder or a default of the caller's own is asked first.
        """
        record = record_of(value={1, 2}, other=math.nan)
        default = JsonFormatter(json_default=sorted)
        encoder = JsonFormatter(json_encoder=json.JSONEncoder)

        assert {"value": [1, 2], "other": "nan"} == json.loads(default.format(record))["data"]
        assert {"value": "{1, 2}", "other": "nan"} == json.loads(encoder.format(record))["data"]

    def test_by_dict_config(self) -> None:
        """
        dictConfig passes options on.
        """
        stream = io.StringIO()
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "formatters": {
                    "json": {
                        "()": "logging_ext.JsonFormatter",
                        "rename_fields": {"level": "severity"},
                        "static_fields": {"env": "prod"},
                    }
                },
                "handlers": {
                    "console": {
                        "class": "logging.StreamHandler",
                        "stream": stream,
                        "formatter": "json",
                    }
                },
                "loggers": {"svc": {"level": "INFO", "handlers": ["console"]}},
            }
        )
        logging.getLogger("svc").info("paid")
        line = json.loads(stream.getvalue())

        assert ("info", "prod") == (line["severity"], line["env"])
        assert "level" not in line
