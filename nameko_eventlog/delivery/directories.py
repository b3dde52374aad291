"""
One process's part of a spool: its segments, how far they are settled, and the lock on them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import shutil
from collections import deque
from zlib import crc32

import eventlet
from eventlet import patcher

from nameko_eventlog.delivery.message import Message
from nameko_eventlog.delivery.news import News
from nameko_eventlog.delivery.segments import SUFFIX, Segment, read_position


_os = patcher.original("os")

SEGMENT_BYTES = 8 << 20
"""From which size on a segment is followed by another."""

CORRUPT = "corrupt"
"""The directory of a service that keeps what is no message."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the operating system says of a full disk."""

_LOCK = "lock"
_POSITION = "position"


class Directory:
    """
    One process's part of a spool.

    Args:
        path: Where.
        service: The service's name.
        news: Takes what is to be said.
        segment_bytes: From which size on a segment is followed by another.

    Raises:
        BlockingIOError: If another process has it.
        OSError: If it cannot be used.
    """

    def __init__(
        self,
        path: pathlib.Path,
        service: str,
        news: News,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.path = path
        self._service = service
        self._news = news
        self.segments: deque[Segment] = deque()
        self.unread = 0
        self._number = 0
        self._growing: Segment | None = None
        self._position_fd = -1
        self._said_position: tuple[str, int] | None = None
        self._segment_bytes = segment_bytes
        self._is_new = True  # not known to be on the disk
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (path / _LOCK).exists():  # who had it before has just removed it
                raise BlockingIOError(errno.EWOULDBLOCK, "removed meanwhile", str(path))
        except OSError:
            _os.close(self._lock)
            raise

    def load(self) -> int:
        """
        Find what an earlier process has left.

        Returns:
            How many event logs, the corrupt ones among them.
        """
        name, offset = self._read_position()
        for path in sorted(self.path.glob(f"*{SUFFIX}")):
            segment = None
            try:
                segment = Segment(path)
                if segment.is_known:
                    if path.name == name:
                        segment.read_up_to = max(segment.first, min(offset, segment.written))
                    self.unread += segment.count()
                    self.segments.append(segment)
                    eventlet.sleep(0)
                    continue
                self._say(
                    "the spool's file %s is of a later version; it is left there",
                    path,
                )
            except OSError as exc:
                self._say(
                    "the spool's file %s cannot be read: %s; it is left there",
                    path,
                    exc,
                )
            if segment is not None:
                segment.close()
        return self.unread

    @property
    def files(self) -> int:
        """
        About how many files it has open.
        """
        return 2 + len(self.segments)

    @property
    def size(self) -> int:
        """
        How large its segments are, in bytes.
        """
        return sum(segment.written for segment in self.segments)

    def append(self, line: bytes) -> tuple[Segment, int]:
        """
        Write a line.

        Returns:
            Where it is.

        Raises:
            OSError: If it cannot be written.
        """
        segment = self._growing
        if segment is None or segment.written >= self._segment_bytes:
            segment = self._grow()
        try:
            return segment, segment.append(line)
        except OSError as exc:
            if exc.errno not in FULL:  # a full disk empties; anything else wants another file
                self.finish()
            raise

    def leave(self, segment: Segment) -> None:
        """
        Count what was appended to *segment* as not in memory.
        """
        segment.unread += 1
        self.unread += 1

    def read(self) -> tuple[list[Message], int]:
        """
        Read on, some at a time, in the order of writing.

        What is no message is set aside; a segment that cannot be read is left where it is.

        Returns:
            Messages, and how many event logs were found to be lost.
        """
        for segment in self.segments:
            if not segment.has_unread:
                continue
            before = segment.unread
            corrupt: list[bytes] = []
            try:
                found = segment.read(corrupt.append)
            except OSError as exc:
                self._give_up(segment, exc)
                self.unread -= before
                return [], before
            if corrupt:
                self._set_aside(segment, corrupt)
            lost = segment.take_lost()
            if lost and not corrupt:
                self._say(
                    "%d event logs of the spool's file %s are not there any more: counted as"
                    " undelivered",
                    lost,
                    segment.path,
                )
            self.unread -= before - segment.unread
            for start, message in found:
                message.place = segment, start
            return [message for _, message in found], lost
        return [], 0

    def _grow(self) -> Segment:
        self.finish()
        self._number += 1
        path = self.path / f"{self._number:08d}{SUFFIX}"
        self._growing = Segment(path, is_new=True, service=self._service)
        self._is_new = True
        self.segments.append(self._growing)
        return self._growing

    def finish(self) -> None:
        """
        Write to another segment from now on.
        """
        if self._growing is not None:
            self._growing.is_growing = False
            self._growing = None

    def is_there(self) -> bool:
        """
        Tell whether it, and what is written, is still to be found under its name.
        """
        try:
            growing = self._growing
            return _is_at(self._lock, self.path / _LOCK) and (
                growing is None or _is_at(growing.fd, growing.path)
            )
        except OSError:
            return False

    def _give_up(self, segment: Segment, exc: OSError) -> None:
        if segment is self._growing:
            self.finish()
        self.segments.remove(segment)
        segment.close()
        self._say(
            "the spool's file %s cannot be read (%s); it is left there, and what it holds counted"
            " as undelivered",
            segment.path,
            exc,
        )

    def tidy(self, is_full: bool = False) -> None:
        """
        Remove what is settled, and note how far that is.

        Args:
            is_full: Whether room is needed, if there is but what is settled in a small segment.
        """
        growing = self._growing
        if (
            growing is not None
            and growing.is_settled
            and (is_full or growing.written >= self._segment_bytes)
        ):
            self.finish()
        while self.segments and self.segments[0].is_done:
            segment = self.segments.popleft()
            segment.close()
            with contextlib.suppress(OSError):
                segment.path.unlink()
        if self.segments:
            first = self.segments[0]
            position = first.path.name, first.settled_up_to
            if position != self._said_position:
                self._said_position = position
                self._write_position(*position)

    def _say(self, text: str, *values: object) -> None:
        self._news.add(logging.ERROR, text, *values)

    def _write_position(self, name: str, offset: int) -> None:
        with contextlib.suppress(OSError):  # it saves repetitions, nothing else
            if self._position_fd < 0:
                self._position_fd = _os.open(
                    self.path / _POSITION, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
            line = f"{name} {offset:020d}"
            _os.pwrite(self._position_fd, f"{line} {crc32(line.encode()):08x}\n".encode(), 0)

    def _read_position(self) -> tuple[str, int]:
        try:
            return read_position((self.path / _POSITION).read_text())
        except (OSError, ValueError):
            return "", 0

    @property
    def is_dirty(self) -> bool:
        """
        Whether something was written that was not put onto the disk.
        """
        return self._is_new or any(segment.is_dirty for segment in list(self.segments))

    def sync(self) -> None:
        """
        Put onto the disk what was written; called in an OS thread of its own.

        Raises:
            OSError: If that fails; what is on the disk is not known then.
        """
        failure: OSError | None = None
        for segment in [one for one in list(self.segments) if one.is_dirty]:
            try:
                segment.sync()
            except OSError as exc:
                if segment.fd >= 0:  # it was not settled and removed meanwhile
                    failure = exc
        if self._is_new:
            self._is_new = False
            try:
                for path in (self.path, self.path.parent):  # the names are in these
                    _sync_directory(path)
            except OSError as exc:
                failure = exc
        if failure is not None:
            raise failure

    def _set_aside(self, segment: Segment, lines: list[bytes]) -> None:
        """
        Keep lines that are no messages where an operator finds them.
        """
        path = self.path.parent / CORRUPT / f"{self.path.name}-{segment.path.name}"
        kept = f"kept in {path}"
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(path, "ab", opener=_private) as file:
                file.writelines(line + b"\n" for line in lines)
        except OSError as exc:
            kept = f"gone, for {path} cannot be written ({exc})"
        if not segment.is_said_corrupt:
            segment.is_said_corrupt = True
            self._say(
                "lines of the spool's file %s are not what was written; they are %s, and counted"
                " as undelivered (said once)",
                segment.path,
                kept,
            )

    def close(self, is_parents: bool = False) -> None:
        """
        Let go of it, and remove it if nothing is left in it.

        Args:
            is_parents: Whether it is another process's, that has forked this one.
        """
        if not is_parents:
            self.finish()
            self.tidy()
        is_ours = not is_parents and self.is_there()
        left = bool(self.segments)
        for segment in self.segments:
            segment.close()
        self.segments.clear()
        if self._position_fd >= 0:
            _os.close(self._position_fd)
            self._position_fd = -1
        if is_ours and not left and not list(self.path.glob(f"*{SUFFIX}")):
            shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _os.close(lock)


def _private(path: str, flags: int) -> int:
    fd: int = _os.open(path, flags | os.O_CLOEXEC, 0o600)
    return fd


def _is_at(fd: int, path: pathlib.Path) -> bool:
    ours, there = os.fstat(fd), os.stat(path)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _sync_directory(path: pathlib.Path) -> None:
    fd = _os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _os.fsync(fd)
    finally:
        _os.close(fd)
