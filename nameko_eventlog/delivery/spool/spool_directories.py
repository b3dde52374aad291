"""
The directories of a spool that this process holds: its own, and those that dead ones have left.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import pathlib
import resource
from collections import deque
from collections.abc import Iterator
from itertools import islice
from time import monotonic
from uuid import uuid4

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import FULL, SEGMENT_BYTES, Directory
from nameko_eventlog.delivery.spool.disk import CLOSING_SECONDS, DiskThread
from nameko_eventlog.delivery.spool.orphans import OrphanedDirectories
from nameko_eventlog.delivery.spool.segments import Segment
from nameko_eventlog.delivery.steps import in_one_step
from nameko_eventlog.delivery.waiting import run_in_thread


MOST_FILES = 128
"""
About how many files of its own, and of dead processes, are open at once; the latter wait.

It is less where the process may not have a thousand.
"""

OPEN_SECONDS = 1.0
"""How long after a directory of its own could not be made it is tried again."""

_ATTEMPTS = 5


def directory_name(service: str) -> str:
    """
    Return the name of a service's directory in a spool.
    """
    name = service.replace(os.sep, "%2F")
    return name if name.strip(".") else name.replace(".", "%2E")


def service_name(directory: str) -> str:
    """
    Return the name of the service whose directory in a spool is called so.
    """
    name = directory.replace("%2F", os.sep)
    return name if name.replace("%2E", "") else name.replace("%2E", ".")


class SpoolDirectories:
    """
    The directories that this process holds, in the order in which they are published.

    Whoever calls keeps other threads out, but for `sync` and `left`.

    Args:
        root: The directory of the service that they are in.
        service: The service's name.
        max_bytes: The most bytes on disk.
        news: Takes what is to be said.
    """

    def __init__(
        self, root: pathlib.Path, service: str, max_bytes: int, news: DeferredLog
    ) -> None:
        self._root = root
        self._service = service
        self._max_bytes = max_bytes
        self._news = news
        # many files, so that what is settled makes room; not too many, for each is open
        self._most_files = _most_files()
        self._segment_bytes = max(
            min(SEGMENT_BYTES, max_bytes // 8), max_bytes // self._most_files
        )
        self.disk = DiskThread()
        self._own: Directory | None = None
        self._opened_at = 0.0
        self._adopted: deque[Directory] = deque()
        self._estate = OrphanedDirectories(root, service, news)
        self._has_more = False
        self._noted: set[str] = set()
        self.size = 0
        """How many bytes they take on disk."""

    @property
    def _all(self) -> list[Directory]:
        return [*self._adopted, *([self._own] if self._own is not None else [])]

    def open_own(self) -> Directory:
        """
        Make a directory of its own.

        Raises:
            OSError: If that cannot be done.
        """
        self._opened_at = monotonic()
        os.close(
            self.disk.call(
                lambda: private_files.open_service(self._root, make=True, note=self._note),
                os.close,
            )
        )
        for _ in range(_ATTEMPTS):
            path = self._root / uuid4().hex
            try:
                own: Directory = self.disk.call(
                    functools.partial(
                        Directory,
                        path,
                        self._service,
                        self._news,
                        self._segment_bytes,
                        self.disk,
                    ),
                    Directory.close,
                )
            except (BlockingIOError, FileNotFoundError) as exc:
                # another process took it for a dead one's, between its making and its lock
                failure = exc
            else:
                self._own = own
                return own
        raise failure

    def _note(self, text: str) -> None:
        if text not in self._noted:
            self._noted.add(text)
            self._news.add(logging.WARNING, "%s", text)

    def append(self, line: bytes) -> tuple[Segment, int]:
        """
        Write a line to the directory of its own, as `Directory.append` does.

        Returns:
            Where it is.

        Raises:
            OSError: If it cannot be written.
        """
        own = self._own
        if own is None:
            if monotonic() - self._opened_at < OPEN_SECONDS:
                raise OSError(errno.EAGAIN, "to be tried again in a second")
            own = self.open_own()
        try:
            segment, start = own.append(line)
        except OSError as exc:
            if exc.errno not in FULL:
                raise
            self.tidy(is_full=True)  # what is settled is what fills it, maybe
            segment, start = own.append(line)
        self.size += len(line) if start > segment.first else segment.first + len(line)
        return segment, start

    def cut(self) -> None:
        """
        Cut off what was written and not kept; where that fails, the next line overwrites it.
        """
        with contextlib.suppress(OSError):
            if self._own is not None:
                self._own.cut()

    @property
    def is_read(self) -> bool:
        """
        Whether what is appended next is the next one to be published.
        """
        return not (self._adopted or (self._own is not None and self._own.unread))

    @property
    def unread(self) -> int:
        """
        How many event logs are not in memory.
        """
        return sum(one.unread for one in self._all)

    def read(self, into: deque[OutboxEntry], lost: Iterator[object]) -> None:
        """
        Read on, some at a time.

        Args:
            into: Where to append the messages, none only if there are no more.
            lost: A step of it is taken for each event log that was found to be lost.

        Raises:
            Stalled: The disk does not answer.
        """
        before = len(into)
        for directory in self._all:
            while directory.unread:
                directory.read(into, lost)
                if len(into) > before:
                    return

    def tidy(self, is_full: bool) -> None:
        """
        Remove what is settled, and note how far that is.

        Args:
            is_full: Whether room is needed, if there is but what is settled in a small segment.
        """
        if self.disk.is_stalled:
            return
        for directory in self._all:
            directory.tidy(is_full)
        while self._adopted and not self._adopted[0].segments:
            self._adopted.popleft().close()
        self.size = sum(one.size for one in self._all)

    def replace_vanished(self) -> None:
        """
        Make another directory of its own if it is not under its name any more.

        Nobody may take the place of one whose lock is gone.

        Raises:
            OSError: If it is not, and no other one can be made.
        """
        own = self._own
        if own is None or own.is_there():
            return
        own.finish()
        self._adopted.append(own)
        self._own = None
        self._news.add(
            logging.ERROR,
            "the spool at %s has vanished: what waits is in files without a name,"
            " which end with the process; what comes is written to a new one",
            self._root,
        )
        self.open_own()

    @property
    def is_dirty(self) -> bool:
        """
        Whether something was written that was not put onto the disk.
        """
        return self._own is not None and self._own.is_dirty

    def sync(self) -> None:
        """
        Put onto the disk what was written, in an OS thread of its own, while this one waits.

        Raises:
            OSError: If that fails; what is on the disk is not known then.
        """
        if self._own is not None:
            self.disk.is_syncing = True
            try:
                run_in_thread(self._own.sync)
            finally:
                self.disk.is_syncing = False

    def finish(self) -> None:
        """
        Write to another file from now on.
        """
        if self._own is not None:
            self._own.finish()

    @property
    def has_more(self) -> bool:
        """
        Whether a dead process has left what had no room, and might have now.
        """
        return self._has_more and not self._adopted

    def left(self) -> Iterator[tuple[Directory, int]]:
        """
        Open what processes have left that are not there any more, the oldest first.

        Yields:
            A directory, to be given to `adopt`, and how many event logs it holds.
        """
        self._has_more = False
        yield from self._estate.open({one.path for one in self._all})

    def let_go(self, directory: Directory) -> None:
        """
        Close *directory*, which `left` has opened, unless it was adopted.
        """
        if directory not in self._adopted:
            directory.close()

    def adopt(self, directory: Directory, entered: Iterator[object]) -> bool:
        """
        Hold *directory* as well, or close it if there is no room, and tell which.

        Args:
            directory: One that `left` has opened.
            entered: A step of it is taken, in the one that keeps it, for each of its event logs.
        """
        files = sum(one.files for one in self._adopted) + directory.files
        has_room = (
            files <= self._most_files and self.size + directory.size <= self._max_bytes
        ) or not (self._adopted or self.size > 2 * self._segment_bytes)
        if has_room:
            in_one_step(map(self._adopted.append, (directory,)), islice(entered, directory.unread))
            self.size += directory.size
        else:
            self._has_more = True
            directory.close()
        return has_room

    def close(self) -> None:
        """
        Put onto the disk what can be, and let go of it.
        """
        for directory in self._all:
            if directory.is_dirty:
                with contextlib.suppress(OSError):
                    self.disk.call(directory.sync, seconds=CLOSING_SECONDS)
            if self.disk.is_stalled:  # the end of the process closes them
                return
            directory.close()
        self._adopted.clear()
        self._own = None
        self.disk.close()

    def abandon(self) -> None:
        """
        Leave it to the parent, in a forked child.
        """
        for directory in self._all:
            directory.close(is_parents=True)
        if self._estate.opening is not None:
            self._estate.opening.close(is_parents=True)


def _most_files() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if limit == resource.RLIM_INFINITY else max(8, min(MOST_FILES, limit // 8))
