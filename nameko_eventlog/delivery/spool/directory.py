"""
One process's directory in a spool: its lock, its segments, and the position up to which it is
settled.
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
from collections.abc import Callable
from typing import Any
from zlib import crc32

import eventlet
from eventlet import patcher

from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.disk import DiskThread, write_whole
from nameko_eventlog.delivery.spool.lines import encode_header
from nameko_eventlog.delivery.spool.segments import Segment
from nameko_eventlog.delivery.steps import in_one_step


_os = patcher.original("os")

LOCK = "lock"
POSITION = "position"
SUFFIX = ".jsonl"

CORRUPT = "corrupt"
"""The directory of a service that keeps corrupt lines."""


def directory_name(service: str) -> str:
    """
    Return the name of a service's directory in a spool.
    """
    name = service.replace(os.sep, "%2F")
    return name if name.strip(".") else name.replace(".", "%2E")


def service_name(directory: str) -> str:
    """
    Return the name of the service that a directory in a spool belongs to.
    """
    name = directory.replace("%2F", os.sep)
    return name if name.replace("%2E", "") else name.replace("%2E", ".")


def segment_names(fd: int) -> list[str]:
    """
    Return the names of the segments in an open directory, in order.
    """
    return sorted(name for name in os.listdir(fd) if name.endswith(SUFFIX))


def read_position(fd: int, path: pathlib.Path, owner: int | None = None) -> tuple[str, int]:
    """
    Return up to where a directory is settled: a segment's name, and the offset in it.

    If that cannot be read, or is not what was written, nothing is settled.

    Args:
        fd: The directory, open.
        path: Where it is.
        owner: The user it has to belong to; by default this one.
    """
    try:
        file = private_files.open_file(fd, path / POSITION, os.O_RDONLY, owner=owner)
        with private_files.closing(file):
            line = bytes(_os.pread(file, 4096, 0)).decode()
    except (OSError, ValueError):
        return "", 0
    text, _, checksum = line.rstrip("\n").rpartition(" ")
    name, _, offset = text.partition(" ")
    if f"{crc32(text.encode()):08x}" != checksum or not offset.isdecimal():
        return "", 0
    return name, int(offset)


class Directory:
    """
    A process's directory, locked.

    Args:
        path: Where it is.
        log: Takes log lines.
        disk: Limits the time of its calls, if given.

    Raises:
        BlockingIOError: If another process has locked it.
        OSError: If it cannot be used.
    """

    _fd = _lock = _position_fd = -1

    def __init__(
        self, path: pathlib.Path, log: DeferredLog, disk: DiskThread | None = None
    ) -> None:
        self.path = path
        self._log = log
        self.disk = disk
        self.segments: deque[Segment] = deque()
        self._number = 0
        self._position: tuple[str, int] | None = None
        self._is_new = True  # its names are not known to be on the disk
        with private_files.closing(private_files.open_service(path.parent, make=True)) as parent:
            self._fd = private_files.open_directory(parent, path, make=True)
        try:
            self._lock = private_files.open_file(self._fd, path / LOCK, os.O_RDWR, make=True)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_in(self._fd, LOCK, self._lock):  # its owner has just removed it
                raise BlockingIOError(errno.EWOULDBLOCK, "removed meanwhile", str(path))
        except BaseException:  # including a signal handler's
            self._close_files()
            raise

    def load(self) -> bool:
        """
        Open the segments that a dead process has left, and tell whether anything is unread.
        """
        settled, offset = read_position(self._fd, self.path)
        for name in segment_names(self._fd):
            path = self.path / name
            segment = None
            try:
                segment = Segment(path, private_files.open_file(self._fd, path, os.O_RDWR))
                if segment.is_known:
                    if name == settled:
                        segment.read_up_to = max(segment.first, min(offset, segment.written))
                    segment.count()
                    self.segments.append(segment)
                    eventlet.sleep(0)
                    continue
                self._log_error("spool file %s has a later format; it is left there", path)
            except OSError as exc:
                self._log_error("cannot read spool file %s (%s); it is left there", path, exc)
            if segment is not None:
                segment.close()
        return any(segment.unread for segment in self.segments)

    def make_segment(self, service: str) -> Segment:
        """
        Make the next segment.

        Raises:
            OSError: If that fails.
        """
        self._number += 1
        path = self.path / f"{self._number:08d}{SUFFIX}"

        def make() -> Segment:
            fd = private_files.make_file(self._fd, path, os.O_RDWR)
            try:
                write_whole(fd, encode_header(service), 0)
            except OSError:
                _os.close(fd)
                os.unlink(path.name, dir_fd=self._fd)
                raise
            return Segment(path, fd)

        def discard(segment: Segment) -> None:
            segment.close()
            os.unlink(path.name, dir_fd=self._fd)

        segment: Segment = self._call(make, discard)
        self._is_new = True
        self.segments.append(segment)
        return segment

    def _call(self, call: Callable[[], Any], on_late: Callable[[Any], object] = bool) -> Any:
        return call() if self.disk is None else self.disk.call(call, on_late)

    def is_in_place(self, growing: Segment | None = None) -> bool:
        """
        Tell whether it, its lock and the growing segment are still found under their names.
        """
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

    def tidy(self, growing: Segment | None = None) -> None:
        """
        Remove the segments that are settled, and note the position.

        Args:
            growing: The segment that is written to, which stays.
        """
        while self.segments:
            segment = self.segments[0]
            if segment is growing or not segment.is_settled:
                break
            with contextlib.suppress(OSError):
                self._call(functools.partial(os.unlink, segment.path.name, dir_fd=self._fd))
            self.segments.popleft()
            segment.close()
        if self.segments:
            position = self.segments[0].path.name, self.segments[0].settled_up_to
            if position != self._position:
                self._position = position
                with contextlib.suppress(OSError):  # without it, more is published twice
                    self._write_position(*position)

    def _write_position(self, name: str, offset: int) -> None:
        if self._position_fd < 0:
            path = self.path / POSITION
            self._position_fd = self._call(
                lambda: private_files.open_file(self._fd, path, os.O_RDWR, make=True), _os.close
            )
        text = f"{name} {offset:020d}"
        line = f"{text} {crc32(text.encode()):08x}\n".encode()
        self._call(lambda: _os.pwrite(self._position_fd, line, 0))

    @property
    def is_dirty(self) -> bool:
        """
        Whether something was written since the last sync.
        """
        return self._is_new or any(segment.is_dirty for segment in list(self.segments))

    def sync(self) -> None:
        """
        Write its files and their names to the disk; called in an OS thread of its own.

        Raises:
            OSError: If that fails; it is unknown then what is on the disk.
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
                    for fd in (self._fd, parent):  # they hold the names
                        _os.fsync(fd)
            except OSError as exc:
                failure = exc
        if failure is not None:
            raise failure

    def set_aside(self, segment: Segment, lines: list[bytes]) -> None:
        """
        Keep corrupt lines of a segment where an operator finds them.
        """
        path = self.path.parent / CORRUPT / f"{self.path.name}-{segment.path.name}"
        outcome = f"kept in {path}"
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
            outcome = f"lost, because {path} cannot be written ({exc}),"
        if not segment.corruption_logged:
            segment.corruption_logged = True
            self._log_error(
                "spool file %s has corrupt lines: they are %s and counted as undelivered"
                " (logged once)",
                segment.path,
                outcome,
            )

    def _log_error(self, text: str, *values: object) -> None:
        self._log.add(logging.ERROR, text, *values)

    def close(self) -> None:
        """
        Remove what is settled, the directory if that is all, and close it.
        """
        self.tidy()
        if not self.segments and self.is_in_place():
            self._remove()
        self.abandon()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            if segment_names(self._fd):
                return
            for name in (POSITION, LOCK):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._fd)
            with private_files.closing(self._open_parent()) as parent:
                if _is_in(parent, self.path.name, self._fd):
                    os.rmdir(self.path.name, dir_fd=parent)

    def abandon(self) -> None:
        """
        Close it, and leave everything as it is.
        """
        for segment in self.segments:
            segment.close()
        self.segments.clear()
        self._close_files()

    def __del__(self) -> None:
        # after an exception out of a signal handler nothing may refer to it: its lock would
        # exclude others as long as the process lives
        self._close_files()

    def _close_files(self) -> None:
        for name in ("_position_fd", "_lock", "_fd"):
            fd = getattr(self, name)
            if fd >= 0:
                in_one_step(map(setattr, (self,), (name,), (-1,)), map(_os.close, (fd,)))

    def _open_parent(self) -> int:
        """
        Open the service's directory, even if this one was moved.
        """
        return private_files.open_directory(self._fd, self.path / os.pardir)


def _is_in(directory: int, name: str, fd: int) -> bool:
    """
    Tell whether the file that is open as *fd* has *name* in *directory*.
    """
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), status)
