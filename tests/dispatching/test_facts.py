"""
One log call, told by the console's line and by the event log; and what is sent is stored.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from logging_ext import EventLog, EventLogHandler, EventLogProcessor, JsonFormatter, bind_sink
from logging_ext.event import CONTEXT_FIELDS
from logging_ext.events import RECORD_ATTRIBUTES
from logging_ext.names import MAX_NAME, bounded_context
from nameko_eventlog import EventLogTypeError, EventLogValueError
from nameko_eventlog.amqp.message import shortstr
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.delivery import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.dispatching.body import BodyEncoder
from nameko_eventlog.dispatching.serialization import Serializer
from nameko_eventlog.dispatching.sinks import DispatchingSink
from nameko_eventlog.store import rows
from tests.dispatching.test_serialization import hostile as values


IDS = UUID7Generator()
CONTEXT: dict[str, Any] = {
    "service_name": "shop",
    "entrypoint_protocol": "Rpc",
    "entrypoint_name": "pay",
    "call_id": "shop.pay.1",
    "call_stack": ["web.get.0", "shop.pay.1"],
}


class BraceRecord(logging.LogRecord):
    """
    A record that renders itself, {}-style.
    """

    def getMessage(self) -> str:  # noqa: N802
        """
        Return the message.
        """
        return str(self.msg).format(*self.args) if self.args else str(self.msg)


class Group(Exception):
    """
    An exception with other exceptions as causes, maybe itself.
    """


class Recorder:
    """
    A delivery that keeps messages.
    """

    def __init__(self) -> None:
        self.messages: list[OutboxEntry] = []
        self.accept = self.deliver = self.messages.append


def sent(
    use: Callable[[DispatchingSink], Any],
    context: Mapping[str, Any] = CONTEXT,
    redact: tuple[str, ...] = (),
) -> list[OutboxEntry]:
    """
    Return what *use* has sent through the sink of a worker.
    """
    recorder = Recorder()
    encoder = BodyEncoder(Serializer("json"), redact, 1_048_576, "seconds")
    sink = DispatchingSink(encoder, recorder, bounded_context(context), dict)  # type: ignore[arg-type]
    with bind_sink(sink):
        use(sink)
    return recorder.messages


def row_of(message: OutboxEntry) -> dict[str, Any]:
    """
    Return the row that the store makes of *message*.
    """
    received = ReceivedMessage(
        message.body,
        message.content_type,
        message.content_encoding,
        message.headers,
        {"message_id": IDS.make(time.time()), "type": shortstr(message.event_type)},
        "shop.events",
        "log_event",
        False,
        1,
    )
    return rows.make_row(received, ["application/json"], int(time.time() * 1000))


def stored(messages: list[OutboxEntry]) -> dict[str, Any]:
    """
    Check that the one message has become a row that tells what its body does, and return that.
    """
    (message,) = messages
    row = row_of(message)
    body: dict[str, Any] = row["body"]
    for name in (
        "service_name",
        "event_type",
        "entrypoint_protocol",
        "entrypoint_name",
        "call_id",
    ):
        assert body[name] == row[name]
        assert row[name] is None or len(row[name]) <= MAX_NAME
    return body


names = st.text(st.characters() | st.sampled_from("a.\0\ud800\n%{}"), max_size=40) | st.builds(
    lambda text, times: text * times,
    st.text(st.sampled_from("ab \0\ud800é😀%"), min_size=1, max_size=20),
    st.sampled_from([5, 26, 84, 600]),
)
keys = names | st.sampled_from(
    [*CONTEXT_FIELDS, "level", "logger", "event", "timestamp", "exc_info", "stack", "exception"]
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
contexts = st.fixed_dictionaries(
    {
        "service_name": names.filter(bool),
        "entrypoint_protocol": st.none() | names,
        "entrypoint_name": st.none() | names,
        "call_id": st.none() | names,
        "call_stack": st.lists(names | st.integers() | st.none(), max_size=4),
    }
)


@st.composite
def exceptions(draw: st.DrawFn) -> BaseException | None:
    """
    Draw an exception, with causes in any order, circles among them.
    """
    many: list[BaseException] = [
        draw(st.sampled_from([ValueError, KeyError, SyntaxError, Group, OSError]))(draw(names))
        for _ in range(draw(st.integers(0, 4)))
    ]
    for exc in many:
        exc.__cause__ = draw(st.sampled_from([None, *many]))
        exc.__context__ = draw(st.sampled_from([None, *many]))
        exc.__suppress_context__ = draw(st.booleans())
    return draw(st.sampled_from([None, *many]))


def records(extra_values: st.SearchStrategy[Any]) -> st.SearchStrategy[logging.LogRecord]:
    """
    Records of all kinds.
    """

    def make(
        kind: type[logging.LogRecord],
        level: int,
        message: Any,
        arguments: Any,
        exc: BaseException | None,
        stack: str | None,
        extra: dict[str, Any],
    ) -> logging.LogRecord:
        exc_info = None if exc is None else (type(exc), exc, exc.__traceback__)
        record = kind("shop", level, "x.py", 1, message, arguments, exc_info, "f", stack)
        record.__dict__.update((k, v) for k, v in extra.items() if k not in RECORD_ATTRIBUTES)
        return record

    mappings = st.dictionaries(keys, extra_values, max_size=3)
    messages = st.dictionaries(keys | st.sampled_from(["message", "event"]), extra_values | names)
    return st.builds(
        make,
        st.sampled_from([logging.LogRecord, BraceRecord]),
        st.sampled_from([10, 20, 30, 40, 50, 25]),
        names | messages | st.sampled_from(["user %s", "user {}", "%(a)s"]) | extra_values,
        st.sampled_from([(), ("ada",), ({"a": 1},), (1, 2)]),
        exceptions(),
        st.none() | names,
        st.dictionaries(keys, extra_values, max_size=4)
        | st.fixed_dictionaries({"event_data": mappings, "metadata": mappings}),
    )


class TestStored:
    """
    What our sending side makes, our store takes.
    """

    @settings(max_examples=60, deadline=None)
    @given(
        records(values),
        contexts,
        st.sampled_from([(), ("call_stack", "a", "service_name")]),
        st.none() | st.floats() | st.floats(-(10**9), 10**9).map(lambda ago: time.time() + ago),
    )
    def test_records(
        self,
        record: logging.LogRecord,
        context: dict[str, Any],
        redact: tuple[str, ...],
        created: float | None,
    ) -> None:
        """
        Whatever a record, its time, its worker's context and the redacted keys are, it becomes a
        row.
        """
        if created is not None:
            record.created = created
        stored(sent(lambda sink: EventLogHandler().handle(record), context, redact))

    @settings(max_examples=50, deadline=None)
    @given(st.dictionaries(keys, values, max_size=5), names | values, contexts)
    def test_event_dicts(
        self, event_dict: dict[str, Any], event: Any, context: dict[str, Any]
    ) -> None:
        """
        Whatever a structlog event dict is, it becomes a row.
        """
        event_dict["event"] = event

        stored(
            sent(
                lambda sink: EventLogProcessor()(structlog.PrintLogger(), "info", event_dict),
                context,
            )
        )

    @settings(max_examples=60, deadline=None)
    @given(names, *[st.none() | st.dictionaries(keys, plain | values, max_size=4)] * 2, contexts)
    def test_manual_calls(
        self, event_type: str, data: Any, metadata: Any, context: dict[str, Any]
    ) -> None:
        """
        A manual call either raises at the call, or becomes a row.
        """
        try:
            messages = sent(lambda sink: sink.deliver(event_type, data, metadata), context)
        except (EventLogTypeError, EventLogValueError):
            return
        decoded = json.loads(json.dumps(event_type))  # two surrogates may be one character
        assert rows.escape_unstorable(decoded) == stored(messages)["event_type"]

    @pytest.mark.parametrize("event_type", [None, 5, "", "x" * 10**4, "\0" * 84, b"x" * 600])
    def test_event_logs_of_others(self, event_type: Any) -> None:
        """
        An event log that somebody else hands to a sink becomes a row, whatever its event type.
        """
        body = stored(sent(lambda sink: sink.emit(EventLog(event_type))))

        whole = event_type if isinstance(event_type, str) else str(event_type)
        assert body.get("message", body["event_type"]) == whole.replace("\0", "\\u0000") or (
            "(empty)" == body["event_type"]
        )

    def test_long_event_type(self) -> None:
        """
        A long event type is cut, and the whole text is kept as message, with any fields.
        """
        for fields in (None, []):
            handler = EventLogHandler(fields=fields)
            record = logging.LogRecord("shop", 40, "", 0, ValueError("x" * 681), (), None)
            body = stored(sent(lambda sink, h=handler, r=record: h.handle(r)))  # type: ignore[misc]

            assert ("x" * 499 + "…", "x" * 681) == (body["event_type"], body["message"])

    @pytest.mark.parametrize(
        ("event_type", "is_taken"),
        [("x" * 500, True), ("x" * 501, False), ("\0" * 83, True), ("\0" * 84, False)],
    )
    def test_manual_event_type(self, event_type: str, is_taken: bool) -> None:
        """
        A manual call refuses a long event type, naming the limit.
        """
        if is_taken:
            stored(sent(lambda sink: sink.deliver(event_type, None, None)))
        else:
            with pytest.raises(EventLogValueError, match="at most 500 are allowed"):
                sent(lambda sink: sink.deliver(event_type, None, None))

    def test_bound(self) -> None:
        """
        The two sides have the same bound.
        """
        assert rows.MAX_TEXT == MAX_NAME

    @pytest.mark.parametrize(
        ("name", "value"),
        [("service_name", 5), ("service_name", ""), ("call_stack", "x"), ("call_id", ["x"])],
    )
    def test_metadata_in_the_contexts_place(self, name: str, value: Any) -> None:
        """
        Metadata that cannot be the context attribute whose name it has is refused, or data.
        """
        with pytest.raises(EventLogTypeError, match=rf"metadata.{name} replaces the worker's"):
            sent(lambda sink: sink.deliver("paid", None, {name: value}))

        body = stored(sent(lambda sink: sink.emit(EventLog("paid", {"a": 1}, {name: value}))))
        assert (CONTEXT[name], {"a": 1, name: value}) == (body[name], body["data"])


ONLY_IN_THE_LINE = {"message"}
"""
What docs/how-to/console.md lists. The line's time has microseconds beside it, and it lacks
metadata that has a name of the record's own.
"""


class TestSameFacts:
    """
    The line of `JsonFormatter` and the event log.
    """

    @settings(max_examples=100, deadline=None)
    @given(records(plain), contexts, st.booleans())
    def test_any_record(
        self, record: logging.LogRecord, context: dict[str, Any], is_line_first: bool
    ) -> None:
        """
        For any record, the line has what the event log has, and its text beside it.
        """
        lines: list[dict[str, Any]] = []

        def both(sink: DispatchingSink) -> None:
            if is_line_first:
                lines.append(json.loads(JsonFormatter().format(record)))
            EventLogHandler().handle(record)
            if not is_line_first:
                lines.append(json.loads(JsonFormatter().format(record)))

        (message,) = sent(both, context)
        body, (line,) = json.loads(message.body), lines

        lacking = body.keys() - line.keys()
        assert lacking <= RECORD_ATTRIBUTES
        body = {name: value for name, value in body.items() if name not in lacking}
        assert line.keys() - body.keys() <= ONLY_IN_THE_LINE
        times = body.pop("timestamp"), line.pop("timestamp")
        assert times[0][:19] == times[1][:19]
        text = line.pop("message")
        assert body.pop("message", text) == text
        assert body == line

    @pytest.mark.parametrize("value", [float("nan"), b"x", {1, 2}, object(), 2**70, {5: 1}])
    def test_other_values(self, value: Any) -> None:
        """
        Values that JSON does not know stand in both at the same place, written differently.
        """
        record = logging.makeLogRecord({"msg": "paid", "value": value, "name": "shop"})
        (message,) = sent(lambda sink: EventLogHandler().handle(record))
        line = json.loads(JsonFormatter().format(record))

        assert json.loads(message.body)["data"].keys() == line["data"].keys() == {"value"}

    def test_redacted(self) -> None:
        """
        What is redacted in the event log is not in the line.
        """
        record = logging.makeLogRecord({"msg": {"message": "paid", "card": "4111"}})
        (message,) = sent(lambda sink: EventLogHandler().handle(record), redact=("card",))

        assert {"card": "[redacted]"} == json.loads(message.body)["data"]
        assert {"card": "4111"} == json.loads(JsonFormatter().format(record))["data"]
