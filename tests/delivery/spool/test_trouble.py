"""
The outbox on disk when the disk, its neighbours or its limits are in the way.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import logging
import os
import pathlib
import resource
import shutil
from collections.abc import Callable
from typing import Any

import eventlet
import pytest

from nameko_eventlog.delivery import BrokerDelivery
from nameko_eventlog.delivery.spool import directory as directory_module
from nameko_eventlog.delivery.spool import lines, segments, spooled_outbox
from nameko_eventlog.delivery.spool import spool as spool_module
from tests.delivery.conftest import Lines, Received, check_sum, make_message, settled
from tests.delivery.spool.spooling import numbers
from tests.proxy import Proxy
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]


def open_files() -> int:
    """
    How many files this process has open.
    """
    return len(os.listdir("/proc/self/fd"))


class TestFull:
    @pytest.mark.parametrize("size", [400, 4_000])
    def test_room_again(
        self,
        uri: str,
        received: Received,
        make_spooled: Make,
        size: int,
    ) -> None:
        """
        A spool smaller than a segment that was full takes event logs again once it has drained.
        """
        delivery = make_spooled(uri, spool_max_bytes=5_000, start=False)
        accepted = 0
        while not delivery.stats()["undelivered"]:
            delivery.accept(make_message(accepted, event_type="x" * 200))
            accepted += 1
        delivery.start()
        wait_until(settled(delivery))
        body = json.dumps({"number": accepted, "more": "x" * size}).encode()
        delivery.deliver(make_message(body=body))
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (accepted, 1) == (stats["confirmed"], stats["undelivered"])
        assert [*range(accepted - 1), accepted] == received.wait_for(accepted)

    def test_what_is_settled_makes_room(
        self,
        uri: str,
        received: Received,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A disk that is full of what was confirmed is emptied, and the spool goes on.
        """
        room = 20_000

        def pwrite(fd: int, line: bytes, at: int) -> int:
            used = sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl"))
            return original(fd, line[: max(0, room - used)], at) if used < room else 0

        original = segments._os.pwrite
        monkeypatch.setattr(segments._os, "pwrite", pwrite)
        delivery = make_spooled(uri)
        for number in range(500):
            if number % 20 == 0:
                wait_until(settled(delivery))
            delivery.accept(make_message(number))
            if number % 20 == 0:
                assert not delivery._outbox._is_failing

        assert list(range(500)) == received.wait_for(500)
        wait_until(settled(delivery))
        assert 500 == check_sum(delivery)["confirmed"]

    def test_file_size_limit(self, nowhere: str, make_spooled: Make, files: Any) -> None:
        """
        A file that may not grow any more, in the middle of a line, is followed by another.
        """
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        delivery = make_spooled(nowhere)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
            for number in range(50):
                delivery.accept(make_message(number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert list(range(50)) == [number for path in files() for number in numbers(path)]
        assert len(files()) > 1

    def test_bounded_in_memory(
        self, nowhere: str, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        While nothing can be written, no more bytes wait in memory than ``buffer_bytes``.
        """
        delivery = make_delivery(nowhere, spool="/proc/eventlog", buffer_bytes=10_000, start=False)
        for number in range(100):
            delivery.accept(make_message(number, body=b"x" * 600, headers={}))

        stats = check_sum(delivery)
        assert 10 == stats["waiting"]
        assert 90 == stats["undelivered"] == len(undelivered)

    def test_comes_later(
        self,
        nowhere: str,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        files: Any,
        said: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A directory that can be made only later is made then, however much is logged meanwhile.
        """
        monkeypatch.setattr(spooled_outbox, "SYNC_SECONDS", 0.2)
        monkeypatch.setattr(spool_module, "OPEN_SECONDS", 0.2)
        (tmp_path / "foo").touch()
        delivery = make_spooled(nowhere)
        delivery.accept(make_message(0))
        (tmp_path / "foo").unlink()
        wait_until(lambda: delivery.accept(make_message(1)) or files())

        (path,) = files()
        assert delivery.stats()["waiting"] == len(numbers(path))
        assert 1 == len(said.saying("writing event logs of foo to spool"))

    def test_never_yields(
        self, uri: str, received: Received, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        A loop that never yields overflows nothing either while nothing can be written.
        """
        delivery = make_delivery(uri, spool="/proc/eventlog", buffer_size=500)
        delivery.deliver(make_message(0))
        for number in range(1, 3000):
            delivery.accept(make_message(number))

        assert not undelivered.records
        assert list(range(3000)) == received.wait_for(3000)

    def test_silent_broker(
        self, proxied: str, proxy: Proxy, make_delivery: Make, undelivered: Lines
    ) -> None:
        """
        What is on its way to a broker that is silent is at risk as well, and a stop that is held
        up tells of it.
        """
        delivery = make_delivery(proxied, spool="/proc/eventlog")
        delivery.deliver(make_message())
        assert 0 == delivery._outbox.unpersisted_count
        proxy.frozen = True
        for number in range(10):
            delivery.accept(make_message(number))
        wait_until(lambda: delivery._relay._in_flight.sent == 10)
        for number in range(10, 20):
            delivery.accept(make_message(number))
        assert 20 == delivery._outbox.unpersisted_count

        delivery.expect_stop(0.1)
        wait_until(lambda: len(undelivered) == 20)
        assert list(range(20)) == [
            json.loads(one["body"])["number"] for one in undelivered.objects
        ]
        assert 20 == check_sum(delivery)["undelivered"]

    def test_files(self, nowhere: str, make_spooled: Make) -> None:
        """
        However large a spool may become, it has no more than some hundred files open.
        """
        before = open_files()
        delivery = make_spooled(nowhere, spool_max_bytes=64 << 30)
        assert delivery._outbox._spool._segment_bytes * 200 >= 64 << 30
        assert open_files() - before < 20


class TestGivenUp:
    def test_waiting_for_room(self, nowhere: str, make_spooled: Make) -> None:
        """
        A manual call that is ended while it waits for room was not accepted.
        """
        delivery = make_spooled(nowhere, spool_max_bytes=1)
        with pytest.raises(eventlet.Timeout), eventlet.Timeout(0.05):
            delivery.deliver(make_message())

        assert 0 == check_sum(delivery)["accepted"]

    def test_log_call(
        self,
        proxied: str,
        proxy: Proxy,
        make_spooled: Make,
        undelivered: Lines,
    ) -> None:
        """
        A log call that is ended while the relay makes room is undelivered by name.
        """
        proxy.frozen = True
        delivery = make_spooled(proxied, spool_max_bytes=2_000, start=False)
        while not undelivered.records:
            delivery.accept(make_message())
        undelivered.records.clear()
        delivery.start()
        with pytest.raises(eventlet.Timeout), eventlet.Timeout(0.05):
            delivery.accept(make_message())

        stats = check_sum(delivery)
        assert 2 == stats["undelivered"]
        assert 1 == len(undelivered)

    def test_kept_already(
        self,
        uri: str,
        received: Received,
        make_spooled: Make,
        said: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        One that is ended when its event log is on disk, by a log handler that takes long, has not
        taken it back.
        """
        monkeypatch.setattr(said, "emit", lambda record: eventlet.sleep(1))
        delivery = make_spooled(uri, start=False)
        delivery._outbox._log.add(logging.WARNING, "something")
        with pytest.raises(eventlet.Timeout), eventlet.Timeout(0.05):
            delivery.deliver(make_message(1))
        assert 1 == check_sum(delivery)["waiting"]
        delivery.start()

        assert [1] == received.wait_for(1)
        wait_until(settled(delivery))
        assert 1 == check_sum(delivery)["confirmed"]

    def test_written_meanwhile(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A manual call whose event log gets onto the disk while it waits returns: it is safe.
        """
        delivery = make_spooled(nowhere, buffer_size=2, confirm_timeout=0.5, start=False)
        for number in range(3):
            delivery.accept(make_message(number))
        (first,) = delivery._outbox.take(1)
        delivery._outbox.settle(first, delivery._ledger.confirmed)
        with monkeypatch.context() as full:
            full.setattr(segments._os, "pwrite", lambda fd, line, at: 0)
            call = eventlet.spawn(delivery.deliver, make_message(3))
            wait_until(lambda: delivery._outbox._tail)
        delivery.accept(make_message(4))
        call.wait()
        assert 4 == check_sum(delivery)["waiting"]
        delivery.stop(0)
        make_spooled(uri)

        assert set(range(1, 5)) <= set(received.wait_for(4))


class TestVanished:
    def test_not_adopted(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        said: Lines,
        quick: None,
    ) -> None:
        """
        What is written after the directory was removed is locked as before: nobody adopts it.
        """
        first = make_spooled(nowhere)
        first.accept(make_message(1))
        shutil.rmtree(tmp_path / "foo")
        wait_until(lambda: said.saying("was removed or replaced"))
        first.accept(make_message(2))
        second = make_spooled(uri)
        second.accept(make_message(3))

        assert [3] == received.wait_for(1)
        wait_until(settled(second))
        assert 1 == check_sum(second)["accepted"]
        assert 2 == check_sum(first)["waiting"]
        assert 1 == len(said.saying("was removed or replaced"))

    @pytest.mark.parametrize(
        "change",
        [
            "segment deleted",
            "segment replaced",
            "lock deleted",
            "lock replaced",
            "folder replaced",
        ],
    )
    def test_any_part(
        self,
        nowhere: str,
        make_spooled: Make,
        files: Any,
        said: Lines,
        quick: None,
        change: str,
    ) -> None:
        """
        A file or directory under a running spool that was deleted, or replaced by another of its
        name, is noticed by what it is; what comes then is written to a new directory.
        """
        delivery = make_spooled(nowhere)
        delivery.accept(make_message(1))
        (path,) = files()
        part, _, what = change.partition(" ")
        found = {"segment": path, "lock": path.parent / "lock", "folder": path.parent}[part]
        found.rename(aside := path.parent.parent.parent / "aside")
        if what == "replaced":
            (shutil.copytree if aside.is_dir() else shutil.copy)(aside, found)
        wait_until(lambda: said.saying("was removed or replaced"))
        delivery.accept(make_message(2))

        assert [2] == [
            number for one in files() if one.parent != path.parent for number in numbers(one)
        ]
        assert 2 == check_sum(delivery)["waiting"]


class TestLookedAfter:
    def test_handlers_that_raise(
        self,
        nowhere: str,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        said: Lines,
        quick: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        An error, and a log handler that raises about it, do not end the care for the disk.
        """

        def boom(*args: Any) -> None:
            calls.append(1)
            raise RuntimeError("boom")

        calls: list[int] = []
        delivery = make_spooled(nowhere)
        said.emit = boom  # type: ignore[method-assign]
        with monkeypatch.context() as failing:
            failing.setattr(directory_module.Directory, "is_in_place", boom)
            wait_until(lambda: len(calls) > 2)
        delivery.accept(make_message(1))
        shutil.rmtree(tmp_path / "foo")
        wait_until(lambda: delivery._outbox._spool._own.is_in_place())

    def test_interrupted(
        self,
        nowhere: str,
        make_spooled: Make,
        quick: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A signal handler that raises in the middle of the care for the disk does not end it.
        """

        def interrupt() -> None:
            calls.append(1)
            if len(calls) == 1:
                raise KeyboardInterrupt

        calls: list[int] = []
        delivery = make_spooled(nowhere)
        monkeypatch.setattr(delivery._outbox._spool, "replace_vanished", interrupt)
        with pytest.raises(KeyboardInterrupt):
            eventlet.sleep(5)
        wait_until(lambda: len(calls) > 2)

    def test_adoption_fails(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        monkeypatch: pytest.MonkeyPatch,
        said: Lines,
    ) -> None:
        """
        A dead process's file that the disk does not give back keeps no service from starting.
        """
        first = make_spooled(nowhere, start=False)
        first.accept(make_message(1))
        first.stop(0)

        def pread(fd: int, size: int, at: int) -> bytes:
            if at:
                raise OSError(errno.EIO, "Input/output error")
            return original(fd, size, at)

        original = segments._os.pread
        before = open_files()
        with monkeypatch.context() as failing:
            failing.setattr(segments._os, "pread", pread)
            second = make_spooled(nowhere)
        second.accept(make_message(2))
        second.stop(0)
        gc.collect()
        assert open_files() <= before + 2
        make_spooled(uri)
        assert [1, 2] == sorted(received.wait_for(2))


class TestCut:
    def test_while_it_runs(
        self,
        nowhere: str,
        make_spooled: Make,
        proxied: str,
        proxy: Proxy,
        received: Received,
        files: Any,
        said: Lines,
    ) -> None:
        """
        What is cut off a file under a running service is counted as undelivered.
        """
        proxy.refusing = True
        delivery = make_spooled(proxied, buffer_size=10)
        for number in range(100):
            delivery.accept(make_message(number))
        (path,) = files()
        os.truncate(path, path.stat().st_size // 2)
        for number in range(100, 110):
            delivery.accept(make_message(number))
        proxy.refusing = False
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        arrived = received.wait_for(stats["confirmed"])
        assert 110 == stats["accepted"] == stats["confirmed"] + stats["undelivered"]
        assert set(range(100, 110)) <= set(arrived)
        assert 45 < len(arrived) < 65

    def test_in_the_middle_of_a_line(
        self,
        proxied: str,
        proxy: Proxy,
        received: Received,
        make_spooled: Make,
        files: Any,
    ) -> None:
        """
        A file that ends in the middle of a line, where it did not before, is read to its end.
        """
        proxy.refusing = True
        delivery = make_spooled(proxied, buffer_size=10)
        for number in range(100):
            delivery.accept(make_message(number))
        (path,) = files()
        os.truncate(path, path.read_bytes().index(b'number\\": 50') + 3)
        proxy.refusing = False
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        assert (50, 50) == (stats["confirmed"], stats["undelivered"])
        assert list(range(50)) == received.wait_for(50)


class TestInterrupted:
    def test_finalizer(
        self,
        uri: str,
        received: Received,
        make_spooled: Make,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        What a finalizer logs in the middle of the reading and of the tidying arrives once.
        """
        delivery = make_spooled(uri, buffer_size=10, start=False)
        for number in range(50):
            delivery.accept(make_message(number))
        after: list[int] = []

        class Dying:
            def __del__(self) -> None:
                after.append(len(after))
                delivery.accept(make_message(1000 + after[-1]))

        def dying(original: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                if len(after) < 20:
                    Dying()
                result = original(*args, **kwargs)
                if len(after) < 20:
                    Dying()
                return result

            return call

        monkeypatch.setattr(lines, "decode", dying(lines.decode))
        for owner, name in ((directory_module.Directory, "tidy"), (segments.Segment, "read")):
            monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
        delivery.start()
        wait_until(lambda: settled(delivery)() and len(after) == 20)

        assert 70 == check_sum(delivery)["confirmed"]
        received.wait_for(70)
        assert 70 == len(received.ids)
        assert list(range(50)) == [number for number in received.numbers if number < 1000]

    def test_exception(
        self,
        nowhere: str,
        make_spooled: Make,
        files: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        An exception out of a signal handler, right after a line was written, shifts nothing.
        """

        def pwrite(fd: int, line: bytes, at: int) -> int:
            original(fd, line, at)
            raise SystemExit

        original = segments._os.pwrite
        delivery = make_spooled(nowhere, start=False)
        delivery.accept(make_message(1))
        with monkeypatch.context() as interrupted:
            interrupted.setattr(segments._os, "pwrite", pwrite)
            with pytest.raises(SystemExit):
                delivery.accept(make_message(2))
        for number in (3, 4):
            delivery.accept(make_message(number))

        (path,) = files()
        assert [1, 3, 4] == numbers(path)


class TestSync:
    def test_names(
        self,
        nowhere: str,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        quick: None,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A new file's name is put onto the disk as well, and each of several files written.
        """
        names, contents = [], []
        fsync, fdatasync = directory_module._os.fsync, segments._os.fdatasync

        def path_of(fd: int) -> str:
            return os.readlink(f"/proc/self/fd/{fd}")

        monkeypatch.setattr(
            directory_module._os, "fsync", lambda fd: (names.append(path_of(fd)), fsync(fd))
        )
        monkeypatch.setattr(
            segments._os, "fdatasync", lambda fd: (contents.append(path_of(fd)), fdatasync(fd))
        )
        delivery = make_spooled(nowhere, spool_max_bytes=50_000)
        for number in range(150):
            delivery.accept(make_message(number))
        written = {str(path) for path in (tmp_path / "foo").glob("*/*.jsonl")}
        assert len(written) > 4
        folders = {str(tmp_path / "foo"), str(pathlib.Path(min(written)).parent)}
        wait_until(lambda: set(names) == folders and set(contents) == written)

    def test_fails(
        self,
        nowhere: str,
        make_spooled: Make,
        files: Any,
        quick: None,
        said: Lines,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A disk that does not keep what it is given is said, once, and another file is tried.
        """

        def fail(fd: int) -> None:
            failed.append(fd)
            raise OSError(errno.EIO, "Input/output error")

        failed: list[int] = []
        monkeypatch.setattr(segments._os, "fdatasync", fail)
        delivery = make_spooled(nowhere)
        for number in range(3):
            delivery.accept(make_message(number))
            wait_until(lambda: delivery._outbox._spool._growing is None)
            assert number + 1 == len(failed)
        wait_until(lambda: said.saying("Input/output error"))

        assert [[0], [1], [2]] == [numbers(path) for path in files()]
        assert 1 == len(said.saying("cannot sync to the disk"))
        assert 3 == check_sum(delivery)["waiting"]


class TestOpened:
    def test_taken_for_a_dead_ones(
        self,
        nowhere: str,
        make_spooled: Make,
        said: Lines,
        files: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A directory that another process locks the moment it is made is left to it.
        """

        def mkdir(name: str, *args: Any, dir_fd: int | None = None) -> None:
            original(name, *args, dir_fd=dir_fd)
            if len(name) == 32 and len(others) < 2:
                lock = os.open(f"{name}/lock", os.O_RDWR | os.O_CREAT, dir_fd=dir_fd)
                fcntl.flock(lock, fcntl.LOCK_EX)
                others.append(lock)

        others: list[int] = []
        original = os.mkdir
        monkeypatch.setattr(os, "mkdir", mkdir)
        delivery = make_spooled(nowhere, start=False)
        delivery.accept(make_message(1))

        (path,) = files()
        assert [1] == numbers(path)
        assert not said.saying("cannot write to spool")
        assert 2 == len(others)
        for other in others:
            os.close(other)

    def test_somebody_elses(
        self,
        nowhere: str,
        tmp_path: pathlib.Path,
        make_spooled: Make,
        said: Lines,
        files: Any,
        quick: None,
    ) -> None:
        """
        What another user's process has left is said once, and harms nothing.
        """
        first = make_spooled(nowhere, start=False)
        first.accept(make_message(1))
        first.stop(0)
        left = files()[0].parent
        if os.geteuid() == 0:
            os.chown(left, 65534, 65534)
        else:
            left.chmod(0o777)
        second = make_spooled(nowhere)
        second.accept(make_message(2))
        wait_until(lambda: said.saying("cannot take over"))
        eventlet.sleep(0.1)
        assert 1 == len(said.saying("cannot take over"))
        assert 1 == check_sum(second)["accepted"]


class TestMany:
    def test_dead_ones(
        self,
        nowhere: str,
        uri: str,
        received: Received,
        make_spooled: Make,
        quick: None,
    ) -> None:
        """
        However many dead processes' spools there are, few of them are open at once.
        """
        for number in range(150):
            one = make_spooled(nowhere, start=False)
            one.accept(make_message(number))
            one.stop(0)
        before = open_files()
        delivery = make_spooled(uri)
        most = open_files() - before
        assert set(range(150)) == set(received.wait_for(150))
        wait_until(settled(delivery))
        assert 150 == check_sum(delivery)["confirmed"]
        assert most < 150
