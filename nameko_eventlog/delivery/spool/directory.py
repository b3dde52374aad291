"""
One process's part of a spool: its segments, how far they are settled, and the lock on them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
import pathlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from zlib import crc32

import eventlet
from eventlet import patcher

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.disk import DiskThread, Stalled
from nameko_eventlog.delivery.spool.segments import SUFFIX, Segment, read_position
from nameko_eventlog.delivery.steps import in_one_step


_os = patcher.original("os")

SEGMENT_BYTES = 8 << 20
"""From which size on a segment is followed by another."""

CORRUPT = "corrupt"
"""The directory of a service that keeps what is no message."""

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the operating system says of a full disk."""

LOCK = "lock"
POSITION = "position"


class Directory:
    """
    One process's part of a spool.

    Args:
        path: Where.
        service: The service's name.
        news: Takes what is to be said.
        segment_bytes: From which size on a segment is followed by another.
        disk: Makes the calls that may have to wait, if there is one.

    Raises:
        BlockingIOError: If another process has it.
        OSError: If it cannot be used.
    """

    _fd = _lock = _position_fd = -1

    def __init__(
        self,
        path: pathlib.Path,
        service: str,
        news: DeferredLog,
        segment_bytes: int = SEGMENT_BYTES,
        disk: DiskThread | None = None,
    ) -> None:
        self.path = path
        self._service = service
        self._news = news
        self.segments: deque[Segment] = deque()
        self._number = 0
        self._growing: Segment | None = None
        self._said_position: tuple[str, int] | None = None
        self._segment_bytes = segment_bytes
        self._disk = disk
        self._is_new = True  # not known to be on the disk
        with private_files.closing(private_files.open_service(path.parent, make=True)) as parent:
            self._fd = private_files.open_directory(parent, path, make=True)
        try:
            self._lock = private_files.open_file(self._fd, path / LOCK, os.O_RDWR, make=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_in(self._fd, LOCK, self._lock):  # who had it before has just removed it
                raise BlockingIOError(errno.EWOULDBLOCK, "removed meanwhile", str(path))
        except BaseException:  # a signal handler's among them
            self._close_files()
            raise

    def load(self) -> int:
        """
        Find what an earlier process has left.

        Returns:
            How many event logs, the corrupt ones among them.
        """
        settled, offset = self._read_position()
        for name in self._segment_names():
            path = self.path / name
            segment = None
            try:
                segment = Segment(self._fd, path)
                if segment.is_known:
                    if name == settled:
                        segment.read_up_to = max(segment.first, min(offset, segment.written))
                    segment.count()
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
        return 3 + len(self.segments)

    @property
    def size(self) -> int:
        """
        How large its segments are, in bytes.
        """
        return sum(segment.written for segment in self.segments)

    @property
    def unread(self) -> int:
        """
        How many event logs are not in memory.
        """
        return sum(segment.unread for segment in self.segments)

    def append(self, line: bytes) -> tuple[Segment, int]:
        """
        Write a line; it is not kept before `Segment.keep` or `Segment.leave` is called.

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
            # a full disk empties, a stalled one goes on; anything else wants another file
            if exc.errno not in FULL and not isinstance(exc, Stalled):
                self.finish()
            raise

    def cut(self) -> None:
        """
        Cut off what was written and not kept.

        Raises:
            OSError: If it cannot be.
        """
        if self._growing is not None:
            self._call(self._growing.cut)

    def read(self, into: deque[OutboxEntry], lost: Iterator[object]) -> None:
        """
        Read on, some at a time, in the order of writing.

        What is no message is set aside; a segment that cannot be read is left where it is.

        Args:
            into: Where to append the messages.
            lost: A step of it is taken for each event log that was found to be lost.
        """
        for segment in self.segments:
            if not segment.has_unread:
                continue
            try:
                missing = segment.read(into, lost, functools.partial(self._set_aside, segment))
            except Stalled:
                raise
            except OSError as exc:
                self._give_up(segment, exc, lost)
                return
            if missing and not segment.is_said_corrupt:
                self._say(
                    "%d event logs of the spool's file %s are not there any more: counted as"
                    " undelivered",
                    missing,
                    segment.path,
                )
            return

    def _grow(self) -> Segment:
        self.finish()
        self._number += 1
        path = self.path / f"{self._number:08d}{SUFFIX}"
        self._growing = self._call(
            lambda: Segment(self._fd, path, is_new=True, service=self._service), self._discard
        )
        self._growing.disk = self._disk
        self._is_new = True
        self.segments.append(self._growing)
        return self._growing

    def _call(self, call: Callable[[], Any], on_late: Callable[[Any], object] = bool) -> Any:
        return call() if self._disk is None else self._disk.call(call, on_late)

    def _discard(self, segment: Segment) -> None:
        segment.close()
        os.unlink(segment.path.name, dir_fd=self._fd)

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
        growing = self._growing
        try:
            with (
                private_files.closing(private_files.open_service(self.path.parent)) as parent,
                private_files.closing(private_files.open_directory(parent, self.path)) as fd,
            ):
                return _is_in(fd, LOCK, self._lock) and (
                    growing is None or _is_in(fd, growing.path.name, growing.fd)
                )
        except OSError:
            return False

    def _segment_names(self) -> list[str]:
        return sorted(name for name in os.listdir(self._fd) if name.endswith(SUFFIX))

    def _give_up(self, segment: Segment, exc: OSError, lost: Iterator[object]) -> None:
        if segment is self._growing:
            self.finish()
        in_one_step(map(self.segments.remove, (segment,)), islice(lost, segment.unread))
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
            segment = self.segments[0]
            name = segment.path.name
            with contextlib.suppress(OSError):
                self._call(functools.partial(os.unlink, name, dir_fd=self._fd))
            self.segments.popleft()
            segment.close()
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
                self._position_fd = self._call(
                    lambda: private_files.open_file(
                        self._fd, self.path / POSITION, os.O_RDWR, make=True
                    ),
                    _os.close,
                )
            line = f"{name} {offset:020d}"
            line = f"{line} {crc32(line.encode()):08x}\n"
            self._call(lambda: _os.pwrite(self._position_fd, line.encode(), 0))

    def _read_position(self) -> tuple[str, int]:
        try:
            return read_position(read_position_file(self._fd, self.path))
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
                with private_files.closing(self._open_parent()) as parent:
                    for fd in (self._fd, parent):  # the names are in these
                        _os.fsync(fd)
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
            with (
                private_files.closing(self._open_parent()) as parent,
                private_files.closing(
                    private_files.open_directory(parent, path.parent, make=True)
                ) as fd,
                open(
                    private_files.open_file(fd, path, os.O_WRONLY | os.O_APPEND, make=True), "ab"
                ) as file,
            ):
                file.writelines(line + b"\n" for line in lines)
        except OSError as exc:
            kept = f"gone, for {path} cannot be written ({exc})"
        if not segment.is_said_corrupt:
            segment.is_said_corrupt = True
            self._say(
                "lines of the spool's file %s are not what was written; they are %s, and counted"
                " as undelivered (logged once)",
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
        if is_ours and not left:
            self._remove()
        self._close_files()

    def _remove(self) -> None:
        """
        Remove what is known in the directory, and the directory if that was all.
        """
        with contextlib.suppress(OSError):
            if self._segment_names():
                return
            for name in (POSITION, LOCK):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._fd)
            with private_files.closing(self._open_parent()) as parent:
                if _is_in(parent, self.path.name, self._fd):
                    os.rmdir(self.path.name, dir_fd=parent)

    def __del__(self) -> None:
        # an exception out of a signal handler has left nobody who holds it, maybe: its lock
        # would keep others from it as long as the process lives
        self._close_files()

    def _close_files(self) -> None:
        for name in ("_position_fd", "_lock", "_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                in_one_step(map(setattr, (self,), (name,), (-1,)), map(_os.close, (fd,)))

    def _open_parent(self) -> int:
        """
        Open the service's directory, wherever this one is by now.
        """
        return private_files.open_directory(self._fd, self.path / os.pardir)


def read_position_file(directory: int, path: pathlib.Path, owner: int | None = None) -> str:
    """
    Return what a process's directory says of how far it is settled.

    Args:
        directory: The directory, open.
        path: Where it is.
        owner: Whose it has to be; by default this user's.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no text.
    """
    fd = private_files.open_file(directory, path / POSITION, os.O_RDONLY, owner=owner)
    with private_files.closing(fd):
        return bytes(_os.pread(fd, 4096, 0)).decode()


def _is_in(directory: int, name: str, fd: int) -> bool:
    """
    Tell whether the file that is open as *fd* has *name* in *directory*.
    """
    try:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
