"""
Calls to a disk that does not answer in time: a pipe stands for it, which is read from.
"""

from __future__ import annotations

import errno
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
from eventlet import patcher

from nameko_eventlog.delivery.spool import disk as disk_module
from nameko_eventlog.delivery.spool.disk import DiskThread, Stalled
from tests.waiting import wait_until


_os = patcher.original("os")


@pytest.fixture
def disk() -> Iterator[DiskThread]:
    """
    A thread for calls.
    """
    disk = DiskThread()
    yield disk
    disk.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """
    A pipe: what is read from, and what is written to.
    """
    reads, writes = os.pipe()
    yield reads, writes
    for fd in (reads, writes):
        os.close(fd)


class TestCall:
    def test_result(self, disk: DiskThread) -> None:
        """
        A call that ends in time returns what it returns, and raises what it raises.
        """
        assert [1, 2, 3] == [disk.call(lambda n=n: n) for n in (1, 2, 3)]
        with pytest.raises(FileNotFoundError):
            disk.call(lambda: _os.stat("/nowhere"))
        assert 4 == disk.call(lambda: 4)
        assert (False, 0) == (disk.is_stalled, disk.stalled_seconds)

    def test_stalled(self, disk: DiskThread, pipe: tuple[int, int]) -> None:
        """
        One that takes longer is given up, and so is each that would come after it; when it has
        returned, what comes late is handed on, and the disk is asked again.
        """
        reads, writes = pipe
        late: list[bytes] = []
        with pytest.raises(Stalled) as raised:
            disk.call(lambda: _os.read(reads, 10), late.append, 0.05)

        assert errno.ETIMEDOUT == raised.value.errno
        assert disk.is_stalled
        assert disk.stalled_seconds >= 0.05
        with pytest.raises(Stalled):
            disk.call(lambda: late.append(b"never"), seconds=0.01)
        os.write(writes, b"late")
        wait_until(lambda: not disk.is_stalled)
        assert [b"late"] == late
        stalled = disk.stalled_seconds
        assert stalled >= 0.05
        assert 5 == disk.call(lambda: 5)
        assert stalled == disk.stalled_seconds

    def test_returned_meanwhile(self, disk: DiskThread, pipe: tuple[int, int]) -> None:
        """
        A call waits a moment for one that was given up just before.
        """
        reads, writes = pipe
        with pytest.raises(Stalled):
            disk.call(lambda: _os.read(reads, 10), seconds=0.01)
        with pytest.raises(Stalled):
            disk.call(lambda: 0, seconds=0.2)
        os.write(writes, b"x")

        assert 6 == disk.call(lambda: 6, seconds=20)

    def test_late_failure(self, disk: DiskThread, pipe: tuple[int, int]) -> None:
        """
        What fails late, or cannot be handed on, was told of already.
        """
        reads, writes = pipe
        for broken in (False, True):

            def call(broken: bool = broken) -> bytes:
                found: bytes = _os.read(reads, 1)
                if broken:
                    raise OSError(errno.EIO, "broken")
                return found

            with pytest.raises(Stalled):
                disk.call(call, lambda _: 1 / 0, 0.01)
            os.write(writes, b"x")
            wait_until(lambda: not disk.is_stalled)

        assert 7 == disk.call(lambda: 7)

    def test_interrupted(self, disk: DiskThread, pipe: tuple[int, int]) -> None:
        """
        A caller whose waiting a signal handler ends has given its call up.
        """
        reads, writes = pipe
        late: list[bytes] = []
        waits = patcher.original("_thread").get_ident()

        def call() -> bytes:
            signal.pthread_kill(waits, signal.SIGUSR1)
            return bytes(_os.read(reads, 10))

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                disk.call(call, late.append, 20)
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert disk.is_stalled
        os.write(writes, b"late")
        wait_until(lambda: not disk.is_stalled)

        assert [b"late"] == late


class TestWrite:
    def test_where_it_belongs(self, disk: DiskThread, tmp_path: pathlib.Path) -> None:
        """
        A line is written where it belongs: by the thread, and directly within a moment after
        that, but not while the disk is being asked to keep what it was given.
        """
        with (tmp_path / "file").open("wb") as file:
            disk.write(file.fileno(), b"abc", 2)
            disk._proven_until = float("inf")
            disk.write(file.fileno(), b"de", 5)
            disk.is_syncing = True
            disk._proven_until = float("inf")
            disk.write(file.fileno(), b"f", 7)
            assert disk._proven_until < float("inf")

        assert b"\0\0abcdef" == (tmp_path / "file").read_bytes()

    def test_late(
        self,
        disk: DiskThread,
        pipe: tuple[int, int],
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """
        A write that comes late is cut off again.
        """
        reads, writes = pipe
        monkeypatch.setattr(disk_module, "PATIENCE", 0.05)

        class SlowOS:
            """
            Writes when the pipe has something.
            """

            ftruncate = _os.ftruncate

            @staticmethod
            def pwrite(fd: int, line: bytes, at: int) -> int:
                _os.read(reads, 1)
                return int(_os.pwrite(fd, line, at))

        with (tmp_path / "file").open("wb") as file:
            disk.write(file.fileno(), b"abc", 0)
            disk._proven_until = 0.0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(disk_module, "_os", SlowOS)
                with pytest.raises(Stalled):
                    disk.write(file.fileno(), b"late", 3)
                os.write(writes, b"x")
                wait_until(lambda: not disk.is_stalled)

        assert b"abc" == (tmp_path / "file").read_bytes()
