"""
The outbox on disk.
"""

from __future__ import annotations

import errno
import json
import os
import pathlib
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from nameko.exceptions import ConfigurationError

from nameko_eventlog.delivery import BrokerDelivery
from nameko_eventlog.delivery.spool import lines, segments, spooled_outbox
from nameko_eventlog.delivery.spool import spool as spool_module
from nameko_eventlog.exceptions import NotConfirmed
from tests.delivery.conftest import Lines, Received, check_sum, make_message, settled
from tests.delivery.spool.spooling import in_a_process, killed, stored
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


class TestOnDisk:
    def test_readable(self, nowhere: str, make_spooled: Make, files: Any) -> None:
        """
        What was accepted is a line of JSON before the call returns, with its message id.
        """
        delivery = make_spooled(nowhere, start=False)
        delivery.accept(make_message(7, event_type="x" * 300))
        (path,) = files()
        header, line = stored(path)

        assert (1, "foo") == (header["nameko_eventlog_spool"], header["service"])
        assert {"number": 7} == json.loads(line["body"])
        assert ("x" * 255, 36) == (line["event_type"], len(line["message_id"]))
        assert {"nameko.call_id_stack": ["foo.bar.1"]} == line["headers"]

    def test_owner_only(self, nowhere: str, make_spooled: Make, files: Any) -> None:
        """
        Only the owner reads it.
        """
        make_spooled(nowhere, start=False).accept(make_message())
        (path,) = files()

        assert 0o600 == path.stat().st_mode & 0o777
        assert 0o700 == path.parent.stat().st_mode & 0o777

    def test_nothing_left(
        self, uri: str, received: Received, tmp_path: pathlib.Path, make_spooled: Make
    ) -> None:
        """
        Once everything is confirmed and the service has stopped nothing is left.
        """
        delivery = make_spooled(uri)
        for number in range(1000):
            delivery.accept(make_message(number))
        delivery.stop(10)

        assert list(range(1000)) == received.wait_for(1000)
        assert 1000 == check_sum(delivery)["confirmed"]
        assert [] == list((tmp_path / "foo").iterdir())

    def test_no_directory(self, nowhere: str, tmp_path: pathlib.Path, make_delivery: Make) -> None:
        """
        A spool that is a file is a mistake in the configuration.
        """
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="spool must be a directory"):
            make_delivery(nowhere, spool=str(tmp_path / "file"))

    @pytest.mark.parametrize(
        "changes",
        [
            {"body": b"\xff\x00", "content_encoding": "binary"},
            {"headers": {"a": b"\xff", "b": 5, "c": None}},
            {"headers": {"a": "\ud800"}},
            {"headers": {}},
            {"event_type": "a\ud800b"},
            {"timestamp": 0.0},
        ],
    )
    def test_comes_back(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_delivery: Make,
        make_spooled: Make,
        changes: dict[str, Any],
    ) -> None:
        """
        A message comes out of the spool as it went in.
        """
        before = make_delivery(uri)
        before.accept(make_message(**changes))
        wait_until(settled(before))
        delivery = make_spooled(nowhere)
        delivery.accept(make_message(**changes))
        delivery.stop(0)
        make_spooled(uri)
        wait_until(lambda: received.read() or len(received.messages) == 2)

        first, second = received.messages
        assert first.body == second.body
        assert first.headers == second.headers
        for name in ("type", "timestamp", "content_type", "content_encoding"):
            assert getattr(first, name, first.properties.get(name)) == getattr(
                second, name, second.properties.get(name)
            )


class TestBrokerAway:
    def test_manual_call(self, nowhere: str, make_spooled: Make) -> None:
        """
        A manual call returns when its event log is on disk.
        """
        delivery = make_spooled(nowhere)
        began = time.monotonic()
        delivery.deliver(make_message())

        assert time.monotonic() - began < 8
        assert 1 == check_sum(delivery)["waiting"]

    def test_stop_and_start(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        undelivered: Lines,
    ) -> None:
        """
        What is left at the stop is published by the next start, under the same ids, in order.
        """
        first = make_spooled(nowhere)
        for number in range(500):
            first.accept(make_message(number))
        first.stop(0.2)
        assert (500, 0) == (check_sum(first)["waiting"], len(undelivered))
        second = make_spooled(uri)
        second.accept(make_message(500))

        assert list(range(501)) == received.wait_for(501)
        wait_until(settled(second))
        assert 501 == check_sum(second)["confirmed"]

    def test_flat_memory(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
    ) -> None:
        """
        However many wait, no more of them are in memory than ``buffer_size``; all arrive.
        """
        delivery = make_spooled(nowhere, buffer_size=100, start=False)
        for number in range(5000):
            delivery.accept(make_message(number))
        assert 100 == len(delivery._outbox._ahead)
        assert 5000 == check_sum(delivery)["waiting"]
        delivery.stop(0)
        make_spooled(uri, buffer_size=100)

        assert list(range(5000)) == received.wait_for(5000)

    def test_bounded(
        self, nowhere: str, tmp_path: pathlib.Path, make_spooled: Make, undelivered: Lines
    ) -> None:
        """
        It takes no more than ``spool_max_bytes``: the rest is undelivered by name.
        """
        delivery = make_spooled(nowhere, spool_max_bytes=5000, confirm_timeout=0.2)
        for number in range(100):
            delivery.accept(make_message(number))
        with pytest.raises(NotConfirmed, match="the outbox is full"):
            delivery.deliver(make_message())

        stats = check_sum(delivery)
        assert 100 == stats["accepted"]
        assert len(undelivered) == stats["undelivered"] > 50
        size = sum(path.stat().st_size for path in (tmp_path / "foo").glob("*/*.jsonl"))
        assert size <= 5000 + 200

    def test_segments(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        files: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A large spool is of many files, which go as they are settled.
        """
        monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 10_000)
        delivery = make_spooled(nowhere, spool_max_bytes=1_000_000)
        for number in range(500):
            delivery.accept(make_message(number))
        assert 10 < len(files())
        delivery.stop(0)
        make_spooled(uri)

        assert list(range(500)) == received.wait_for(500)
        wait_until(lambda: not files())


class TestKilled:
    def test_nothing_lost(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        tmp_path: pathlib.Path,
        make_spooled: Make,
    ) -> None:
        """
        SIGKILL loses nothing that was accepted.
        """
        killed(nowhere, tmp_path, 1000)
        delivery = make_spooled(uri)

        assert list(range(1000)) == received.wait_for(1000)
        wait_until(settled(delivery))
        assert (1000, 1000) == (check_sum(delivery)["accepted"], check_sum(delivery)["confirmed"])

    def test_again_and_again(
        self, uri: str, received: Received, tmp_path: pathlib.Path, make_spooled: Make
    ) -> None:
        """
        Killed while it publishes, it repeats no more than was under way, under the same ids.
        """
        for _ in range(3):
            killed(uri, tmp_path, 2000, "eventlet.sleep(0.1)")
        make_spooled(uri)
        received.wait_for(6000)

        assert 6000 == len(set(received.ids))
        assert len(received.ids) - 6000 <= 3 * 1500

    def test_living_ones_are_left_alone(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
    ) -> None:
        """
        A second instance has a spool of its own; what the first has is the first's.
        """
        first = make_spooled(nowhere)
        first.accept(make_message(1))
        second = make_spooled(uri)
        second.accept(make_message(2))
        assert [2] == received.wait_for(1)
        assert 1 == check_sum(first)["waiting"]
        first.stop(0)
        second._outbox._adopt()
        second._relay.notice()

        assert [2, 1] == received.wait_for(2)

    @pytest.mark.filterwarnings("ignore:Using fork")
    def test_fork(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
    ) -> None:
        """
        A forked child keeps neither the spool nor its lock, which the next start gets.
        """
        first = make_spooled(nowhere)
        first.accept(make_message(1))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write)
            first.accept(make_message(2))
            os.read(read, 1)  # outlives the parent's delivery
            os._exit(0)
        os.close(read)
        first.stop(0)
        make_spooled(uri)
        try:
            assert [1] == received.wait_for(1)
        finally:
            os.close(write)
            wait_until(lambda: os.waitpid(child, os.WNOHANG) == (child, 0))

    def test_forked_hub(self, nowhere: str, tmp_path: pathlib.Path) -> None:
        """
        A forked child that runs a hub does not keep the parent from putting onto the disk.
        """
        script = """
            for _ in range(3):
                if not os.fork():
                    eventlet.sleep(3)
                    os._exit(0)
            for number in range(20):
                delivery.accept(make_message(number))
                eventlet.sleep(0.1)
            wait_until(lambda: not delivery._outbox._spool._own.is_dirty)
            print("on the disk", flush=True)
            os._exit(0)
        """
        done = in_a_process(nowhere, tmp_path, script)

        assert "on the disk\n" == done.stdout, done.stderr


class TestDamage:
    def test_corrupt(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        files: Any,
        said: Lines,
    ) -> None:
        """
        Flipped bits and a cut end cost the lines that they are in, which are kept aside.
        """
        killed(nowhere, tmp_path, 100)
        (path,) = files()
        content = bytearray(path.read_bytes())
        at = content.index(b'{\\"number\\": 50}')
        content[at + 3] ^= 1
        path.write_bytes(content[:-10])
        delivery = make_spooled(uri)

        expected = [number for number in range(99) if number != 50]
        assert expected == received.wait_for(98)
        wait_until(settled(delivery))
        stats = check_sum(delivery)
        assert (100, 98, 2) == (stats["accepted"], stats["confirmed"], stats["undelivered"])
        assert 1 == len(said.saying("has corrupt lines: they are kept in"))
        (kept,) = (tmp_path / "foo" / "corrupt").iterdir()
        assert 2 == len(kept.read_bytes().splitlines())

    def test_corrupt_and_not_kept(
        self,
        nowhere: str,
        uri: str,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        files: Any,
        said: Lines,
    ) -> None:
        """
        Where they cannot be kept aside that is said.
        """
        killed(nowhere, tmp_path, 2)
        (path,) = files()
        path.write_bytes(path.read_bytes()[:-10])
        (tmp_path / "foo" / "corrupt").touch()
        delivery = make_spooled(uri)

        wait_until(lambda: said.saying("cannot be written ([Errno 20] Not a directory"))
        assert 1 == check_sum(delivery)["undelivered"]

    def test_rubbish(
        self,
        quick: None,
        uri: str,
        received: Received,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        said: Lines,
    ) -> None:
        """
        Files of something else, of a later version, and a position out of range harm nothing.
        """
        for name, content in (
            ("a", b"\x00\xff\n" * 3),
            ("b", b""),
            ("c", lines.with_checksum(b'{"nameko_eventlog_spool":2,"service":"foo"}')),
        ):
            (tmp_path / "foo" / name).mkdir(parents=True)
            (tmp_path / "foo" / name / "00000001.jsonl").write_bytes(content)
            (tmp_path / "foo" / name / "position").write_text("00000001.jsonl 99999")
        delivery = make_spooled(uri)
        delivery.accept(make_message(1))

        assert [1] == received.wait_for(1)
        wait_until(lambda: not (tmp_path / "foo" / "a").exists())
        assert 1 == len(said.saying("has a later format"))
        assert (tmp_path / "foo" / "c" / "00000001.jsonl").exists()

    @pytest.mark.parametrize(
        "position",
        [
            "",
            "rubbish",
            "00000009.jsonl 00000000000000000000 00000000",
            "00000001.jsonl 00000000000000009999 00000000",
        ],
    )
    def test_position(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        files: Any,
        position: str,
    ) -> None:
        """
        A note of how far it was settled that is not whole costs nothing.
        """
        first = make_spooled(nowhere, start=False)
        for number in range(10):
            first.accept(make_message(number))
        first.stop(0)
        (path,) = files()
        (path.parent / "position").write_text(position)
        make_spooled(uri)

        assert list(range(10)) == received.wait_for(10)

    def test_unreadable(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        files: Any,
        said: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A file that the disk does not give back is left there, and counted as undelivered.
        """
        monkeypatch.setattr(spool_module, "SEGMENT_BYTES", 3_000)
        first = make_spooled(nowhere, spool_max_bytes=300_000, start=False)
        for number in range(40):
            first.accept(make_message(number))
        first.stop(0)
        bad = files()[1]
        lost = [json.loads(line["body"])["number"] for line in stored(bad)[1:]]

        def read(self: segments.Segment, *args: Any) -> Any:
            if self.path == bad:
                raise OSError(5, "Input/output error")
            return original(self, *args)

        original = segments.Segment.read
        monkeypatch.setattr(segments.Segment, "read", read)
        delivery = make_spooled(uri)

        expected = [number for number in range(40) if number not in lost]
        assert expected == received.wait_for(len(expected))
        wait_until(settled(delivery))
        assert len(lost) == check_sum(delivery)["undelivered"]
        assert said.saying(f"cannot read spool file {bad} ([Errno 5] Input/output error)")
        assert bad.exists()

    def test_handlers_that_raise(
        self, tmp_path: pathlib.Path, make_delivery: Make, said: Lines
    ) -> None:
        """
        What the service's handlers raise about the spool costs no event log.
        """

        def boom(record: Any) -> None:
            raise RuntimeError("boom")

        said.emit = boom  # type: ignore[method-assign]
        delivery = make_delivery("memory://", spool="/proc/eventlog", start=False)
        delivery.accept(make_message(1))

        assert 1 == check_sum(delivery)["waiting"]

    def test_vanished(
        self,
        nowhere: str,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        files: Any,
        said: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A directory that is removed is said, and made anew.
        """
        monkeypatch.setattr(spooled_outbox, "SYNC_SECONDS", 0.05)
        delivery = make_spooled(nowhere)
        delivery.accept(make_message(1))
        subprocess.run(["rm", "-r", str(tmp_path / "foo")], check=True)
        wait_until(lambda: said.saying("was removed or replaced"))
        delivery.accept(make_message(2))

        (path,) = files()
        assert {"number": 2} == json.loads(stored(path)[1]["body"])
        assert 2 == check_sum(delivery)["waiting"]

    def test_disk_full(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        said: Lines,
        undelivered: Lines,
        files: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        While the disk is full event logs wait in memory; afterwards they are written, in order.
        """

        def pwrite(fd: int, line: bytes, at: int) -> int:
            if at in parts:
                raise OSError(errno.ENOSPC, "No space left on device")
            written = write(fd, line[:5], at)
            parts.add(at + written)
            return written

        delivery = make_spooled(nowhere, buffer_size=50)
        delivery.accept(make_message(0))
        write = segments._os.pwrite
        parts: set[int] = set()
        with monkeypatch.context() as full:
            full.setattr(segments._os, "pwrite", pwrite)
            for number in range(1, 60):
                delivery.accept(make_message(number))
        assert 1 == len(said.saying("cannot write to spool"))
        assert 10 == len(undelivered)
        delivery.accept(make_message(60))
        assert 1 == len(said.saying("writing event logs of foo to spool"))
        (path,) = files()
        written = [json.loads(line["body"])["number"] for line in stored(path)[1:]]
        assert [*range(50), 60] == written
        delivery.stop(0)
        make_spooled(uri)

        assert [*range(50), 60] == received.wait_for(51)

    def test_nowhere_to_write(
        self, uri: str, received: Received, make_delivery: Make, said: Lines
    ) -> None:
        """
        A directory that cannot be made is said; event logs wait in memory.
        """
        delivery = make_delivery(uri, spool="/proc/eventlog")
        delivery.deliver(make_message(1))

        assert [1] == received.wait_for(1)
        assert said.saying("cannot write to spool")


class TestInterrupted:
    def test_signal_handler(self, nowhere: str, make_spooled: Make, files: Any) -> None:
        """
        An event log out of the middle of another one's acceptance is kept, and written next.
        """
        delivery = make_spooled(nowhere, start=False)
        identify = delivery._outbox._identify

        def interrupt(message: Any) -> None:
            delivery._outbox._identify = identify
            identify(message)
            delivery.accept(make_message(2))

        delivery._outbox._identify = interrupt
        delivery.accept(make_message(1))
        delivery.accept(make_message(3))
        (path,) = files()

        assert [2, 1, 3] == [json.loads(line["body"])["number"] for line in stored(path)[1:]]
