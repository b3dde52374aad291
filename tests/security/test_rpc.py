"""
RPC requests to the store that nobody should send.
"""

from __future__ import annotations

import bz2
import json
import logging
import pathlib
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random
from typing import Any

import eventlet
import kombu
import pytest
from kombu import Connection
from nameko.exceptions import ConfigurationError
from nameko.rpc import rpc as nameko_rpc
from nameko.testing.services import dummy, entrypoint_hook

from nameko_eventlog import compat, limits
from nameko_eventlog.store import EventLogStore
from nameko_eventlog.store import rpc as rpc_module
from tests.nameko_version import NAMEKO
from tests.security.messages import WireMessage, hostile_messages, long, properties, table
from tests.security.sender import Sender
from tests.waiting import wait_until


if NAMEKO == 3:
    from nameko.rpc import ServiceRpc as RpcProxy
    from nameko.standalone.rpc import ClusterRpcClient
else:
    from nameko.rpc import RpcProxy
    from nameko.standalone.rpc import ClusterRpcProxy

EXCHANGE = "nameko-rpc"
GOOD = json.dumps({"args": [], "kwargs": {}}).encode()


@pytest.fixture
def store(
    run_service: Any,
    rabbit_config: dict[str, Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Any:
    """
    A running store, which tells of each request that it drops.
    """
    monkeypatch.setattr(rpc_module, "QUIET_SECONDS", 0.0)
    section = {"uri": f"sqlite:///{tmp_path}/eventlog.db", "services": ["shop"]}
    return run_service(EventLogStore, {**rabbit_config, "EVENTLOG_STORE": section})


@pytest.fixture
def sender(store: Any, rabbit_config: dict[str, Any]) -> Iterator[Sender]:
    """
    Somebody who may publish to the broker.
    """
    with Sender(rabbit_config["AMQP_URI"]) as sender:
        yield sender


class Asker:
    """
    Asks the store, and has a queue for its replies.
    """

    reply_to = b"replies-of-the-test"

    def __init__(self, sender: Sender, uri: str) -> None:
        self._sender = sender
        self._connection = Connection(uri)
        exchange = kombu.Exchange(EXCHANGE, type="topic", durable=True)
        self.queue = kombu.Queue("", exchange, self.reply_to.decode(), exclusive=True)(
            self._connection.default_channel
        )
        self.queue.declare()

    def close(self) -> None:
        """
        Close the connection.
        """
        self._connection.release()

    def tell(self, body: bytes, method: str = "eventlog_store.services", **given: Any) -> None:
        """
        Send a request; keyword arguments are properties.
        """
        assert self._sender.send(EXCHANGE, method, WireMessage(body, properties(**given)))

    def ask(self, body: bytes, method: str = "eventlog_store.services", **given: Any) -> Any:
        """
        Send a request, and return the reply.
        """
        self.tell(body, method, **{"reply_to": self.reply_to, "correlation_id": b"1", **given})
        return self.reply()

    def reply(self) -> Any:
        """
        Return the next reply.
        """
        message = wait_until(lambda: self.queue.get(no_ack=True))
        assert "1" == message.properties.get("correlation_id")
        return json.loads(message.body)


@pytest.fixture
def asker(sender: Sender, rabbit_config: dict[str, Any]) -> Iterator[Asker]:
    """
    Somebody who asks the store.
    """
    asker = Asker(sender, rabbit_config["AMQP_URI"])
    yield asker
    asker.close()


def dropped(caplog: pytest.LogCaptureFixture) -> int:
    """
    Return how many requests the log says were dropped.
    """
    return sum(
        record.args[0]
        for record in caplog.records
        if "that could not be answered" in record.msg and isinstance(record.args, tuple)
    )


def waiting(config: dict[str, Any]) -> int:
    """
    Return how many requests wait in the store's queue.
    """
    with Connection(config["AMQP_URI"]) as connection:
        channel = connection.default_channel
        return int(channel.queue_declare("rpc-eventlog_store", passive=True).message_count)


def consumer_of(store: Any) -> Any:
    """
    Return what takes the requests to a store.
    """
    (consumer,) = {one.rpc_consumer for one in store.entrypoints if hasattr(one, "rpc_consumer")}
    return consumer


def answers(asker: Asker) -> bool:
    """
    Tell whether the store answers a request as any other.
    """
    return bool(asker.ask(GOOD) == {"result": [], "error": None})


DEEP = b"V"
for _ in range(5000):
    DEEP = b"A" + long(DEEP)

UNANSWERABLE = {
    "no reply_to": {"reply_to": None},
    "an empty reply_to": {"reply_to": b""},
    "a reply_to that is no text": {"reply_to": b"\xff" * 255},
    "a correlation_id that is no text": {"correlation_id": b"\xff"},
    "a message_id that is no text": {"message_id": b"\xc3"},
    "a content type that is no text": {"content_type": b"\xff"},
    "headers that are deep": {"headers": table([(b"x", DEEP)])},
}

HEADERS = {
    "a call stack that is a number": [(b"nameko.call_id_stack", b"i\0\0\0\5")],
    "a call stack of numbers": [(b"nameko.call_id_stack", b"A" + long(b"i\0\0\0\5"))],
    "a call stack of nothing": [(b"nameko.call_id_stack", b"V")],
    "a table for a call stack": [(b"nameko.call_id_stack", b"F" + table([(b"a", b"V")]))],
    "a name that is no text": [(b"\xff", b"V")],
    "a name behind the prefix that is no text": [(b"nameko.\xff", b"V")],
    "a name twice": [(b"nameko.a", b"V"), (b"nameko.a", b"t\1")],
    "an odd context": [(b"nameko.user", b"F" + table([(b"\xff", b"x" + long(b"\xff"))]))],
    "no compression": [(b"compression", b"V")],
}

MALFORMED = {
    "nothing": b"",
    "no JSON": b"{",
    "no mapping": b"5",
    "a list": b"[]",
    "no args": b'{"kwargs": {}}',
    "no kwargs": b'{"args": []}',
    "args that are a mapping": b'{"args": {}, "kwargs": {}}',
    "args that are text": b'{"args": "ab", "kwargs": {}}',
    "args that are nothing": b'{"args": null, "kwargs": {}}',
    "kwargs that are a list": b'{"args": [], "kwargs": []}',
    "deep": b'{"args": ' + b"[" * 100_000,
    "a value that kombu does not know": b'{"args": [{"__type__": "x", "__value__": 1}]}',
    "large": b'{"args": ["' + b"x" * limits.RPC_REQUEST_BYTES + b'"], "kwargs": {}}',
    "no text": b"\xff\xfe",
}

CALLS = [
    ("nothing", GOOD, "MethodNotFound"),
    ("database", GOOD, "MethodNotFound"),
    ("store", GOOD, "MethodNotFound"),
    ("apply_retention", GOOD, "MethodNotFound"),
    ("", GOOD, "MethodNotFound"),
    ("get", GOOD, "IncorrectSignature"),
    ("services", b'{"args": [1], "kwargs": {}}', "IncorrectSignature"),
    ("get", b'{"args": [], "kwargs": {"self": 1}}', "IncorrectSignature"),
    ("query", b'{"args": [], "kwargs": {"self": 1}}', "IncorrectSignature"),
    ("query", b'{"args": [], "kwargs": {"\\u0000": 1}}', "InvalidQuery"),
    ("query", b'{"args": [], "kwargs": {"": 1}}', "InvalidQuery"),
]

CODECS: list[tuple[dict[str, Any], Callable[..., bytes]]] = [
    ({"content_type": b"application/data", "content_encoding": b"bz2"}, bz2.compress),
    ({"content_type": b"application/data", "content_encoding": b"zlib"}, zlib.compress),
    ({"content_type": b"application/data"}, bytes),
    ({"content_type": b"application/x-python-serialize"}, bytes),
    ({"content_type": b"application/x-yaml"}, bytes),
    ({"content_type": None}, bytes),
    ({"content_encoding": b"bz2"}, bz2.compress),
    ({"content_encoding": b"punycode"}, bytes),
    ({"content_encoding": b"nonsense"}, bytes),
    ({"content_encoding": b"\0"}, bytes),
    ({"headers": table([(b"compression", b"S" + long(b"gzip"))])}, bytes),
    ({"headers": table([(b"compression", b"S" + long(b"nonsense"))])}, bytes),
    ({"headers": table([(b"compression", b"i\0\0\0\5")])}, bytes),
]


class TestUnanswerable:
    def test_dropped(
        self, asker: Asker, rabbit_config: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        What cannot be answered is acknowledged and dropped, the log says so, and the next request
        is answered.
        """
        for number, given in enumerate(UNANSWERABLE.values(), 1):
            for body in (GOOD, b"{"):
                asker.tell(body, **{"reply_to": asker.reply_to, "correlation_id": b"1", **given})
            wait_until(lambda number=number: dropped(caplog) == 2 * number)
            assert answers(asker)

        assert 0 == waiting(rabbit_config)

    def test_log(
        self, asker: Asker, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        Many of them do not fill the log.
        """
        monkeypatch.setattr(rpc_module, "QUIET_SECONDS", 60.0)
        for _ in range(20):
            asker.tell(GOOD)
        wait_until(lambda: dropped(caplog))
        assert answers(asker)

        assert 1 == dropped(caplog)

    def test_nobody_waits(self, asker: Asker, rabbit_config: dict[str, Any]) -> None:
        """
        A reply that nobody waits for ends nothing.
        """
        for reply_to in (b"x", b"a.b.c", b"#", "☃".encode() * 85, b"\0" * 255):
            asker.tell(GOOD, reply_to=reply_to, correlation_id=b"\0" * 255)
            assert answers(asker)

        wait_until(lambda: waiting(rabbit_config) == 0)

    def test_to_itself(self, asker: Asker, caplog: pytest.LogCaptureFixture) -> None:
        """
        A reply that is to go to the store itself does not go round for ever.
        """
        asker.tell(GOOD, reply_to=b"eventlog_store.services")
        wait_until(lambda: dropped(caplog))

        assert answers(asker)
        assert 1 == dropped(caplog)


class TestMalformed:
    def test_body(self, asker: Asker) -> None:
        """
        A body that is no request is answered with what is wrong, in few words.
        """
        errors = {name: asker.ask(body)["error"] for name, body in MALFORMED.items()}

        assert dict.fromkeys(MALFORMED, "MalformedRequest") == {
            name: error["exc_type"] for name, error in errors.items()
        }
        assert max(len(error["value"]) for error in errors.values()) < 2000
        assert answers(asker)

    def test_call(self, asker: Asker) -> None:
        """
        What cannot be called is answered with Nameko's own exceptions.
        """
        for method, body, expected in CALLS:
            error = asker.ask(body, f"eventlog_store.{method}")["error"]
            assert (method, body, expected) == (method, body, error["exc_type"])

        assert answers(asker)

    def test_headers(self, asker: Asker) -> None:
        """
        With headers that nobody should send a request is answered, if only with what is wrong.
        """
        for name, fields in HEADERS.items():
            error = asker.ask(GOOD, headers=table(fields))["error"]
            assert (name, True) == (name, error is None or error["exc_type"] == "MalformedRequest")

        assert answers(asker)

    def test_codec(self, asker: Asker) -> None:
        """
        A content type, an encoding or a compression that is not accepted is answered so.
        """
        for given, packed in CODECS:
            error = asker.ask(packed(GOOD), **given)["error"]
            assert (given, "MalformedRequest") == (given, error and error["exc_type"])

        assert answers(asker)

    def test_compressed(self, asker: Asker) -> None:
        """
        A request that is compressed as Nameko's clients can is answered.
        """
        headers = table([(b"compression", b"S" + long(b"application/x-gzip"))])

        assert [] == asker.ask(zlib.compress(GOOD), headers=headers)["result"]


class TestReplies:
    """
    Answers that cannot be sent.
    """

    @pytest.fixture(autouse=True)
    def results(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """
        What the method ``services`` returns, or raises.
        """
        results: dict[str, Any] = {}

        def services(self: Any) -> Any:
            result = results["next"]
            if isinstance(result, BaseException):
                raise result
            return result

        services.nameko_entrypoints = EventLogStore.services.nameko_entrypoints  # type: ignore[attr-defined]
        monkeypatch.setattr(EventLogStore, "services", services)
        return results

    def test_unserialisable(self, asker: Asker, results: dict[str, Any]) -> None:
        """
        A result that no serializer takes is an error, as Nameko's own.
        """
        for result in (object(), {1: {object()}}, [lambda: None]):
            results["next"] = result
            assert "UnserializableValueError" == asker.ask(GOOD)["error"]["exc_type"]
        results["next"] = []
        assert answers(asker)

    def test_too_large(self, asker: Asker, results: dict[str, Any]) -> None:
        """
        A result that the broker would refuse is an error that says how large it was.
        """
        results["next"] = "x" * limits.RPC_REPLY_BYTES
        error = asker.ask(GOOD)["error"]

        assert f"more than {limits.RPC_REPLY_BYTES}" in error["value"]
        results["next"] = []
        assert answers(asker)

    def test_exceptions(
        self, asker: Asker, results: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        """
        Exceptions that cannot be told are told as far as they can; Timeout is one of them.
        """

        class Unspeakable(Exception):
            def __str__(self) -> str:
                raise ValueError("no")

        # which does tell exceptions, and lets this one's out into pytest's handler
        caplog.set_level(logging.CRITICAL, "nameko.containers")
        Unspeakable.__module__ = "nowhere"
        for exc in (
            Unspeakable(object()),
            Exception("\ud800"),
            Exception({object(): object()}),
            RecursionError(),
            MemoryError(),
            eventlet.Timeout(),
        ):
            results["next"] = exc
            assert asker.ask(GOOD)["error"] is not None
        results["next"] = []
        assert answers(asker)

    def test_refused(
        self,
        asker: Asker,
        results: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        store: Any,
    ) -> None:
        """
        A reply that the broker refuses is dropped, and the connection for the next one is new.
        """
        consumer = consumer_of(store)
        results["next"] = []
        monkeypatch.setattr(consumer._replies, "_exchange", "not-there")
        asker.tell(GOOD, reply_to=asker.reply_to)
        wait_until(lambda: dropped(caplog) == 1)
        monkeypatch.setattr(consumer._replies, "_exchange", EXCHANGE)

        assert answers(asker)
        assert "NOT_FOUND" in caplog.text

    def test_no_broker(
        self,
        asker: Asker,
        results: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        store: Any,
    ) -> None:
        """
        A connection for replies that was lost is made anew.
        """
        consumer = consumer_of(store)
        results["next"] = []
        assert answers(asker)
        consumer._replies._client.connection.transport.sock.shutdown(2)

        assert answers(asker)
        assert 0 == dropped(caplog)


class TestRedelivered:
    def test_once_more(self, asker: Asker, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A request that was delivered before is acknowledged before it runs, and answered.
        """
        acknowledged: list[bool] = []
        consumer = consumer_of(store)
        subscription = consumer._subscription
        handle = consumer._handle

        def note(call: Any) -> None:
            acknowledged.append(call.message.delivery_tag not in subscription._unsettled)
            if len(acknowledged) == 1:
                call.connection = None  # it will not be acknowledged
                subscription._client.connection.sock.shutdown(2)
                consumer._done.append(call)
                return
            handle(call)

        monkeypatch.setattr(consumer, "_handle", note)
        assert answers(asker)

        assert [False, True] == acknowledged[:2]


class TestClients:
    def test_cluster(self, store: Any, rabbit_config: dict[str, Any]) -> None:
        """
        Nameko's own client in scripts is answered, errors included.
        """
        client = (
            ClusterRpcClient(uri=rabbit_config["AMQP_URI"], timeout=60)
            if NAMEKO == 3
            else ClusterRpcProxy(rabbit_config, timeout=60)
        )
        with client as cluster:
            assert [] == cluster.eventlog_store.services()
            assert cluster.eventlog_store.get("x") is None
            with pytest.raises(Exception, match="InvalidQuery limit=0"):
                cluster.eventlog_store.query(limit=0)
            with pytest.raises(Exception, match="nothing"):
                cluster.eventlog_store.nothing()
            pending = [cluster.eventlog_store.services.call_async() for _ in range(30)]
            assert [[]] * 30 == [one.result() for one in pending]

    def test_service(self, store: Any, run_service: Any, rabbit_config: dict[str, Any]) -> None:
        """
        Nameko's own client in services is answered.
        """

        class Client:
            name = "client"
            eventlog_store = RpcProxy("eventlog_store")

            @dummy
            def ask(self) -> Any:
                """
                Ask.
                """
                return self.eventlog_store.services()

        container = run_service(Client, rabbit_config)
        with entrypoint_hook(container, "ask") as ask:
            assert [] == ask()

    def test_other_rpc(self, rabbit_config: dict[str, Any], tmp_path: pathlib.Path) -> None:
        """
        A subclass with an entrypoint of Nameko's own, which would take requests away, is refused.
        """

        class Store(EventLogStore):
            @nameko_rpc
            def more(self) -> None:
                """
                Do nothing.
                """

        section = {"uri": f"sqlite:///{tmp_path}/eventlog.db"}
        config = {**rabbit_config, "EVENTLOG_STORE": section}
        with (
            compat.container(Store, config) as container,
            pytest.raises(
                ConfigurationError,
                match=r"more: Nameko's @rpc .*use rpc from nameko_eventlog\.store\.",
            ),
        ):
            container.start()


def _request(random: Random) -> bytes:
    names = ["service", "limit", "since", "text", "data", "data_contains", "cursor", "x", ""]
    kwargs = {random.choice(names): random.choice([0, -1, "x", [], {}, None, 1e308, "\0"])}
    return json.dumps(
        {"args": random.choice([[], [], [1], {}, None]), "kwargs": random.choice([kwargs, {}, []])}
    ).encode()


class TestFuzzing:
    def test_all_answered_or_dropped(
        self,
        asker: Asker,
        sender: Sender,
        store: Any,
        rabbit_config: dict[str, Any],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """
        Each of many requests that are wrong in any way is answered or dropped, and the store is
        up.
        """
        caplog.set_level(logging.CRITICAL, "nameko")
        methods = ["query", "count", "services", "get", "trace", "service_map", "nothing"]
        random = Random(1)
        sent = 0
        for message in islice(hostile_messages(1, _request), 600):
            if message.is_refused:
                continue
            method = f"eventlog_store.{random.choice(methods)}"
            sent += sender.send(EXCHANGE, method, message)
        wait_until(lambda: waiting(rabbit_config) == 0)

        assert sent > 500
        assert answers(asker)
