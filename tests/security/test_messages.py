"""
What a hostile sender does to those who read messages.
"""

from __future__ import annotations

import json
import os
import pathlib
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Collection, Iterator
from time import monotonic, process_time
from typing import Any

import amqp
import eventlet
import kombu
import pytest
from kombu import Connection
from nameko.testing.utils import get_extension
from sqlalchemy import func, select

from logging_ext.event import EventLog
from nameko_eventlog import EventLogConsumer, event_log_handler, limits
from nameko_eventlog.amqp.deliveries import consume
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.context_data import context_data
from nameko_eventlog.consuming.dead_letters import make_dead_letter
from nameko_eventlog.describing import describe_error
from nameko_eventlog.dispatching.body import BodyEncoder, Head
from nameko_eventlog.dispatching.serialization import Serializer
from nameko_eventlog.exceptions import OversizedEvent
from nameko_eventlog.store import EventLogStore
from nameko_eventlog.store.rejecting import Rejects
from nameko_eventlog.store.rows import decode_body
from nameko_eventlog.store.sql.engines import open_engine
from nameko_eventlog.store.sql.schema import event_logs, rejects
from nameko_eventlog.store.writing import EventLogWriter, content_types
from tests.conftest import global_config
from tests.nameko_version import event_exchange
from tests.security.attacks import (
    ATTACKS,
    JSON,
    MIB,
    YAML_ATTACKS,
    bomb,
    message,
    repeated,
    with_data,
)
from tests.security.messages import WireMessage, long, short
from tests.security.sender import Sender
from tests.waiting import wait_until


GOOD = with_data(b'{"number": 1}')


def raw(
    body: bytes,
    headers: bytes = b"",
    content_type: bytes = b"application/json",
    content_encoding: bytes = b"utf-8",
) -> WireMessage:
    """
    Make a message down to its bytes; the headers are the inside of a table.
    """
    properties = short(content_type) + short(content_encoding) + long(headers)
    return WireMessage(body, struct.pack(">H", 0xE000) + properties)


def nested_tables(depth: int) -> bytes:
    """
    Make a header whose value is a table in a table, and so on.
    """
    inner = b""
    for _ in range(depth):
        inner = b"\x01aF" + long(inner)
    return inner


HEADERS: dict[str, bytes] = {
    "name-of-bytes": b"\x01\xffS" + long(b"x"),
    "name-of-bytes-and-context": b"\x01\xffV" + short(b"nameko.language") + b"S" + long(b"de"),
    "no-name": b"\x00S" + long(b"x"),
    "nameko-without-name": short(b"nameko.") + b"S" + long(b"x"),
    "stack-of-bytes": short(b"nameko.call_id_stack") + b"A" + long(b"S" + long(b"\xff")),
    "stack-of-numbers": short(b"nameko.call_id_stack") + b"A" + long(b"I\0\0\0\5"),
    "stack-of-text": short(b"nameko.call_id_stack") + b"S" + long(b"a.b.c"),
    "stack-of-tables": short(b"nameko.call_id_stack") + b"F" + long(b"\x01aV"),
    "stack-of-many": short(b"nameko.call_id_stack") + b"A" + long((b"S" + long(b"a")) * 20_000),
    "context-of-tables": short(b"nameko.a") + b"F" + long(nested_tables(50)),
    "context-of-deep-tables": short(b"nameko.a") + b"F" + long(nested_tables(400)),
    "context-of-bytes": short(b"nameko.a") + b"F" + long(b"\x01\xffS" + long(b"\xff")),
    "context-of-time": short(b"nameko.a") + b"T" + struct.pack(">Q", 2**33),
    "context-of-decimals": short(b"nameko.a") + b"D\xff\x7f\xff\xff\xff",
    "context-of-much": short(b"nameko.a") + b"S" + long(b"a" * 100_000),
    "contexts": b"".join(short(b"nameko.%d" % n) + b"V" for n in range(7_000)),
    "every-type": b"".join(
        short(b"nameko.%d" % number) + value
        for number, value in enumerate(
            [
                *(b"t\1", b"b\x80", b"B\xff", b"s\x80\0", b"u\xff\xff", b"I\x80\0\0\0", b"V"),
                *(b"l\x80" + b"\0" * 7, b"f\x3f\x80\0\0", b"x" + long(b"\xff"), b"A" + long(b"")),
            ]
        )
    ),
    "counts": short(b"x-delivery-count") + b"S" + long(b"5"),
}
"""Header tables of which every reader takes the body all the same."""

UNREADABLE_HEADERS: dict[str, bytes] = {
    "compression-list": short(b"compression") + b"A" + long(b"S" + long(b"gzip")),
    "compression-table": short(b"compression") + b"F" + long(b"\x01aV"),
    "compression-bytes": short(b"compression") + b"S" + long(b"\xff"),
    "compression-number": short(b"compression") + b"I\0\0\0\5",
    "compression-stacked": short(b"compression") + b"S" + long(b"gzip,gzip"),
    "compression-unknown": short(b"compression") + b"S" + long(b"application/x-brotli"),
    "too-deep": nested_tables(3_000),
    "time-out-of-range": short(b"a") + b"T" + b"\xff" * 8,
}
"""Header tables that no reader can do anything with."""


class Handled:
    """
    What a handler was called with.
    """

    def __init__(self) -> None:
        self.bodies: list[Any] = []


@pytest.fixture
def handled() -> Handled:
    """
    What the handler was called with.
    """
    return Handled()


@pytest.fixture(params=["single", "batched"])
def start(request: Any, run_service: Any, handled: Handled) -> Callable[..., Any]:
    """
    Start a service that handles the shop's event logs, one at a time and in batches.
    """
    options = {"batch_size": 10, "batch_seconds": 0.1} if request.param == "batched" else {}

    def start(config: dict[str, Any]) -> Any:
        class Log:
            name = "log"

            @event_log_handler("shop", **options)
            def handle(self, argument: Any) -> None:
                handled.bodies += argument if isinstance(argument, list) else [argument]

        return run_service(Log, config)

    return start


@pytest.fixture
def store(
    run_service: Any, rabbit_config: dict[str, Any], tmp_path: pathlib.Path
) -> Iterator[Callable[[], tuple[int, list[str]]]]:
    """
    A running store; it returns how many rows there are, and the reasons of the rejects.
    """
    uri = f"sqlite:///{tmp_path}/eventlog.db"
    section = {"uri": uri, "services": ["shop"], "batch_seconds": 0.05}
    with global_config({**rabbit_config, "EVENTLOG_STORE": section}) as config:
        container = run_service(EventLogStore, config)
        engine = open_engine(uri)

        def kept() -> tuple[int, list[str]]:
            assert not container._died.ready()
            with engine.begin() as connection:
                rows = connection.scalar(select(func.count()).select_from(event_logs)) or 0
                return rows, list(connection.scalars(select(rejects.c.reason)))

        yield kept
        engine.dispose()


def send(config: dict[str, Any], *messages: WireMessage) -> None:
    """
    Send the shop's exchange messages as they are.
    """
    with Sender(config["AMQP_URI"]) as sender:
        for one in messages:
            assert sender.send(event_exchange("shop").name, "log_event", one)


def on_the_wire(received: ReceivedMessage) -> WireMessage:
    """
    Make what is sent of what would be received.
    """
    headers = b"".join(
        short(name.encode()) + b"S" + long(value.encode())
        for name, value in received.headers.items()
    )
    return raw(
        received.body,
        headers,
        (received.content_type or "").encode(),
        (received.content_encoding or "").encode(),
    )


def dead_letters(config: dict[str, Any]) -> list[Any]:
    """
    Take the handler's dead letters.
    """
    found = []
    queue = "eventlog-log.handle.dead-letters"
    with Connection(config["AMQP_URI"]) as connection:
        channel = connection.connection.channel()
        while (one := channel.basic_get(queue, no_ack=True)) is not None:
            one.body = one.body.encode() if isinstance(one.body, str) else one.body
            found.append(one)
    return found


def longest_stall(during: Callable[[], Any]) -> float:
    """
    Return for how long a green thread that ticks a hundred times a second had no turn.
    """
    longest = 0.0

    def tick() -> None:
        nonlocal longest
        before = monotonic()
        while True:
            eventlet.sleep(0.01)
            now = monotonic()
            longest, before = max(longest, now - before), now

    ticking = eventlet.spawn(tick)
    try:
        during()
    finally:
        ticking.kill()
    return longest


class TestHeaders:
    def test_handler(
        self, rabbit_config: dict[str, Any], start: Callable[..., Any], handled: Handled
    ) -> None:
        """
        No header table ends a handler, or keeps a body from it that it could read.
        """
        container = start(rabbit_config)
        send(rabbit_config, *[raw(GOOD, headers) for headers in HEADERS.values()])

        wait_until(lambda: len(handled.bodies) == len(HEADERS))
        send(rabbit_config, raw(GOOD))
        wait_until(lambda: len(handled.bodies) == len(HEADERS) + 1)
        assert not container._died.ready()
        assert [] == dead_letters(rabbit_config)

    def test_unreadable(
        self, rabbit_config: dict[str, Any], start: Callable[..., Any], handled: Handled
    ) -> None:
        """
        What cannot be read is a dead letter with its reason, and its body as it was.
        """
        container = start(rabbit_config)
        send(rabbit_config, *[raw(GOOD, one) for one in UNREADABLE_HEADERS.values()], raw(GOOD))

        wait_until(lambda: len(handled.bodies) == 1)
        found: list[Any] = []

        def all_found() -> bool:
            found.extend(dead_letters(rabbit_config))
            return len(found) == len(UNREADABLE_HEADERS)

        wait_until(all_found)
        assert not container._died.ready()
        assert {GOOD} == {one.body for one in found}
        assert all(one.headers["x-eventlog-reason"].startswith("cannot be read") for one in found)

    def test_buried(
        self, rabbit_config: dict[str, Any], start: Callable[..., Any], handled: Handled
    ) -> None:
        """
        A dead letter has the headers that can be sent, and names the others.
        """
        start(rabbit_config)
        send(rabbit_config, *[raw(b"{", one) for one in HEADERS.values()])
        found: list[Any] = []

        def all_found() -> bool:
            found.extend(dead_letters(rabbit_config))
            return len(found) == len(HEADERS)

        wait_until(all_found)
        assert {b"{"} == {one.body for one in found}

    def test_store(
        self, rabbit_config: dict[str, Any], store: Callable[[], tuple[int, list[str]]]
    ) -> None:
        """
        Each message is a row, or a reject with its reason, whatever its header table holds.
        """
        send(rabbit_config, *[raw(GOOD, one) for one in HEADERS.values()])
        send(rabbit_config, *[raw(GOOD, one) for one in UNREADABLE_HEADERS.values()])

        wait_until(lambda: sum(map(len, store()[1:])) == len(UNREADABLE_HEADERS))
        wait_until(lambda: store()[0] == len(HEADERS))

    @pytest.mark.parametrize("headers", [["a"], {"compression": ["gzip"]}, "abc", 5, {5: 5}])
    def test_memory(
        self,
        memory_config: dict[str, Any],
        start: Callable[..., Any],
        handled: Handled,
        headers: Any,
    ) -> None:
        """
        So it is with kombu's own transports, whose headers may be anything.
        """
        container = start(memory_config)
        with Connection(memory_config["AMQP_URI"]) as connection:
            channel = connection.channel()
            for one in (headers, {}):
                sent = channel.prepare_message(GOOD.decode(), 0, JSON, "utf-8", {}, {})
                sent["headers"] = one
                channel.basic_publish(sent, event_exchange("shop").name, "log_event")

        wait_until(lambda: handled.bodies)
        assert not container._died.ready()

    def test_compressed_in_memory(
        self, memory_config: dict[str, Any], start: Callable[..., Any], handled: Handled
    ) -> None:
        """
        kombu's own transports decompress nothing before the limits are looked at.
        """
        start(memory_config)
        compressed = {"compression": "gzip"}
        with Connection(memory_config["AMQP_URI"]) as connection:
            channel = connection.channel()
            for body in (bomb(zlib.compress, 40 * MIB), zlib.compress(GOOD)):
                sent = channel.prepare_message(body, 0, JSON, "binary", dict(compressed), {})
                channel.basic_publish(sent, event_exchange("shop").name, "log_event")

        wait_until(lambda: handled.bodies)
        assert [json.loads(GOOD)] == handled.bodies

    def test_body_of_no_bytes(self) -> None:
        """
        A number in the place of a body is not taken for how many bytes to make.
        """

        class Message:
            body = 10**12
            properties: dict[str, Any] = {}
            delivery_info: dict[str, Any] = {}
            delivery_tag = 5

        received = ReceivedMessage.read(Message())

        assert (b"", 5) == (received.body, received.delivery_tag)
        with pytest.raises(ValueError, match="properties cannot be read"):
            received.decode(["json"])

    def test_tail(self, rabbit_config: dict[str, Any]) -> None:
        """
        ``tail`` takes what comes, and goes on.
        """
        arrived: list[ReceivedMessage] = []
        with Connection(rabbit_config["AMQP_URI"]) as connection:
            channel = connection.channel()
            event_exchange("shop")(channel).declare()
            queue = kombu.Queue("tail", exclusive=True)(channel)
            queue.declare()
            queue.bind_to(event_exchange("shop"), routing_key="log_event")
            consume(channel, "tail", arrived.append, "tail", no_ack=True)
            sent = [*HEADERS.values(), *UNREADABLE_HEADERS.values()]
            send(rabbit_config, *[raw(GOOD, one) for one in sent])
            with eventlet.Timeout(30):
                while len(arrived) < len(sent):
                    connection.drain_events(timeout=5)
        accept = content_types(["json"])
        bodies = [decode_body(one, accept) for one in arrived[: len(HEADERS)]]
        assert [json.loads(GOOD)] * len(HEADERS) == bodies


class TestContext:
    def test_continued(self) -> None:
        """
        A worker continues the context that can be sent again, and no more than a limit.
        """
        stack = ["web.get.1", "shop.pay.2"]
        headers = {
            b"\xff": 1,
            "other": 1,
            "nameko.call_id_stack": stack,
            "nameko.language": "de",
            "nameko.tenant": {"id": 5},
            "nameko.none": None,
            "nameko.unsendable": {1, 2},
            "nameko.not_finite": float("nan"),
        }

        assert {
            "call_id_stack": stack,
            "language": "de",
            "tenant": {"id": 5},
            "none": None,
        } == context_data(headers)

    @pytest.mark.parametrize(
        "value", ["a" * limits.CONTEXT_BYTES, ["a"] * limits.CONTEXT_BYTES, {"a": "a" * 40_000}]
    )
    def test_too_much(self, value: Any) -> None:
        """
        What would fill the frames of all that a worker sends is left out.
        """
        assert {} == context_data({"nameko.a": value, "nameko.call_id_stack": value})


PEAK = 400 * MIB
"""What a reader takes at the most for one message: see docs/security.md."""


def measured(reader: str, name: str, count: int = 1) -> dict[str, Any]:
    """
    Attack in a process of its own.
    """
    finished = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "tests.security.measured",
            reader,
            name,
            str(count),
        ],
        cwd=pathlib.Path(__file__).parents[2],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        timeout=120,
        check=True,
    )
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


REFUSED = {
    "data-bz2": "is not accepted",
    "data-zlib": "is not accepted",
    "text-bz2": "is not accepted",
    "none-bz2": "is not accepted",
    "json-bz2": "is not a character set",
    "data-punycode": "is not accepted",
    "data-idna": "is not accepted",
    "data-escape": "is not accepted",
    "zlib": "has more than 33554432 bytes",
    "bz2": "has more than 33554432 bytes",
    "lzma": "has more than 33554432 bytes",
    "lzma-dictionary": "Memory usage limit",
    "refused-type": "is not accepted",
    "lists": "more than 1048576",
    "objects": "more than 1048576",
    "keys": "more than 1048576",
    "floats": "more than 1048576",
    "not-finite": "more than 1048576",
    "tagged": "more than 1048576",
    "unknown-tag": "Unsupported type",
    "digits": "digits",
    "deep": "more than 1048576",
    "deep-objects": "more than 1048576",
    "not-utf-8": "UnicodeDecodeError",
    "no-mapping": "the body must be a mapping",
    "too-large": "more than 33554432",
    "event-type": "more than 500",
    "not-text": "event_type must be a non-empty string, not ",
    "yaml-aliases": "more than 1048576 values",
    "yaml-text": "more than 33554432 bytes",
    "yaml-keys": "more than 33554432 bytes",
    "yaml-bytes": "more than 33554432 bytes",
    "yaml-merge": "merge keys",
    "yaml-sexagesimal": "digits",
    "yaml-lists": "more than 1048576",
    "yaml-collisions": "too long a number",
    "yaml-deep": "nest",
    "yaml-large": "more than 1048576",
}
ACCEPTED = [name for name in ATTACKS if name not in REFUSED]


class TestBounds:
    @pytest.mark.parametrize("name", REFUSED)
    def test_refused(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        What exceeds a limit is a reject whose reason names it.
        """
        writer = EventLogWriter(f"sqlite:///{tmp_path}/eventlog.db", ["json", "yaml"])
        (reason,) = writer.write([(ATTACKS | YAML_ATTACKS)[name]()])
        writer.close()

        assert REFUSED[name] in reason
        assert len(reason) <= 1000

    @pytest.mark.parametrize("name", ACCEPTED)
    def test_accepted(self, tmp_path: pathlib.Path, name: str) -> None:
        """
        What is within all of them is stored.
        """
        writer = EventLogWriter(f"sqlite:///{tmp_path}/eventlog.db", ["json"])
        assert [] == writer.write([ATTACKS[name]()])
        writer.close()

    @pytest.mark.parametrize(
        ("reader", "name"), [("store", "lists"), ("store", "most-text"), ("handler", "data-bz2")]
    )
    def test_peak(self, reader: str, name: str) -> None:
        """
        No message takes more memory than the docs say, whoever reads it.
        """
        assert measured(reader, name)["peak"] < PEAK

    def test_batch(self) -> None:
        """
        Many that are large when they are decoded take the store no more than one.
        """
        one, many = (measured("store", "most-keys", count)["peak"] for count in (1, 6))

        assert many < 1.5 * one

    def test_retry(self, tmp_path: pathlib.Path) -> None:
        """
        A reject that is tried again is decoded within the same limits.
        """
        uri = f"sqlite:///{tmp_path}/eventlog.db"
        writer = EventLogWriter(uri, ["json"])
        writer.write([ATTACKS["data-bz2"](), ATTACKS["lists"]()])
        writer.close()
        kept = Rejects(uri)
        try:
            assert [False, False] == [kept.retry(one.id) for one in kept.list(with_bodies=False)]
            assert 2 == len(kept.list())
        finally:
            kept.close()

    def test_shortened(self) -> None:
        """
        A reason is cut before it is made.
        """
        error = UnicodeDecodeError("utf-8", b"\xff" * 32 * MIB, 0, 1, "invalid start byte")

        begun = process_time()
        assert len(describe_error(ValueError(error, 10**100_000, [["x" * MIB]]))) <= 1000
        assert process_time() - begun < 0.5

    def test_integers(self) -> None:
        """
        So many digits are refused also where Python's own limit is turned off.
        """
        before = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)
        try:
            with pytest.raises(ValueError, match="more than 4300 digits"):
                message(with_data(b"7" * MIB)).decode([JSON])
        finally:
            sys.set_int_max_str_digits(before)


def small_attacks(
    attacks: dict[str, Callable[[], ReceivedMessage]], taken: Collection[str] = ()
) -> list[WireMessage]:
    """
    Make those that are refused, and that a broker passes on in no time.

    Args:
        attacks: Which.
        taken: Those that the reader does not refuse.
    """
    made = [attacks[name]() for name in attacks if name in REFUSED and name not in taken]
    return [on_the_wire(one) for one in made if len(one.body) < MIB]


STALL = 3.0
"""Seconds: generous, for machines that do other things as well."""


class TestRunning:
    def test_handler(
        self, rabbit_config: dict[str, Any], start: Callable[..., Any], handled: Handled
    ) -> None:
        """
        A handler survives them all, and others have their turn meanwhile.
        """
        with global_config({**rabbit_config, "ACCEPT": ["json", "yaml"]}) as config:
            container = start(config)
            aliases = {"yaml-aliases", "yaml-text", "yaml-keys", "yaml-bytes"}
            sent = small_attacks(ATTACKS | YAML_ATTACKS, {"not-text", *aliases})
            send(config, *sent, raw(GOOD))
            wait_until(lambda: json.loads(GOOD) in handled.bodies, timeout=60)
            assert not container._died.ready()
            found: list[Any] = []

            def all_found() -> bool:
                found.extend(dead_letters(config))
                return len(found) == len(sent)

            wait_until(all_found)

    def test_stall(
        self, rabbit_config: dict[str, Any], start: Callable[..., Any], handled: Handled
    ) -> None:
        """
        The slowest of them keep others waiting for a moment alone.
        """
        container = start(rabbit_config)
        slow = ["data-punycode", "data-bz2", "lists", "objects"]
        sent = [on_the_wire(ATTACKS[name]()) for name in slow]

        def attack() -> None:
            send(rabbit_config, *sent, raw(GOOD))
            wait_until(lambda: handled.bodies, timeout=60)

        assert longest_stall(attack) < STALL
        assert not container._died.ready()

    def test_held(
        self, rabbit_config: dict[str, Any], run_service: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        A handler holds no more decoded bodies at once than the limit, and handles all.
        """
        monkeypatch.setattr(limits, "DECODED_BYTES", 4_000_000)
        at_once: list[int] = []
        running = 0

        class Log:
            name = "log"

            @event_log_handler("shop")
            def handle(self, body: Any) -> None:
                nonlocal running
                running += 1
                at_once.append(running)
                eventlet.sleep(0.05)
                running -= 1

        container = run_service(Log, rabbit_config)
        large = raw(zlib.compress(with_data(repeated(b"[]", 40_000))), GZIP)
        send(rabbit_config, *[large] * 20)

        wait_until(lambda: len(at_once) == 20)
        assert max(at_once) <= 2
        wait_until(lambda: get_extension(container, EventLogConsumer)._calls.weight == 0)

    def test_store(
        self, rabbit_config: dict[str, Any], store: Callable[[], tuple[int, list[str]]]
    ) -> None:
        """
        A store keeps each as a reject, and goes on.
        """
        sent = small_attacks(ATTACKS)
        send(rabbit_config, *sent, raw(GOOD))

        wait_until(lambda: store()[0] == 1, timeout=60)
        wait_until(lambda: len(store()[1]) == len(sent), timeout=60)


GZIP = short(b"compression") + b"S" + long(b"gzip")


class TestDeadLetter:
    @pytest.mark.parametrize(
        "properties",
        [
            {"message_id": 5, "type": ["a"], "timestamp": -1},
            {"message_id": "a" * 300, "app_id": b"\xff", "timestamp": 2**70},
            {"message_id": "\ud800", "timestamp": "now"},
        ],
    )
    def test_properties(self, properties: dict[str, Any]) -> None:
        """
        A dead letter bears what py-amqp can write of the properties.
        """
        sent = message(b"{", content_type=["a"], content_encoding="a" * 300)
        sent.properties = properties
        letter = make_dead_letter(sent, "no reason \ud800")

        body = letter.pop("body")
        headers = letter.pop("headers")
        written = amqp.Message(body, application_headers=headers, **letter)
        assert written._serialize_properties()

    def test_compression_is_kept(self) -> None:
        """
        Without the header that says how it is compressed, no dead letter could be read again.
        """
        sent = message(b"x", compression="gzip", other="y" * 130_000)
        letter = make_dead_letter(sent, "too much")

        assert "gzip" == letter["headers"]["compression"]
        assert "compression, other" == letter["headers"]["x-eventlog-left-out"]


class TestSending:
    def test_default(self) -> None:
        """
        What our own side sends at its defaults is within what every reader takes.
        """
        encoder = BodyEncoder(Serializer("json"), (), 1_048_576, "seconds")
        head = Head({"service_name": "shop", "call_stack": []})
        sent = encoder.encode_manual(head, "paid", {"a": [0] * 340_000}, None)

        assert len(sent.payload) > 1_000_000
        assert isinstance(message(sent.payload).decode([JSON]), dict)

    def test_larger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What a larger ``max_event_bytes`` allows is refused there, if no reader would take it.
        """
        monkeypatch.setattr(limits, "BODY_VALUES", 10_000)
        encoder = BodyEncoder(Serializer("json"), (), 8 * MIB, "seconds")
        head = Head({"service_name": "shop", "call_stack": []})

        with pytest.raises(OversizedEvent):
            encoder.encode_manual(head, "paid", {"a": [[]] * 6_000}, None)
        line = encoder.encode(head, EventLog("paid", {"a": [[]] * 6_000}))
        assert "oversized" in json.loads(line.payload)["data"]
