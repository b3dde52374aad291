"""
A process's directory in a spool, without an outbox over it.
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
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import Directory
from nameko_eventlog.delivery.spool.segments import encode
from tests.delivery.conftest import make_message


@pytest.fixture
def news() -> DeferredLog:
    """
    What is to be logged.
    """
    return DeferredLog()


@pytest.fixture
def directory(tmp_path: pathlib.Path, news: DeferredLog) -> Iterator[Directory]:
    """
    A new directory.
    """
    directory = Directory(tmp_path / "shop" / "one", "shop", news)
    yield directory
    directory.close()


def line_of(number: int) -> bytes:
    """
    Make a line that holds an event log.
    """
    message = make_message(number)
    message.message_id = f"id-{number}"
    return encode(message)


def keep(directory: Directory, line: bytes) -> None:
    """
    Write a line, as one that is not in memory.
    """
    segment, start = directory.append(line)
    segment.leave(start + len(line))


def read_all(directory: Directory) -> list[str | None]:
    """
    Read all that waits: the message ids.
    """
    found: deque[OutboxEntry] = deque()
    before = -1
    while before < len(found):
        before = len(found)
        directory.read(found, Counter().ticks)
    return [message.message_id for message in found]


class TestAppend:
    def test_cut(self, directory: Directory) -> None:
        """
        What was written and not kept is cut off, and what comes next stands in its place.
        """
        directory.cut()
        keep(directory, line_of(1))
        directory.append(line_of(2))
        (path,) = directory.path.glob("*.jsonl")
        assert 3 == len(path.read_bytes().splitlines())
        directory.cut()
        assert 2 == len(path.read_bytes().splitlines())
        directory.cut()
        keep(directory, line_of(3))

        assert ["id-1", "id-3"] == read_all(directory)

    def test_locked(self, directory: Directory, news: DeferredLog) -> None:
        """
        A directory that is in use is not another's, and no file of it stays open.
        """
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            Directory(directory.path, "shop", news)

        assert before == len(os.listdir("/proc/self/fd"))


class TestSync:
    def test_clean(self, directory: Directory) -> None:
        """
        After what was written was put onto the disk there is nothing more to do, until more is
        written.
        """
        assert directory.is_dirty  # its name is new
        directory.sync()
        for number in range(2):
            assert not directory.is_dirty
            keep(directory, line_of(number))
            assert directory.is_dirty
            directory.sync()
        assert not directory.is_dirty

    def test_removed(self, directory: Directory) -> None:
        """
        A file that was settled and closed meanwhile is none that cannot be put onto the disk.
        """
        keep(directory, line_of(1))
        (segment,) = directory.segments
        segment.close()
        directory.sync()

        assert not directory.is_dirty
        directory.segments.clear()

    def test_fails(self, directory: Directory) -> None:
        """
        A disk that fails is told of, after everything else was put onto it.
        """
        keep(directory, line_of(1))
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
    def test_unreadable(self, directory: Directory, news: DeferredLog) -> None:
        """
        A file that cannot be read is left where it is, and what it holds is counted as lost; new
        event logs go into another one.
        """
        keep(directory, line_of(1))
        keep(directory, line_of(2))
        (segment,) = directory.segments
        other = os.open(directory.path, os.O_RDONLY)  # a directory has nothing that is read
        os.dup2(other, segment.fd)
        os.close(other)

        lost = Counter()
        directory.read(deque(), lost.ticks)

        assert 2 == lost.value
        assert not directory.segments
        keep(directory, line_of(3))
        assert ["id-3"] == read_all(directory)
        assert 2 == len(list(directory.path.glob("*.jsonl")))
        assert [True] == ["cannot be read" in text for _, text, _ in news._lines]
