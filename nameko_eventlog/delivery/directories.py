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

from nameko_eventlog.delivery.segments import SUFFIX, Segment


_log = logging.getLogger("nameko_eventlog")
_os = patcher.original("os")

SEGMENT_BYTES = 8 << 20
"""From which size on a segment is followed by another."""

CORRUPT = "corrupt"
"""The directory of a service that keeps what is no message."""

_LOCK = "lock"
_POSITION = "position"


class Directory:
    """
    One process's part of a spool.

    Args:
        path: Where.
        service: The service's name.

    Raises:
        BlockingIOError: If another process has it.
        OSError: If it cannot be used.
    """

    def __init__(self, path: pathlib.Path, service: str) -> None:
        self.path = path
        self._service = service
        self.segments: deque[Segment] = deque()
        self.unread = 0
        self._number = 0
        self._growing: Segment | None = None
        self._position_fd = -1
        self._said_position: tuple[str, int] | None = None
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
            try:
                segment = Segment(path)
            except OSError as exc:
                _log.error("the spool's file %s cannot be read: %s; it is left there", path, exc)
                continue
            if not segment.is_known:
                _log.error("the spool's file %s is of a later version; it is left there", path)
                segment.close()
                continue
            if path.name == name:
                segment.read_up_to = max(segment.first, min(offset, segment.written))
            self.unread += segment.count()
            self.segments.append(segment)
            eventlet.sleep(0)
        return self.unread

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
        if segment is None or segment.written >= SEGMENT_BYTES:
            segment = self._grow()
        try:
            return segment, segment.append(line)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:  # a full disk empties; anything else wants another file
                self._finish()
            raise

    def _grow(self) -> Segment:
        self._finish()
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number += 1
        path = self.path / f"{self._number:08d}{SUFFIX}"
        self._growing = Segment(path, is_new=True, service=self._service)
        self.segments.append(self._growing)
        return self._growing

    def _finish(self) -> None:
        if self._growing is not None:
            self._growing.is_growing = False
            self._growing = None

    def is_there(self) -> bool:
        """
        Tell whether what is written is still to be found under its name.
        """
        growing = self._growing
        if growing is None:
            return True
        try:
            return os.stat(growing.path).st_ino == os.fstat(growing.fd).st_ino
        except OSError:
            return False

    def begin_anew(self) -> None:
        """
        Write to another file from now on.
        """
        self._finish()

    def forget(self, segment: Segment) -> None:
        """
        Leave a segment where it is.
        """
        if segment is self._growing:
            self._finish()
        self.segments.remove(segment)
        segment.close()

    def tidy(self) -> None:
        """
        Remove what is settled, and note how far that is.
        """
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
            line, _, checksum = (self.path / _POSITION).read_text().rstrip("\n").rpartition(" ")
            if f"{crc32(line.encode()):08x}" != checksum:
                return "", 0
            name, offset = line.split()
            return name, int(offset)
        except (OSError, ValueError):
            return "", 0

    def sync(self) -> None:
        """
        Put onto the disk what was written; called in an OS thread of its own.
        """
        for segment in list(self.segments)[-2:]:
            with contextlib.suppress(OSError):
                fd = os.dup(segment.fd)
                try:
                    _os.fdatasync(fd)
                finally:
                    _os.close(fd)

    def set_aside(self, segment: Segment, line: bytes) -> pathlib.Path:
        """
        Keep a line that is no message where an operator finds it.
        """
        path = self.path.parent / CORRUPT / f"{self.path.name}-{segment.path.name}"
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            fd = _os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _os.write(fd, line + b"\n")
            finally:
                _os.close(fd)
        return path

    def close(self, is_parents: bool = False) -> None:
        """
        Let go of it, and remove it if nothing is left in it.

        Args:
            is_parents: Whether it is another process's, that has forked this one.
        """
        if not is_parents:
            self._finish()
            self.tidy()
        left = bool(self.segments)
        for segment in self.segments:
            segment.close()
        self.segments.clear()
        if self._position_fd >= 0:
            _os.close(self._position_fd)
            self._position_fd = -1
        if not is_parents and not left and not list(self.path.glob(f"*{SUFFIX}")):
            shutil.rmtree(self.path, ignore_errors=True)
        lock, self._lock = self._lock, -1
        if lock >= 0:
            _os.close(lock)
