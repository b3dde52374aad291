"""
Reading records and event dicts: every row of the table in DESIGN 5.2, and its small print.
"""

import logging
import math
import sys
import types
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from logging_ext import EventLog, bind_sink
from logging_ext.event import CONTEXT_FIELDS
from logging_ext.events import (
    DEFAULT_FIELDS,
    RECORD_ATTRIBUTES,
    _as_seconds,
    check_fields,
    event_from_event_dict,
    rendered_message,
)
from tests.logging_ext.recording import (
    CONTEXT,
    OUTSIDE,
    Incomparable,
    RecordingSink,
    StrictHandler,
    Unprintable,
)


ALL = frozenset(DEFAULT_FIELDS)
SVC = {"level": "info", "logger": "svc.payments"}


class EvilMapping(dict):
    """
    A mapping that cannot be read.
    """

    def keys(self):
        raise ValueError("no keys")

    __iter__ = keys


class TestTable:
    def test_event_type(self, logger, worker):
        """
        The message is the event type; there is no data.
        """
        logger.info("paid")

        assert "paid" == worker.only.event_type
        assert {} == worker.data

    def test_extras(self, logger, worker):
        """
        Extras are the event data.
        """
        logger.info("paid", extra={"amount": 5, "to": {"name": "bob"}})

        assert {"amount": 5, "to": {"name": "bob"}} == worker.data

    def test_event_data_and_metadata(self, logger, worker):
        """
        event_data and metadata are the manual call's arguments; further extras join the data.
        """
        logger.info("paid", extra={"event_data": {"a": 1}, "metadata": {"m": 2}, "b": 3})

        assert {"a": 1, "b": 3} == worker.data
        assert {**SVC, "m": 2} == worker.metadata

    @pytest.mark.parametrize(
        ("level", "expected"),
        [(10, "debug"), (20, "info"), (30, "warning"), (40, "error"), (50, "critical")],
    )
    def test_level_and_logger(self, logger, worker, level, expected):
        """
        The level and the logger's name are metadata.
        """
        logger.log(level, "paid")

        assert {"level": expected, "logger": "svc.payments"} == worker.metadata

    def test_level_without_a_name(self, logger, worker):
        """
        A level of one's own has a name, too.
        """
        logger.log(17, "paid")

        assert "level 17" == worker.metadata["level"]

    def test_arguments(self, logger, worker):
        """
        With arguments the template is the event type, the rendered text the message.
        """
        logger.info("user %s paid", "bob")

        assert "user %s paid" == worker.only.event_type
        assert {**SVC, "message": "user bob paid"} == worker.metadata

    def test_mapping_argument(self, logger, worker):
        """
        A single mapping fills named places.
        """
        logger.info("user %(name)s paid", {"name": "bob"})

        assert "user bob paid" == worker.metadata["message"]

    def test_exception(self, logger, worker):
        """
        An exception is structured metadata, without local variables.
        """
        secret = "hunter2"  # noqa: F841
        try:
            raise ValueError("no money")
        except ValueError:
            logger.exception("failed")

        [stack] = worker.metadata["exception"]
        assert ("ValueError", "no money") == (stack["exc_type"], stack["exc_value"])
        assert "test_exception" == stack["frames"][0]["name"]
        assert "hunter2" not in repr(worker.only)
        assert "error" == worker.metadata["level"]

    def test_exc_info(self, logger, worker):
        """
        exc_info may be an exception that is not being handled.
        """
        logger.info("failed", exc_info=ValueError("x"))

        assert "ValueError" == worker.metadata["exception"][0]["exc_type"]

    def test_exc_info_without_exception(self, logger, worker):
        """
        exc_info without an exception adds nothing.
        """
        logger.info("fine", exc_info=True)

        assert SVC == worker.metadata

    def test_exc_text(self, handler, worker):
        """
        A record that has an exception as text only keeps it as text.
        """
        handler.handle(
            logging.makeLogRecord({"name": "svc", "msg": "failed", "exc_text": "Traceback ..."})
        )

        assert "Traceback ..." == worker.metadata["exception"]

    def test_stack(self, logger, worker):
        """
        stack_info is metadata.
        """
        logger.info("here", stack_info=True)

        assert worker.metadata["stack"].startswith("Stack (most recent call last):\n")
        assert "test_stack" in worker.metadata["stack"]

    def test_timestamp(self, handler, worker):
        """
        The record's creation is the time.
        """
        record = logging.makeLogRecord({"name": "svc", "msg": "paid", "created": 1497275296.25})

        handler.handle(record)

        assert 1497275296.25 == worker.only.timestamp


class TestSmallPrint:
    def test_own_level_and_logger_are_dropped(self, logger, worker):
        """
        level and logger among the extras are dropped when they equal the record's own.
        """
        logger.info("paid", extra={"level": "info", "logger": "svc.payments"})

        assert {} == worker.data
        assert SVC == worker.metadata

    @pytest.mark.parametrize("level", ["warning", "INFO", 20, None])
    def test_other_level_and_logger_are_data(self, logger, worker, level):
        """
        Otherwise they are data.
        """
        logger.info("paid", extra={"level": level, "logger": "other"})

        assert {"level": level, "logger": "other"} == worker.data
        assert SVC == worker.metadata

    def test_incomparable(self, logger, worker):
        """
        Extras that cannot be compared are data.
        """
        values = dict.fromkeys(("level", "logger", "call_id", "call_stack"), Incomparable())

        logger.info("paid", extra=values)

        assert values.keys() == worker.data.keys()

    def test_callers_metadata_wins(self, logger, worker):
        """
        The caller's metadata wins over the fields.
        """
        logger.info("paid", extra={"metadata": {"level": "high", "logger": None}})

        assert {"level": "high", "logger": None} == worker.metadata

    def test_further_extras_win(self, logger, worker):
        """
        Further extras win over event_data.
        """
        logger.info("paid", extra={"event_data": {"a": 1, "b": 1}, "b": 2})

        assert {"a": 1, "b": 2} == worker.data

    def test_reserved_names_in_event_data(self, logger, worker):
        """
        event_data takes the names that a record has itself.
        """
        names = {
            "name": 1,
            "args": 2,
            "message": 3,
            "level": "info",
            "call_id": CONTEXT["call_id"],
        }

        logger.info("paid", extra={"event_data": names})

        assert names == worker.data

    @pytest.mark.parametrize("wrong", ["abc", 5, [("a", 1)], 0, "", [], EvilMapping(a=1)])
    def test_of_the_wrong_kind(self, logger, worker, wrong):
        """
        event_data and metadata of the wrong kind become data, as repr.
        """
        logger.info("paid", extra={"event_data": wrong, "metadata": wrong, "a": 1})

        assert {"event_data": repr(wrong), "metadata": repr(wrong), "a": 1} == worker.data
        assert SVC == worker.metadata

    def test_of_the_wrong_kind_and_unprintable(self, logger, worker):
        """
        Even when the repr raises.
        """
        logger.info("paid", extra={"event_data": Unprintable()})

        expected = {"event_data": "<Unprintable object whose repr raised ValueError>"}
        assert expected == worker.data

    def test_none(self, logger, worker):
        """
        None for event_data and metadata is as good as nothing.
        """
        logger.info("paid", extra={"event_data": None, "metadata": None})

        assert EventLog("paid", {}, SVC, worker.only.timestamp) == worker.only

    def test_any_mapping(self, logger, worker):
        """
        Any mapping will do.
        """
        mapping = types.MappingProxyType({"a": 1})

        logger.info("paid", extra={"event_data": mapping, "metadata": mapping})

        assert {"a": 1} == worker.data
        assert {**SVC, "a": 1} == worker.metadata

    def test_callers_mappings_are_not_changed(self, logger, worker):
        """
        The caller's dictionaries stay as they were.
        """
        extra = {"event_data": {"a": 1}, "metadata": {"m": 1}, "b": 2, "level": "info"}

        logger.info("paid", extra=extra)

        assert {"event_data": {"a": 1}, "metadata": {"m": 1}, "b": 2, "level": "info"} == extra

    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            ("", "(empty)"),
            (5, "5"),
            (0, "0"),
            (None, "None"),
            ([1], "[1]"),
            (b"x", "b'x'"),
            (ValueError("no money"), "no money"),
            (ValueError(), "(empty)"),
            (Unprintable(), "<Unprintable object whose repr raised ValueError>"),
        ],
    )
    def test_messages(self, logger, worker, message, expected):
        """
        A message that is no string counts by its text, an empty one as (empty).
        """
        logger.info(message)

        assert expected == worker.only.event_type
        assert str is type(worker.only.event_type)
        assert SVC == worker.metadata

    def test_string_of_a_type_of_its_own(self, logger, worker):
        """
        A string of a subclass counts as a plain one.
        """

        class Text(str):
            pass

        logger.info(Text("paid"))

        assert str is type(worker.only.event_type)

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (("bob",), "user %s paid %s ('bob',)"),
            (("bob", 5, 6), "user %s paid %s ('bob', 5, 6)"),
            (("bob", 5), "user bob paid 5"),
            (({},), "user %s paid %s ({},)"),
            (({"a": 1},), "user {'a': 1} paid %s"),
        ],
    )
    def test_arguments_that_do_not_fit(self, logger, worker, arguments, expected):
        """
        Arguments that do not fit follow the template.
        """
        logger.info("user %s paid %s", *arguments)

        assert "user %s paid %s" == worker.only.event_type
        if isinstance(arguments[0], dict):  # LogRecord takes a single mapping for all arguments
            assert worker.metadata["message"].startswith("user ")
        else:
            assert expected == worker.metadata["message"]

    def test_arguments_without_text(self, logger, worker):
        """
        Arguments whose str raises are named by their type; the others are shown.
        """
        logger.info("user %s paid %s", Unprintable(), 5)

        expected = "user <Unprintable object whose repr raised ValueError> paid 5"
        assert expected == worker.metadata["message"]

    def test_extras_named_as_structlogs(self, logger, worker):
        """
        What only structlog gives a meaning stays data in a call of the standard library.
        """
        extra = {
            "timestamp": "2017-06-12T13:48:16+00:00",
            "exception": "Traceback (most recent call last)",
            "stack": "Stack (most recent call last)",
            "stacklevel": 2,
            "event": "x",
            "positional_args": (1,),
            "_record": 1,
            "_logger": 1,
        }

        logger.info("paid", extra=extra)

        assert extra == worker.data

    def test_as_it_was_at_the_time(self, logger, worker):
        """
        The event log holds the very values of the call; the sink encodes them at once.
        """
        value = object()

        logger.info("paid", extra={"value": value})

        assert value is worker.data["value"]

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        st.dictionaries(
            st.text() | st.sampled_from([*CONTEXT_FIELDS, "level", "logger", "timestamp"]),
            st.recursive(
                st.none() | st.booleans() | st.floats() | st.text() | st.binary(),
                lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
            ),
        )
    )
    @example({"event_data": {"a": math.nan}})
    def test_arbitrary_extras(self, bare_logger, extra):
        """
        Whatever the extras, one event log goes out and no value is lost or changed.
        """
        kept_apart = RECORD_ATTRIBUTES | {"metadata"}  # which has tests of its own
        extra = {k: v for k, v in extra.items() if k not in kept_apart}
        handler = StrictHandler()
        bare_logger.handlers[:] = [handler]
        sink = RecordingSink()

        with bind_sink(sink):
            bare_logger.info("paid", extra=extra)

        assert [] == handler.errors
        given_data = extra.pop("event_data", None)
        expected = (given_data if isinstance(given_data, dict) else {}) | extra
        for name, value in expected.items():
            assert sink.data.get(name, CONTEXT.get(name, SVC.get(name))) is value


class Lazy:
    """
    A text that is made when it is needed, as translations are.
    """

    def __str__(self):
        return "paid"


class TestMappings:
    """
    A mapping as message is event data; its ``message`` or ``event`` is the type.
    """

    @pytest.mark.parametrize(
        ("message", "event_type", "data"),
        [
            ({"message": "paid", "user": "ada"}, "paid", {"user": "ada"}),
            ({"event": "paid", "user": "ada"}, "paid", {"user": "ada"}),
            ({"message": "paid", "event": "x"}, "paid", {"event": "x"}),
            ({"message": "", "event": "paid"}, "paid", {"message": ""}),
            ({"message": None, "event": "paid"}, "paid", {"message": None}),
            ({"message": {"card": 1}}, "(empty)", {"message": {"card": 1}}),
            ({"message": ["a"], "event": 5}, "5", {"message": ["a"]}),
            ({"message": Lazy()}, "paid", {}),
            ({"card": "4111"}, "(empty)", {"card": "4111"}),
            ({}, "(empty)", {}),
            (types.MappingProxyType({"message": "paid", "a": 1}), "paid", {"a": 1}),
            (
                {"message": "paid", "level": "x", "metadata": 1, "exc_info": 2, "call_id": 3},
                "paid",
                {"level": "x", "metadata": 1, "exc_info": 2, "call_id": 3},
            ),
            ({5: 6, "event": "paid"}, "paid", {5: 6}),
        ],
    )
    def test_messages(self, logger, worker, message, event_type, data):
        """
        Its keys are data, whatever they are called, and nothing is read from its repr.
        """
        before = dict(message)

        logger.info(message)

        assert (event_type, data, SVC) == (worker.only.event_type, worker.data, worker.metadata)
        assert before == dict(message)

    def test_arguments(self, logger, worker):
        """
        Arguments are rendered into its message.
        """
        logger.info({"message": "user %s", "card": "4111"}, "bob")

        assert ("user %s", {"card": "4111"}) == (worker.only.event_type, worker.data)
        assert "user bob" == worker.metadata["message"]

    def test_extras(self, logger, worker):
        """
        event_data wins over it, further extras over both.
        """
        logger.info(
            {"event": "paid", "a": 1, "b": 1, "c": 1},
            extra={"event_data": {"b": 2, "c": 2}, "c": 3},
        )

        assert {"a": 1, "b": 2, "c": 3} == worker.data

    def test_unreadable(self, logger, worker):
        """
        One that cannot be read counts by its text.
        """
        logger.info(EvilMapping(a=1))

        assert "{'a': 1}" == worker.only.event_type

    def test_structlog(self, worker):
        """
        In an event dict it is read alike; bound values win over it.
        """
        event = {"message": "paid", "card": "4111", "user": "bob"}
        read = event_from_event_dict(
            "svc.payments", "info", {"event": event, "user": "ada"}, CONTEXT, ALL
        )

        assert ("paid", {"card": "4111", "user": "ada"}) == (read.event_type, read.event_data)
        assert SVC == read.metadata


class BraceRecord(logging.LogRecord):
    """
    A record that renders itself, {}-style.
    """

    def getMessage(self):  # noqa: N802
        return str(self.msg).format(*self.args, **self.__dict__)


class TestRecordsThatRenderThemselves:
    @pytest.fixture(autouse=True)
    def factory(self):
        """
        A record factory whose records are `BraceRecord`s.
        """
        logging.setLogRecordFactory(BraceRecord)
        yield
        logging.setLogRecordFactory(logging.LogRecord)

    def test_arguments(self, logger, worker):
        """
        Such a record is asked for its message.
        """
        logger.info("user {} paid {}", "ada", 5)

        assert ("user {} paid {}", {}) == (worker.only.event_type, worker.data)
        assert "user ada paid 5" == worker.metadata["message"]

    def test_without_arguments(self, logger, worker):
        """
        It may render without arguments, from extras say; what it does not change is no message.
        """
        logger.info("user {user}", extra={"user": "ada"})
        logger.info("paid", extra={"user": "ada"})

        assert ["user ada", None] == [one.metadata.get("message") for one in worker.events]
        assert ["user {user}", "paid"] == worker.types

    def test_that_does_not_fit(self, logger, worker):
        """
        What it raises on is rendered as far as it goes.
        """
        logger.info("user {} of {}", "ada")
        logger.info("user %s {", "ada")

        assert ["user {} of {} ('ada',)", "user ada {"] == [
            one.metadata["message"] for one in worker.events
        ]

    def test_mapping(self, logger, worker):
        """
        It is not asked for the text of a mapping, but for that of its message.
        """
        logger.info({"message": "user {}", "card": "4111"}, "ada")

        assert ("user {}", {"card": "4111"}) == (worker.only.event_type, worker.data)
        assert "user ada" == worker.metadata["message"]

    @pytest.mark.parametrize("where", ["class", "record"])
    def test_replaced_elsewhere(self, handler, worker, monkeypatch, where):
        """
        getMessage may be replaced on the standard library's class, or on one record.
        """
        record = logging.LogRecord("svc", 20, "", 1, "user {}", ("ada",), None)
        if where == "class":
            monkeypatch.setattr(logging.LogRecord, "getMessage", BraceRecord.getMessage)
        else:
            record.getMessage = lambda: "user ada"
        handler.handle(record)

        assert ("user ada", {}) == (worker.metadata["message"], worker.data)


class TestContextAttributes:
    def test_callers_own_is_data(self, logger, worker):
        """
        The caller's own extra of a context attribute's name is data, and stays on the record.
        """
        records = []
        logger.addFilter(lambda record: records.append(record) or True)

        logger.info("paid", extra={"call_id": "mine", "service_name": "theirs"})

        assert {"call_id": "mine", "service_name": "theirs"} == worker.data
        assert "mine" == records[0].call_id
        assert "foo.pay.1" != records[0].call_id
        assert "pay" == records[0].entrypoint_name

    def test_of_the_service(self, service, bare_logger):
        """
        Outside any worker, the attributes that others put are context, too.
        """
        bare_logger.addHandler(StrictHandler(service="foo"))

        bare_logger.info("paid", extra={**OUTSIDE, "a": 1})

        assert {"a": 1} == service.data


class TestFields:
    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ([], set()),
            (None, {"level", "logger", "message", "exception", "stack"}),
            (["level"], {"level"}),
            (("message", "stack"), {"message", "stack"}),
            ({"exception"}, {"exception"}),
            (["funcName", "lineno", "logger"], {"funcName", "lineno", "logger"}),
        ],
    )
    def test_chosen(self, bare_logger, worker, fields, expected):
        """
        The chosen fields are metadata, and nothing else.
        """
        bare_logger.addHandler(StrictHandler(fields=fields))

        bare_logger.info("user %s", "bob", exc_info=ValueError("x"), stack_info=True)

        assert expected == worker.metadata.keys()

    def test_record_attributes(self, bare_logger, worker):
        """
        The record's attributes have its values, and no bookkeeping in them.
        """
        bare_logger.addHandler(StrictHandler())  # the record is marked, then
        bare_logger.addHandler(StrictHandler(fields=["module", "levelno"]))
        bare_logger.handlers.reverse()

        bare_logger.info("paid")

        assert {"module": "test_events", "levelno": 20} == worker.metadata
        assert str is type(worker.metadata["module"])

    def test_metadata_still_counts(self, bare_logger, worker):
        """
        ``fields: []`` leaves the caller's metadata and does not make level and logger data.
        """
        bare_logger.addHandler(StrictHandler(fields=[]))

        bare_logger.info("paid", extra={"metadata": {"m": 1}, "level": "info"})

        assert {"m": 1} == worker.metadata
        assert {} == worker.data

    @pytest.mark.parametrize("wrong", ["level", b"level", 5, [5], [None], [["level"]]])
    def test_wrong_kind(self, wrong):
        """
        What is no list of names is a TypeError that shows the value.
        """
        with pytest.raises(TypeError) as caught:
            check_fields(wrong, frozenset(DEFAULT_FIELDS))

        assert str(caught.value).startswith("fields must be a list of names, ")

    @pytest.mark.parametrize("wrong", ["levle", "", "exc_info", "msg", "args", "service_name"])
    def test_wrong_name(self, wrong):
        """
        An unknown name is a ValueError that shows the value and the choice.
        """
        with pytest.raises(ValueError) as caught:
            StrictHandler(fields=["level", wrong])

        assert f"fields: {wrong!r} is not a field; choose from " in str(caught.value)
        assert "funcName" in str(caught.value)


class TestRecordsOfOthers:
    @pytest.mark.parametrize("where", ["front", "back"])
    def test_record_factory(self, logger, worker, where):
        """
        What a record factory or a LogRecord subclass adds is data, wherever it is added.
        """

        class Record(logging.LogRecord):
            def __init__(self, *args, **kwargs):
                if where == "front":
                    self.host = "h1"
                    self.zone = "z1"
                super().__init__(*args, **kwargs)
                if where == "back":
                    self.host = "h1"
                    self.zone = "z1"

        logging.setLogRecordFactory(Record)

        logger.info("paid", extra={"amount": 5})

        assert {"host": "h1", "zone": "z1", "amount": 5} == worker.data

    def test_made_of_a_dictionary(self, handler, worker):
        """
        A record made of a dictionary, as from a socket, is read like any other.
        """
        handler.handle(
            logging.makeLogRecord({"name": "svc", "levelname": "INFO", "msg": "paid", "a": 1})
        )

        assert ("paid", {"a": 1}) == (worker.only.event_type, worker.data)
        assert {"level": "info", "logger": "svc"} == worker.metadata

    def test_made_of_nothing(self, handler, worker):
        """
        A record of nothing is an event log all the same.
        """
        handler.handle(logging.makeLogRecord({}))

        assert "(empty)" == worker.only.event_type
        assert {"level": "level none", "logger": None} == worker.metadata

    def test_standard_attributes_of_other_kinds(self, handler, worker):
        """
        A record whose standard attributes are of other kinds is forwarded, once.
        """
        record = logging.makeLogRecord({"msg": "paid", "module": None, "levelname": None})

        handler.handle(record)
        handler.handle(record)

        assert {"level": "none", "logger": None} == worker.metadata

    def test_attribute_removed(self, handler, worker):
        """
        A record that lacks a standard attribute is read in full.
        """
        record = logging.makeLogRecord({"msg": "paid", "a": 1})
        del record.processName

        handler.handle(record)

        assert {"a": 1} == worker.data

    def test_what_formatters_add(self, logger, worker):
        """
        What another handler's formatter put onto the record is no data.
        """
        stream = logging.StreamHandler(open("/dev/null", "w"))  # noqa: SIM115
        stream.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.handlers.insert(0, stream)

        logger.info("paid %s", 5, exc_info=ValueError("x"))
        stream.stream.close()

        assert {} == worker.data


class TestRenderedMessage:
    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ({"msg": "user %s", "args": ("bob",)}, "user bob"),
            ({"msg": "user %s"}, "user %s"),
            ({"msg": ""}, ""),
            ({"msg": {"a": 1}}, ""),
            ({"msg": {"a": 1, "message": "user %s"}, "args": ("bob",)}, "user bob"),
            ({"msg": {"event": "paid", "a": 1}, "_logger": None, "_name": "info"}, "paid"),
            (
                {
                    "msg": {"event": "user %s", "positional_args": ("bob",)},
                    "_logger": None,
                    "_name": "info",
                },
                "user bob",
            ),
        ],
    )
    def test_texts(self, attributes, expected):
        """
        It is what the standard library would render, or an event dict's event.
        """
        assert expected == rendered_message(logging.makeLogRecord(attributes))


class TestEventDicts:
    def read(self, event_dict, name="svc", level="info", fields=DEFAULT_FIELDS):
        """
        Read an event dict as EventLogProcessor does.
        """
        return event_from_event_dict(name, level, event_dict, CONTEXT, frozenset(fields))

    def test_rows(self):
        """
        The table holds for keyword arguments.
        """
        event_dict = {
            "event": "paid",
            "amount": 5,
            "event_data": {"a": 1},
            "metadata": {"m": 1},
            "level": "info",
            "logger": "svc",
            **CONTEXT,
        }
        before = dict(event_dict)

        event = self.read(event_dict)

        expected = EventLog(
            "paid", {"a": 1, "amount": 5}, {"level": "info", "logger": "svc", "m": 1}, None
        )
        assert expected == event
        assert before == event_dict

    @pytest.mark.parametrize(
        ("event_dict", "event_type", "message"),
        [
            ({"event": "user %s", "positional_args": ("bob",)}, "user %s", "user bob"),
            ({"event": "%(a)s", "positional_args": ({"a": 1},)}, "%(a)s", "1"),
            ({"event": "%s", "positional_args": ({},)}, "%s", "{}"),
            ({"event": "%s", "positional_args": ()}, "%s", None),
            ({"event": 5}, "5", None),
            ({"event": ""}, "(empty)", None),
            ({"event": None}, "(empty)", None),
            ({}, "(empty)", None),
            ({"event": Unprintable()}, "<Unprintable object whose repr raised ValueError>", None),
        ],
    )
    def test_events(self, event_dict, event_type, message):
        """
        Events are read like messages, positional arguments like a record's.
        """
        event = self.read(event_dict)

        assert event_type == event.event_type
        assert message == event.metadata.get("message")
        assert {} == event.event_data

    def test_name_from_add_logger_name(self):
        """
        Where the wrapped logger has no name, structlog's `logger` is it.
        """
        assert "x" == self.read({"logger": "x"}, name=None).metadata["logger"]
        assert {"level": "info"} == self.read({}, name=None).metadata
        assert {"logger": 5} == self.read({"logger": 5}, name=None).event_data

    def test_fields(self):
        """
        Without fields there is no metadata, and what would be in it is no data either.
        """
        event = self.read(
            {
                "event": "%s",
                "positional_args": (1,),
                "exc_info": ValueError("x"),
                "stack_info": True,
                "stacklevel": 2,
            },
            fields=(),
        )

        assert ({}, {}) == (event.event_data, event.metadata)

    def test_exception(self):
        """
        exc_info is structured metadata.
        """
        event = self.read({"event": "x", "exc_info": ValueError("no")})

        assert "ValueError" == event.metadata["exception"][0]["exc_type"]
        assert {} == event.event_data

    def test_stack(self):
        """
        stack_info is the application's stack.
        """
        stack = self.read({"event": "x", "stack_info": True}).metadata["stack"]

        assert stack.startswith("Stack (most recent call last):\n")
        assert "in read\n" in stack
        assert "events.py" not in stack.replace("test_events.py", "")

    def test_rendered_by_structlog(self):
        """
        What StackInfoRenderer and format_exc_info rendered before is metadata, as well.
        """
        stack = "Stack (most recent call last):\n ..."
        trace = "Traceback (most recent call last):\n ..."

        event = self.read({"event": "x", "stack": stack, "exception": trace})

        assert {} == event.event_data
        expected = {"level": "info", "logger": "svc", "stack": stack, "exception": trace}
        assert expected == event.metadata

    def test_callers_own(self):
        """
        The caller's own stack, exception and stacklevel are data.
        """
        event_dict = {"stack": "overflow", "exception": "rule", "stacklevel": "high"}

        assert event_dict == self.read(event_dict).event_data


class TestTimestamps:
    NOON = 1497275296.0

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (NOON, NOON),
            (1497275296, NOON),
            ("2017-06-12T13:48:16Z", NOON),
            ("2017-06-12T13:48:16.250000Z", NOON + 0.25),
            ("2017-06-12T15:48:16+02:00", NOON),
            ("2017-06-12 13:48:16+00:00", NOON),
            (datetime(2017, 6, 12, 13, 48, 16, tzinfo=timezone.utc), NOON),
            (datetime(2017, 6, 12, 13, 48, 16).astimezone(), None),
        ],
    )
    def test_readable(self, value, expected):
        """
        Numbers, ISO 8601 and datetimes are read.
        """
        if expected is None:
            expected = value.timestamp()

        assert expected == _as_seconds(value)

    @pytest.mark.parametrize(
        "value",
        [
            None,
            True,
            "",
            "now",
            "13:48:16",
            "2017-06-12",
            "20170612",
            "2017-13-45T99:99:99",
            "9999-12-31T23:59:59-05:00",
            "0001-01-01T00:00:00+05:00",
            math.nan,
            math.inf,
            1e300,
            10**400,
            [2017],
            timedelta(1),
        ],
    )
    def test_unreadable(self, value):
        """
        What cannot be read as a time stays data.
        """
        event = event_from_event_dict(
            "svc", "info", {"event": "x", "timestamp": value}, CONTEXT, frozenset()
        )

        assert None is event.timestamp
        assert {"timestamp": value} == event.event_data or value != value

    @pytest.fixture
    def far_from_greenwich(self, monkeypatch):
        """
        A local time of UTC-5 all year.
        """
        import time

        monkeypatch.setenv("TZ", "EST+5")
        time.tzset()
        yield
        monkeypatch.undo()
        time.tzset()

    def test_naive(self, far_from_greenwich):
        """
        A time without an offset is local.
        """
        assert self.NOON + 5 * 3600 == _as_seconds("2017-06-12T13:48:16")
        assert self.NOON + 5 * 3600 == _as_seconds(datetime(2017, 6, 12, 13, 48, 16))  # noqa: DTZ001

    @pytest.mark.parametrize("zone", [None, timezone.utc])
    def test_naive_now(self, far_from_greenwich, zone):
        """
        Now without an offset is now, in local time or in UTC.
        """
        now = datetime.now(zone)

        assert now.timestamp() == pytest.approx(_as_seconds(now.replace(tzinfo=None)), abs=1e-3)

    @given(st.datetimes(timezones=st.just(timezone.utc)))
    def test_any_utc(self, moment):
        """
        Any time in UTC survives.
        """
        assert moment.timestamp() == _as_seconds(moment.isoformat())

    @given(st.floats() | st.integers() | st.text() | st.datetimes())
    def test_anything(self, value):
        """
        Whatever it is, what is read is a time that datetime can take.
        """
        seconds = _as_seconds(value)

        if seconds is not None:
            datetime.fromtimestamp(seconds, timezone.utc)


def test_reserved_names_are_the_records_own():
    """
    The reserved names are those of the running Python's LogRecord, and what formatters add.
    """
    assert {"message", "asctime", "name", "exc_text"} <= RECORD_ATTRIBUTES
    assert (sys.version_info >= (3, 12)) == ("taskName" in RECORD_ATTRIBUTES)
