"""
A spool, without an outbox over it.
"""

from __future__ import annotations

import errno
import os
import pathlib
from collections import deque
from collections.abc import Iterator

import pytest

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import disk as disk_module
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import Directory
from nameko_eventlog.delivery.spool.segments import Segment
from nameko_eventlog.delivery.spool.spool import Spool
from nameko_eventlog.delivery.steps import in_one_step
from tests.delivery.conftest import make_message


@pytest.fixture
def log() -> DeferredLog:
    """
    What is to be logged.
    """
    return DeferredLog()


@pytest.fixture
def spool(
    tmp_path: pathlib.Path, log: DeferredLog, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Spool]:
    """
    A spool with a directory of its own; a busy machine does not count as a stalled disk.
    """
    monkeypatch.setattr(disk_module, "PATIENCE", 20)
    spool = Spool(str(tmp_path), "shop", 1 << 20, log)
    spool.open()
    yield spool
    spool.close()


@pytest.fixture
def directory(spool: Spool) -> Directory:
    """
    That directory.
    """
    assert spool._own is not None
    return spool._own


def write(spool: Spool, number: int, queue: deque[OutboxEntry] | None = None) -> OutboxEntry:
    """
    Write a message, which stays in memory if *queue* takes it.
    """
    message = make_message(number, message_id=f"id-{number}")
    assert (queue is not None) is spool.write(message, spool.encode(message), queue, iter(()))
    return message


def settle(spool: Spool, *messages: OutboxEntry) -> None:
    """
    Settle messages.
    """
    in_one_step(spool.settling(list(messages)))


def read_all(spool: Spool) -> list[str | None]:
    """
    Read all that waits: the message ids.
    """
    found: deque[OutboxEntry] = deque()
    before = -1
    while before < len(found):
        before = len(found)
        spool.read(found, Counter().ticks)
    return [message.message_id for message in found]


class TestWrite:
    def test_cut(self, spool: Spool, directory: Directory) -> None:
        """
        What was written and not kept is cut off, and what comes next stands in its place.
        """
        spool.cut()
        write(spool, 1)
        spool._append(spool.encode(make_message(2, message_id="id-2")))
        (path,) = directory.path.glob("*.jsonl")
        assert 3 == len(path.read_bytes().splitlines())
        spool.cut()
        assert 2 == len(path.read_bytes().splitlines())
        spool.cut()
        write(spool, 3)

        assert ["id-1", "id-3"] == read_all(spool)

    def test_locked(self, directory: Directory, log: DeferredLog) -> None:
        """
        A directory that is in use is not another's, and no file of it stays open.
        """
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            Directory(directory.path, log)

        assert before == len(os.listdir("/proc/self/fd"))

    def test_in_memory(self, spool: Spool) -> None:
        """
        A message stays in memory only if none before it is unread; what is unread is counted.
        """
        queue: deque[OutboxEntry] = deque()
        first = write(spool, 1, queue)
        assert ([first], 0) == (list(queue), spool.unread)
        write(spool, 2)
        third = make_message(3, message_id="id-3")
        assert not spool.write(third, spool.encode(third), queue, iter(()))

        assert ([first], 2) == (list(queue), spool.unread)
        assert ["id-2", "id-3"] == read_all(spool)
        assert 0 == spool.unread


class TestSize:
    def test_is_that_of_the_files(self, spool: Spool, directory: Directory) -> None:
        """
        The size is that of the files, whatever was written, settled and removed meanwhile.
        """
        spool._segment_bytes = 1_000
        queue: deque[OutboxEntry] = deque()
        for number in range(20):
            write(spool, number, queue)
            files = list(directory.path.glob("*.jsonl"))
            assert spool._size == sum(path.stat().st_size for path in files)
            if number == 10:
                settle(spool, *queue)
                spool.tidy()
        assert len(files) < 20 // 3
        settle(spool, *queue)
        spool.tidy(make_room=True)

        assert 0 == spool._size
        assert [] == list(directory.path.glob("*.jsonl"))

    def test_room(self, spool: Spool, directory: Directory) -> None:
        """
        It is full until what found no room has some; what never finds any does not count.
        """
        queue: deque[OutboxEntry] = deque()
        write(spool, 1, queue)
        assert (True, False) == (spool.has_room(1000), spool.is_full)
        assert (False, True) == (spool.has_room(1 << 20), spool.is_full)
        assert (False, False) == (spool.has_room((1 << 20) + 1), spool.is_full)
        settle(spool, *queue)
        assert (True, False) == (spool.has_room(1 << 20), spool.is_full)


class TestSync:
    def test_clean(self, spool: Spool, directory: Directory) -> None:
        """
        After what was written was put onto the disk there is nothing more to do, until more is
        written.
        """
        assert directory.is_dirty  # its name is new
        directory.sync()
        for number in range(2):
            assert not directory.is_dirty
            write(spool, number)
            assert directory.is_dirty
            directory.sync()
        assert not directory.is_dirty

    def test_removed(self, spool: Spool, directory: Directory) -> None:
        """
        A file that was settled and closed meanwhile is none that cannot be put onto the disk.
        """
        write(spool, 1)
        (segment,) = directory.segments
        segment.close()
        directory.sync()

        assert not directory.is_dirty
        directory.segments.clear()

    def test_fails(self, spool: Spool, directory: Directory) -> None:
        """
        A disk that fails is told of, after everything else was put onto it.
        """
        write(spool, 1)
        (segment,) = directory.segments
        reads, writes = os.pipe()  # cannot be put onto a disk
        os.close(reads)
        before = os.dup(segment.fd)
        os.dup2(writes, segment.fd)
        os.close(writes)
        try:
            with pytest.raises(OSError) as raised:
                directory.sync()
        finally:
            os.dup2(before, segment.fd)
            os.close(before)

        assert errno.EINVAL == raised.value.errno
        assert not directory.is_dirty


class TestRead:
    def test_unreadable(self, spool: Spool, directory: Directory, log: DeferredLog) -> None:
        """
        A file that cannot be read is left where it is, and what it holds is counted as lost; new
        event logs go into another one.
        """
        write(spool, 1)
        write(spool, 2)
        segment: Segment
        (segment,) = directory.segments
        other = os.open(directory.path, os.O_RDONLY)  # a directory has nothing that is read
        os.dup2(other, segment.fd)
        os.close(other)

        lost = Counter()
        spool.read(deque(), lost.ticks)

        assert 2 == lost.value
        assert not directory.segments
        write(spool, 3)
        assert ["id-3"] == read_all(spool)
        assert 2 == len(list(directory.path.glob("*.jsonl")))
        assert [True] == [text.startswith("cannot read spool file") for _, text, _ in log._lines]
