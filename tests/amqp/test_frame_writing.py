"""
What leans on more of py-amqp than it documents.
"""

import dataclasses
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.serialization import dumps
from kombu import Connection

from nameko_eventlog.amqp import frame_reading, frame_writing
from nameko_eventlog.amqp.frame_writing import FrameGatherer, PropertiesEncoder, Publisher
from nameko_eventlog.amqp.message import properties, sent_headers
from tests.delivery.conftest import SETTINGS, Received, check_sum, hang_up, make_message
from tests.waiting import wait_until


_SELF_TEST = """
import amqp
from nameko_eventlog.amqp import frame_reading
from nameko_eventlog.amqp import frame_writing
print(amqp.__version__, frame_reading.works(), frame_writing.works())
"""


class Transport:
    """
    A transport that remembers what is written, each write by itself.
    """

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, frames: Any) -> None:
        """
        Remember *frames*.
        """
        self.written.append(bytes(frames))


class TestFrameGatherer:
    def test_batch(self) -> None:
        """
        The frames of a batch are written at once, at its end; others at once.
        """
        gatherer, transport = FrameGatherer(), Transport()
        connection = amqp.Connection()
        connection.frame_max = 4096
        write = gatherer.make(connection, transport)
        heartbeat = (8, 0, None, None, None)

        with gatherer.batch():
            write(*heartbeat)
            write(*heartbeat)
            assert [] == transport.written
        write(*heartbeat)

        frame = b"\x08\x00\x00\x00\x00\x00\x00\xce"
        assert [frame * 2, frame] == transport.written

    def test_error(self) -> None:
        """
        What was gathered before an error is written; nothing is kept for the next batch.
        """
        gatherer, transport = FrameGatherer(), Transport()
        gatherer.make(amqp.Connection(), transport)

        def fail() -> None:
            with gatherer.batch():
                gatherer.write(b"a")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        with gatherer.batch():
            pass

        assert [b"a"] == transport.written

    def test_views(self) -> None:
        """
        A view of a buffer that is used again is copied.
        """
        gatherer, transport = FrameGatherer(), Transport()
        gatherer.make(amqp.Connection(), transport)
        buffer = bytearray(b"a")
        with gatherer.batch():
            gatherer.write(memoryview(buffer))
            buffer[0] = ord("b")

        assert [b"a"] == transport.written

    def test_before_there_is_a_connection(self) -> None:
        """
        A batch on no connection is nothing.
        """
        gatherer = FrameGatherer()
        with gatherer.batch():
            pass
        gatherer.write(b"a")


class TestPropertiesEncoder:
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"priority": 0, "expiration": 1.5},
            {"headers": {"team": "a"}, "compression": "gzip"},
        ],
    )
    def test_same(self, settings: dict[str, Any]) -> None:
        """
        It encodes what py-amqp encodes, the first time and every other.
        """
        of = dataclasses.replace(SETTINGS, **settings)
        encoder = PropertiesEncoder(of, "foo")
        headers = {"a": 1, "stack": ["x", "y"]}
        for number, event_type in enumerate(("paid", "x" * 300, "\N{GRINNING FACE}", "a\ud800")):
            message = make_message(event_type=event_type, headers=headers, timestamp=number + 0.5)
            message.message_id = f"id {number}"
            expected = amqp.Message(
                application_headers=sent_headers(message, of), **properties(message, of, "foo")
            )

            assert expected._serialize_properties() == encoder.encode(message)

    def test_content_types(self) -> None:
        """
        The content types of messages with the same headers are told apart.
        """
        encoder = PropertiesEncoder(SETTINGS, "foo")
        headers: dict[str, Any] = {}
        encoded = [
            encoder.encode(make_message(headers=headers, content_type=content_type))
            for content_type in ("application/json", "application/x-yaml")
        ]

        assert b"application/json" in encoded[0]
        assert b"application/x-yaml" in encoded[1]

    def test_bounded(self) -> None:
        """
        Workers that are gone do not pile up, and what is kept is never another's.
        """
        encoder = PropertiesEncoder(SETTINGS, "foo")
        for number in range(2_500):
            assert b"number %d." % number in encoder.encode(
                make_message(headers={"a": f"number {number}."})
            )

        assert 1_000 >= len(encoder._common)

    def test_impossible(self) -> None:
        """
        Headers that AMQP does not know raise, every time.
        """
        encoder = PropertiesEncoder(SETTINGS, "foo")
        message = make_message(headers={"a": object()})
        for _ in range(2):
            with pytest.raises(amqp.exceptions.FrameSyntaxError):
                encoder.encode(message)


class TestPublisher:
    @pytest.mark.parametrize("size", [1_000, 131_072, 400_000])
    def test_arrives(self, uri: str, size: int) -> None:
        """
        A message arrives whole, in as many frames as it needs.
        """
        gatherer = FrameGatherer()
        options = {"frame_writer": gatherer.make, "confirm_publish": False}
        message = make_message(1, headers={"team": "a"})
        message.message_id = "id"
        body = os.urandom(size)
        with Connection(uri, transport_options=options) as connection:
            channel = connection.default_channel
            queue, _, _ = channel.queue_declare(exclusive=True)
            publisher = Publisher(channel, "", queue, gatherer)
            with gatherer.batch():
                publisher.publish(body, PropertiesEncoder(SETTINGS, "foo").encode(message), False)
            found = wait_until(lambda: channel.basic_get(queue, no_ack=True))

        assert body == found.body
        assert properties(message, SETTINGS, "foo").items() <= found.properties.items()
        assert {"team": "a"} == found.properties["application_headers"]

    @pytest.mark.parametrize("mandatory", [False, True])
    @pytest.mark.parametrize("size", [0, 1, 4_087, 4_088, 4_089, 8_176, 8_177, 20_000])
    @pytest.mark.parametrize("channel_id", [1, 65_535])
    def test_same(self, channel_id: int, size: int, mandatory: bool) -> None:
        """
        It writes what py-amqp writes, and counts it as sent, as heartbeats have to know.
        """
        gatherer, transport = FrameGatherer(), Transport()
        connection: Any = SimpleNamespace(frame_max=4096, bytes_sent=0)
        write = gatherer.make(connection, transport)
        channel = SimpleNamespace(connection=connection, channel_id=channel_id)
        message = make_message(headers={"a": ["b"]})
        content = amqp.Message(
            os.urandom(size),
            application_headers=sent_headers(message, SETTINGS),
            **properties(message, SETTINGS, "foo"),
        )
        with gatherer.batch():
            arguments = dumps("Bssbb", (0, "foo.events", "log_event", mandatory, False))
            write(1, channel_id, spec.Basic.Publish, arguments, content)
        with gatherer.batch():
            Publisher(channel, "foo.events", "log_event", gatherer).publish(
                content.body, content._serialize_properties(), mandatory
            )

        theirs, ours = transport.written
        assert theirs == ours
        assert 2 == connection.bytes_sent

    def test_closed(self, uri: str) -> None:
        """
        On a channel that is closed it raises what ``basic_publish`` raises.
        """
        with Connection(uri) as connection:
            channel = connection.default_channel
            publisher = Publisher(channel, "", "queue", FrameGatherer())
            channel.close()
            with pytest.raises(connection.recoverable_connection_errors):
                publisher.publish(b"", b"", False)


class TestWithoutIt:
    def test_works(self) -> None:
        """
        The installed py-amqp is one that this gets along with.
        """
        frame_writing.works.cache_clear()

        assert frame_writing.works()

    @pytest.mark.parametrize("version", ["5.1.1", "5.2.0", "5.3.1", "5.4.2"])
    def test_versions(self, tmp_path: pathlib.Path, version: str) -> None:
        """
        So are the versions that `pyproject.toml` names.
        """
        pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path)
        subprocess.run([*pip, f"amqp=={version}"], check=True)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _SELF_TEST],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
        )

        assert f"{version} True True\n" == done.stdout

    @pytest.mark.parametrize(
        ("where", "name", "value"),
        [
            (frame_writing, "frame_writer", lambda connection, transport: lambda *args: None),
            (frame_reading, "works", lambda: False),
            (frame_writing, "_BASIC", 61),
            (amqp.Message, "_serialize_properties", lambda content: b"another"),
        ],
    )
    def test_another_version(
        self, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
    ) -> None:
        """
        One that does otherwise is found out.
        """
        monkeypatch.setattr(where, name, value)
        frame_writing.works.cache_clear()
        try:
            assert not frame_writing.works()
        finally:
            frame_writing.works.cache_clear()

    def test_plain_path(
        self,
        uri: str,
        received: Received,
        make_delivery: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        With such a one event logs take the documented way.
        """
        monkeypatch.setattr(frame_writing, "works", lambda: False)
        monkeypatch.setattr(frame_reading, "works", lambda: False)
        delivery = make_delivery(uri)
        for number in range(500):
            delivery.accept(make_message(number))
        delivery.deliver(make_message(500))
        hang_up(delivery)
        delivery.deliver(make_message(501))

        assert list(range(502)) == received.wait_for(502)
        assert 502 == check_sum(delivery)["confirmed"]
        assert delivery._relay._target._publisher is None
