"""
A service's spool as one process holds it: what is on disk, what of it is unread, and its size.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import pathlib
import resource
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import islice, repeat
from time import monotonic
from typing import Any
from uuid import uuid4

from nameko.exceptions import ConfigurationError

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import lines, private_files
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import Directory, directory_name
from nameko_eventlog.delivery.spool.disk import CLOSING_SECONDS, DiskThread, Stalled
from nameko_eventlog.delivery.spool.orphans import OrphanedDirectories
from nameko_eventlog.delivery.spool.segments import Segment
from nameko_eventlog.delivery.steps import in_one_step
from nameko_eventlog.delivery.waiting import run_in_thread


SEGMENT_BYTES = 8 << 20
"""The size at which a segment is followed by another."""

MOST_FILES = 128
"""
About how many files are open at once; more directories of dead processes are adopted later.

It is less where the process may not open a thousand.
"""

OPEN_SECONDS = 1.0
"""How long after a failure to make its own directory the process tries again."""

_ATTEMPTS = 5
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Spool:
    """
    The directories that this process holds: those adopted from dead processes, then its own.

    A message on disk has a handle, `OutboxEntry.place`, that only this class looks into. The
    caller excludes other threads, except from `sync` and `orphans`.

    Args:
        directory: The spool; all services of a machine may share it.
        service: The service's name.
        max_bytes: The most bytes on disk.
        log: Takes log lines.

    Raises:
        ConfigurationError: If *directory* is not a directory.
    """

    def __init__(self, directory: str, service: str, max_bytes: int, log: DeferredLog) -> None:
        if pathlib.Path(directory).exists() and not pathlib.Path(directory).is_dir():
            raise ConfigurationError(
                f"EVENTLOG_DISPATCHER.spool must be a directory; {directory!r} is none"
            )
        self.root = pathlib.Path(directory).absolute() / directory_name(service)
        self._service = service
        self._max_bytes = max_bytes
        self._log = log
        # many segments, so that settled ones make room; not too many, for each is open
        self._most_files = _most_files()
        self._segment_bytes = max(
            min(SEGMENT_BYTES, max_bytes // 8), max_bytes // self._most_files
        )
        self._disk = DiskThread()
        self._directories: list[Directory] = []  # in the order of publication
        self._own: Directory | None = None  # the last of them
        self._growing: Segment | None = None  # the last of its segments
        self._opened_at = 0.0
        self._orphans = OrphanedDirectories(self.root, self._directories, log)
        self._orphan_waits = False
        self._warned: set[str] = set()
        self._size = 0
        self._wanted = 0  # bytes, by the last message that found no room

    @property
    def unread(self) -> int:
        """
        How many event logs are on disk and not in memory.
        """
        # from copies: another thread may write meanwhile
        directories = list(self._directories)
        return sum([one.unread for each in directories for one in list(each.segments)])

    @property
    def is_full(self) -> bool:
        """
        Whether there is no room, for the last message that found none if there was one.
        """
        return self._size + self._wanted > self._max_bytes

    @property
    def is_stalled(self) -> bool:
        """
        Whether the disk does not answer.
        """
        return self._disk.is_stalled

    @property
    def stalled_seconds(self) -> float:
        """
        For how long the disk has been stalled, in total.
        """
        return self._disk.stalled_seconds

    # -- its own directory

    def open(self) -> Directory:
        """
        Make the process's own directory.

        Raises:
            OSError: If that fails.
        """
        self._opened_at = monotonic()
        make_service = functools.partial(
            private_files.open_service, self.root, make=True, warn=self._warn
        )
        os.close(self._disk.call(make_service, os.close))
        for _ in range(_ATTEMPTS):
            make = functools.partial(Directory, self.root / uuid4().hex, self._log, self._disk)
            try:
                own: Directory = self._disk.call(make, Directory.close)
            except (BlockingIOError, FileNotFoundError) as exc:
                # before it was locked, another process took it for a dead one's
                failure = exc
            else:
                self._directories.append(own)
                self._own = own
                return own
        raise failure

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            self._log.add(logging.WARNING, "%s", text)

    def replace_vanished(self) -> None:
        """
        Make another directory if the process's own was removed or replaced.

        Nobody could exclude other processes from it without its lock.

        Raises:
            OSError: If no other one can be made.
        """
        if self._own is None or self._own.is_in_place(self._growing):
            return
        self._own = self._growing = None
        self._log.add(
            logging.ERROR,
            "spool %s was removed or replaced: what waits there is lost if the process ends before"
            " it is published; new event logs are written to a new directory",
            self.root,
        )
        self.open()

    # -- writing

    encode = staticmethod(lines.encode)

    def has_room(self, length: int) -> bool:
        """
        Tell whether a line of that length has room, and remove what is settled if it has not.
        """
        if self._size + length > self._max_bytes:
            self.tidy(make_room=True)
            if self._size + length > self._max_bytes:
                # waiting makes no room for a line that is too long
                self._wanted = length if length <= self._max_bytes else 0
                return False
        self._wanted = 0
        return True

    def write(
        self,
        message: OutboxEntry,
        line: bytes,
        queue: deque[OutboxEntry] | None,
        step: Iterator[object],
    ) -> bool:
        """
        Write *message*, and tell whether it stays in memory, too.

        Args:
            message: Gets its handle as soon as it is kept.
            line: The message, encoded.
            queue: Takes it if nothing before it is unread; None if memory has no room.
            step: Taken in the step that keeps the message.

        Raises:
            OSError: If it cannot be written.
        """
        try:
            segment = self._append(line)
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            self.tidy(make_room=True)  # what is settled may be what fills the disk
            segment = self._append(line)
        start, end = segment.written, segment.written + len(line)
        in_memory: tuple[Iterator[object], ...] = ()
        name, value = "unread", segment.unread + 1
        if queue is not None and not self._has_unread():
            name, value = "read_up_to", end
            in_memory = (
                map(segment.unsettled.__setitem__, (start,), (None,)),
                map(queue.append, (message,)),
            )
        in_one_step(
            map(
                setattr,
                (segment, segment, segment, message, self),
                ("written", name, "is_dirty", "place", "_size"),
                (end, value, True, (segment, start), self._size + len(line)),
            ),
            *in_memory,
            step,
        )
        return bool(in_memory)

    def _has_unread(self) -> bool:
        for directory in self._directories:
            for segment in directory.segments:
                if segment.unread:
                    return True
        return False

    def _append(self, line: bytes) -> Segment:
        """
        Write a line behind the messages of the growing segment, which is returned.
        """
        own = self._own
        if own is None:
            if monotonic() - self._opened_at < OPEN_SECONDS:
                raise OSError(errno.EAGAIN, "to be tried again in a second")
            own = self.open()
        segment = self._growing
        if segment is None or segment.written >= self._segment_bytes:
            self._growing = None
            segment = self._growing = own.make_segment(self._service)
            self._size += segment.written
        try:
            self._disk.write(segment.fd, line, segment.written)
        except OSError as exc:
            # a full disk may get room, a stalled one may go on; after other errors, another file
            if exc.errno not in _FULL and not isinstance(exc, Stalled):
                self._growing = None
            raise
        return segment

    def cut(self) -> None:
        """
        Cut off what was written and not kept; if that fails, the next line overwrites it.
        """
        if self._growing is not None:
            with contextlib.suppress(OSError):
                self._disk.call(self._growing.cut)

    def sync(self) -> None:
        """
        Write to the disk what the system caches, in an OS thread, while the green thread waits.

        Raises:
            OSError: If that fails; it is unknown then what is on the disk.
        """
        own = self._own
        if own is not None and own.is_dirty:
            self._disk.is_syncing = True
            try:
                run_in_thread(own.sync)
            finally:
                self._disk.is_syncing = False

    def finish_segment(self) -> None:
        """
        Write to another segment from now on.
        """
        self._growing = None

    # -- reading and settling

    def read(self, queue: deque[OutboxEntry], lost: Iterator[object]) -> None:
        """
        Read the next messages into memory, some at a time, in the order of writing.

        Corrupt lines are set aside. A segment that cannot be read is left there.

        Args:
            queue: Takes the messages; it takes none only if there are no more.
            lost: A step of it is taken for each event log that is lost.

        Raises:
            Stalled: The disk does not answer.
        """
        before = len(queue)
        for directory in list(self._directories):
            for segment in list(directory.segments):
                while segment.unread:
                    self._read(directory, segment, queue, lost)
                    if len(queue) > before:
                        return

    def _read(
        self,
        directory: Directory,
        segment: Segment,
        queue: deque[OutboxEntry],
        lost: Iterator[object],
    ) -> None:
        try:
            end, found, corrupt = segment.read(self._disk.read)
        except Stalled:
            raise
        except OSError as exc:
            self._give_up(directory, segment, exc, lost)
            return
        if corrupt:  # before it is counted: twice is better than not at all
            directory.set_aside(segment, corrupt)
        for start, message in found.items():
            message.place = segment, start
        unread = max(0, segment.unread - len(found))
        missing = unread if end >= segment.written else 0
        in_one_step(
            map(setattr, repeat(segment), ("read_up_to", "unread"), (end, unread - missing)),
            map(segment.unsettled.__setitem__, found, repeat(None)),
            map(queue.append, found.values()),
            islice(lost, missing),
        )
        if missing and not segment.corruption_logged:
            self._log.add(
                logging.ERROR,
                "%d event logs are missing from spool file %s: they are counted as undelivered",
                missing,
                segment.path,
            )

    def _give_up(
        self, directory: Directory, segment: Segment, exc: OSError, lost: Iterator[object]
    ) -> None:
        if segment is self._growing:
            self._growing = None
        in_one_step(
            map(directory.segments.remove, (segment,)),
            islice(lost, segment.unread),
            map(setattr, (segment,), ("unread",), (0,)),
        )
        segment.close()
        self._log.add(
            logging.ERROR,
            "cannot read spool file %s (%s): it is left there, and its event logs are counted as"
            " undelivered",
            segment.path,
            exc,
        )

    @staticmethod
    def settling(messages: list[OutboxEntry]) -> Iterator[object]:
        """
        Return what to take a step of for each of *messages* to settle it on disk.
        """
        nowhere: OrderedDict[int, None] = OrderedDict()
        places: list[Any] = [message.place for message in messages]
        return map(
            OrderedDict.pop,
            [nowhere if place is None else place[0].unsettled for place in places],
            [0 if place is None else place[1] for place in places],
            repeat(None),
        )

    def tidy(self, make_room: bool = False) -> None:
        """
        Remove what is settled, and note up to where that is.

        Args:
            make_room: Whether to remove the growing segment, too, if all of it is settled.
        """
        if self._disk.is_stalled:
            return
        growing = self._growing
        if (
            growing is not None
            and growing.is_settled
            and growing.written > growing.first
            and (make_room or growing.written >= self._segment_bytes)
        ):
            self._growing = None
        for directory in list(self._directories):
            directory.tidy(self._growing)
            if directory is not self._own and not directory.segments:
                self._directories.remove(directory)
                directory.close()
        self._size = sum(
            segment.written for directory in self._directories for segment in directory.segments
        )

    # -- what dead processes have left

    @property
    def may_adopt(self) -> bool:
        """
        Whether an orphan had no room, and may have some now.
        """
        return self._orphan_waits and not self._adopted

    @property
    def _adopted(self) -> list[Directory]:
        return [one for one in self._directories if one is not self._own]

    def orphans(self) -> Iterator[Directory]:
        """
        Lock and open what dead processes of the service have left, the oldest first.

        Yields:
            Each, to be given to `adopt`, and closed unless it is adopted then.
        """
        self._orphan_waits = False
        yield from self._orphans.open()

    def adopt(self, orphan: Directory, entered: Iterator[object]) -> bool:
        """
        Hold *orphan*, too, if there is room, and tell whether there was.

        Args:
            orphan: One of `orphans`.
            entered: A step of it is taken for each event log, in the step that adopts it.
        """
        adopted = self._adopted
        files = sum(3 + len(one.segments) for one in (*adopted, orphan))
        size = self._size + sum(segment.written for segment in orphan.segments)
        has_room = files <= self._most_files and size <= self._max_bytes
        if not has_room and (adopted or self._size > 2 * self._segment_bytes):
            self._orphan_waits = True
            return False
        count = sum(segment.unread for segment in orphan.segments)
        orphan.disk = self._disk
        in_one_step(
            map(self._directories.insert, (len(adopted),), (orphan,)),
            map(setattr, (self,), ("_size",), (size,)),
            islice(entered, count),
        )
        self._log.add(
            logging.WARNING,
            "publishing %d event logs of %s left by an earlier process in %s",
            count,
            self._service,
            orphan.path,
        )
        return True

    # -- the end

    def close(self) -> None:
        """
        Write to the disk what is possible, and close everything.
        """
        for directory in list(self._directories):
            if directory.is_dirty:
                with contextlib.suppress(OSError):
                    self._disk.call(directory.sync, seconds=CLOSING_SECONDS)
            if self._disk.is_stalled:  # the end of the process closes them
                return
            directory.close()
        self._directories.clear()
        self._own = self._growing = None
        self._disk.close()

    def abandon(self) -> None:
        """
        Leave it to the parent, in a forked child.
        """
        opening = self._orphans.opening
        for directory in [*self._directories, *([] if opening is None else [opening])]:
            directory.abandon()


def _most_files() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if limit == resource.RLIM_INFINITY else max(8, min(MOST_FILES, limit // 8))
