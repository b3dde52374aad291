"""
The outbox on disk: what was accepted outlives the process.

A spool is a directory of a service. Each process that runs the service has a directory of its
own in it, which it holds a lock on; what a dead one has left is adopted by the next.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import pathlib
import resource
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic
from uuid import uuid4

import eventlet
from eventlet import patcher, tpool
from eventlet.greenthread import GreenThread
from nameko.exceptions import ConfigurationError

from nameko_eventlog.delivery.adoption import Estate
from nameko_eventlog.delivery.directories import SEGMENT_BYTES, Directory
from nameko_eventlog.delivery.message import Message
from nameko_eventlog.delivery.news import News
from nameko_eventlog.delivery.outbox import OVERHEAD, Ledger, Level, fill_level
from nameko_eventlog.delivery.segments import encode


_os_threading = patcher.original("threading")

SYNC_SECONDS = 1.0
"""How often the operating system is asked to put onto the disk what it was given."""

ADOPT_SECONDS = 10.0
"""How often is looked for what processes have left that died meanwhile."""


MOST_FILES = 128
"""
About how many files of its own, and of dead processes, are open at once; the latter wait.

It is less where the process may not have a thousand.
"""

_ATTEMPTS = 5


class SpooledOutbox:
    """
    An outbox on disk, with as much of it in memory as an outbox in memory would hold.

    Args:
        directory: The spool; one for all services of a machine will do.
        service: The service's name.
        size: The most messages in memory.
        size_bytes: The most bytes in memory, bodies and what a message costs beside.
        max_bytes: The most bytes on disk.
        identify: Gives a message its id.
        ledger: Where to count what was adopted, and what was found corrupt.

    Raises:
        ConfigurationError: If *directory* is something else.
    """

    def __init__(
        self,
        directory: str,
        service: str,
        size: int,
        size_bytes: int,
        max_bytes: int,
        identify: Callable[[Message], object],
        ledger: Ledger,
    ) -> None:
        self._root = pathlib.Path(directory).absolute() / service.replace(os.sep, "_")
        if pathlib.Path(directory).exists() and not pathlib.Path(directory).is_dir():
            raise ConfigurationError(
                f"EVENTLOG_DISPATCHER.spool must be a directory; {directory!r} is none"
            )
        self._service = service
        self._size = size
        self._size_bytes = size_bytes
        self._max_bytes = max_bytes
        self._identify = identify
        self._ledger = ledger
        # many files, so that what is settled makes room; not too many, for each is open
        self._most_files = _most_files()
        self._segment_bytes = max(
            min(SEGMENT_BYTES, max_bytes // 8), max_bytes // self._most_files
        )
        self._news = News()
        self._own: Directory | None = None
        self._adopted: deque[Directory] = deque()
        self._estate = Estate(self._root, service, self._news)
        self._has_more = False
        self._bytes = 0  # on disk
        self._wanted = 0  # by the last one that found no room
        self._ahead: deque[Message] = deque()  # in memory, the next ones
        self._tail: deque[Message] = deque()  # in memory alone, behind what is on disk
        self._memory = 0  # what both take
        self._taken = 0
        self._failure = ""
        self._opened_at = 0.0
        self._care_failure = ""
        self._is_busy = False
        self._is_closed = False
        self._lock = _os_threading.RLock()
        self._thread: GreenThread | None = None
        self._open_own()

    @property
    def _directories(self) -> list[Directory]:
        """
        In the order in which they are published.
        """
        return [*self._adopted, *([self._own] if self._own is not None else [])]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """
        Keep other threads, and what interrupts this one, out of the block.
        """
        with self._lock:
            was, self._is_busy = self._is_busy, True
            try:
                yield
            finally:
                self._is_busy = was
        self._news.tell()

    def _open_own(self) -> None:
        self._opened_at = monotonic()
        for attempt in range(_ATTEMPTS):
            path = self._root / uuid4().hex
            try:
                self._own = Directory(path, self._service, self._news, self._segment_bytes)
                return
            except (BlockingIOError, FileNotFoundError) as exc:
                # another process took it for a dead one's, between its making and its lock
                if attempt == _ATTEMPTS - 1:
                    self._fail(exc)
            except OSError as exc:
                self._fail(exc)
                return

    def start(self) -> None:
        """
        Adopt what was left, and begin to look after the disk.
        """
        self._adopt()
        self._news.tell()
        self._thread = eventlet.spawn(self._look_after)

    def put(self, message: Message) -> Level:
        """
        Keep *message*: on disk, or, while that cannot be written, in memory.

        Returns:
            How full it was; ``FULL`` if *message* is not kept.
        """
        with self._lock:
            if self._is_closed:
                return Level.FULL
            if self._is_busy:  # a signal handler, or a finalizer, in the middle of this
                self._tail.append(message)
                self._memory += _cost(message)
                return Level.LOW
            self._is_busy = True
            try:
                level = self._put(message)
            finally:
                self._is_busy = False
        if self._news:
            self._news.tell()
        return level

    def _put(self, message: Message) -> Level:
        if message.message_id is None:
            self._identify(message)
        try:
            line = encode(message)
        except Exception:  # headers that AMQP does not take: the relay will say so
            return self._put_behind(message)
        if self._bytes + len(line) > self._max_bytes:
            self._tidy(is_full=True)
            if self._bytes + len(line) > self._max_bytes:
                # for one that is too long, waiting makes no room
                self._wanted = len(line) if len(line) <= self._max_bytes else 0
                return Level.FULL
        self._wanted = 0
        try:
            self._write_tail()
            self._write(message, line)
        except OSError as exc:
            self._fail(exc)
            return self._put_behind(message)
        if self._failure:
            self._recover()
        return Level.LOW

    def _write(self, message: Message, line: bytes) -> None:
        own = self._own
        if own is None:
            if monotonic() - self._opened_at < SYNC_SECONDS:
                raise OSError(errno.EAGAIN, "to be tried again in a second")
            self._open_own()
            own = self._own
            if own is None:
                raise OSError(errno.EIO, self._failure)
        segment, start = own.append(line)
        message.place = segment, start
        self._bytes += len(line) if start > segment.first else segment.written
        if (
            not own.unread
            and not self._adopted
            and len(self._ahead) < self._size
            and self._memory < self._size_bytes
        ):
            segment.keep(start)
            segment.read_up_to = segment.written
            self._ahead.append(message)
            self._memory += len(message.body) + OVERHEAD
        else:
            own.leave(segment)

    def _put_behind(self, message: Message) -> Level:
        level = self._memory_level(_cost(message))
        if level is not Level.FULL:
            self._tail.append(message)
            self._memory += _cost(message)
        return level

    def _memory_level(self, cost: int = 0) -> Level:
        waiting = len(self._tail) + len(self._ahead) + self._taken
        return fill_level(waiting, self._size, self._memory + cost, self._size_bytes)

    def _write_tail(self) -> None:
        while self._tail:
            message = self._tail[0]
            if message.message_id is None:
                self._identify(message)
            try:
                line = encode(message)
            except Exception:
                self._ahead.append(self._tail.popleft())
                continue
            self._write(message, line)
            self._tail.popleft()
            self._memory -= _cost(message)

    def _recover(self) -> None:
        self._failure = ""
        self._news.add(logging.WARNING, "the spool at %s is written again", self._root)

    def _fail(self, exc: OSError) -> None:
        if not self._failure:
            self._failure = str(exc)
            self._news.add(
                logging.ERROR,
                "the spool at %s cannot be written (%s): event logs wait in memory until it can"
                " (said once)",
                self._root,
                exc,
            )

    def take(self, limit: int) -> list[Message]:
        """
        Return the next messages, first in, first out; they stay kept until settled.
        """
        batch: list[Message] = []
        with self._alone():
            while len(batch) < limit:
                if not self._ahead and not self._read_ahead():
                    break
                message = self._ahead.popleft()
                self._memory -= _cost(message)
                # who waits is safe with what is on disk, and cannot claim it back
                if (
                    message.place is None
                    and message.waiter is not None
                    and not message.waiter.take()
                ):
                    continue
                self._taken += 1
                batch.append(message)
            self._tidy()
        return batch

    def _read_ahead(self) -> bool:
        """
        Read the next ones into memory, and tell whether there are any.
        """
        for directory in self._directories:
            while directory.unread and not self._ahead:
                found, lost = directory.read()
                for _ in range(lost):
                    self._ledger.undelivered.increment()
                self._ahead += found
                self._memory += sum(map(_cost, found))
        if not self._ahead:
            while self._tail:
                self._ahead.append(self._tail.popleft())
        return bool(self._ahead)

    def settle(self, message: Message) -> None:
        """
        Let go of a message that was taken.
        """
        with self._lock:
            self._taken -= 1
            if message.place is not None:
                segment, start = message.place
                segment.settle(start)

    def withdraw(self, message: Message) -> bool:
        """
        Let go of a message that its waiter has claimed back, unless it is on disk meanwhile.
        """
        with self._alone():
            if message.place is not None:
                return False
            for queue in (self._ahead, self._tail):
                with contextlib.suppress(ValueError):
                    queue.remove(message)
                    self._memory -= _cost(message)
        return True

    def _tidy(self, is_full: bool = False) -> None:
        is_full = is_full or self.level is Level.FULL
        for directory in self._directories:
            directory.tidy(is_full)
        while self._adopted and not self._adopted[0].segments:
            self._adopted.popleft().close()
        self._bytes = sum(one.size for one in self._directories)

    def close(self, taken: list[Message]) -> list[Message]:
        """
        Leave what is on disk there, and return what is in memory alone.
        """
        if self._thread is not None and self._news.is_home:
            self._thread.kill()
        with self._alone():
            if self._is_closed:
                return []
            self._is_closed = True
            with contextlib.suppress(OSError):  # it was full a moment ago, maybe
                self._write_tail()
            alone = [message for message in taken if message.place is None]
            for message in (*self._ahead, *self._tail):
                if message.place is None and (message.waiter is None or message.waiter.take()):
                    alone.append(message)
            for directory in self._directories:
                if directory.is_dirty:
                    with contextlib.suppress(OSError):
                        directory.sync()
                directory.close()
            return alone

    def abandon(self) -> None:
        """
        Leave it to the parent, in a forked child: neither write to it nor keep its lock.
        """
        self._lock = _os_threading.RLock()
        self._is_closed = True
        for directory in self._directories:
            directory.close(is_parents=True)
        if self._estate.opening is not None:
            self._estate.opening.close(is_parents=True)

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        unread = sum(one.unread for one in self._directories)
        return unread + len(self._ahead) + len(self._tail) + self._taken

    @property
    def level(self) -> Level:
        """
        How full it is.
        """
        if self._bytes + self._wanted > self._max_bytes:
            return Level.FULL
        return self._memory_level() if self._failure else Level.LOW

    @property
    def oldest(self) -> Message | None:
        """
        The next message, if it is in memory.
        """
        for queue in (self._ahead, self._tail):
            with contextlib.suppress(IndexError):
                return queue[0]
        return None

    # -- looking after the disk

    def _look_after(self) -> None:
        adopted_at = monotonic()
        while True:
            eventlet.sleep(SYNC_SECONDS)
            if self._is_closed:  # in a forked child
                return
            try:
                self._check_place()
                self._retry()
                own = self._own
                is_well = own is None or not own.is_dirty or self._sync(own)
                is_due = monotonic() - adopted_at >= ADOPT_SECONDS
                if is_due or (self._has_more and not self._adopted):
                    adopted_at = monotonic()
                    self._adopt()
                if is_well:
                    self._care_failure = ""
            except Exception as exc:
                self._say_care_failure(f"it could not be looked after ({exc!r})")
            self._news.tell()

    def _say_care_failure(self, failure: str) -> None:
        if failure != self._care_failure:
            self._care_failure = failure
            self._news.add(
                logging.ERROR, "of the spool at %s: %s (said once)", self._root, failure
            )

    def _check_place(self) -> None:
        with self._alone():
            own = self._own
            if own is None or own.is_there():
                return
            own.finish()
            # nobody may take the place of a directory whose lock is gone: a new one it is
            self._adopted.append(own)
            self._own = None
            self._open_own()
            self._news.add(
                logging.ERROR,
                "the spool at %s has vanished: what waits is in files without a name,"
                " which end with the process; what comes is written to a new one",
                self._root,
            )

    def _retry(self) -> None:
        """
        Write what is in memory alone, if that can be done again.
        """
        if not self._tail:
            return
        with self._alone():
            try:
                self._write_tail()
            except OSError as exc:
                self._fail(exc)
            else:
                if self._failure:
                    self._recover()

    def _sync(self, own: Directory) -> bool:
        try:
            tpool.execute(own.sync)
        except OSError as exc:
            with self._alone():
                own.finish()  # the next file may be luckier
            self._say_care_failure(f"what was written could not be put onto the disk ({exc})")
            return False
        return True

    def _adopt(self) -> None:
        """
        Take over what processes have left that are not there any more, the oldest first.
        """
        self._has_more = False
        held = {one.path for one in self._directories}
        for directory, count in self._estate.open(held):
            if not self._take_over(directory, count):
                self._has_more = True
                break

    def _take_over(self, directory: Directory, count: int) -> bool:
        """
        Publish *directory* as well, if there is room, and tell whether there was.
        """
        with self._alone():
            files = sum(one.files for one in self._adopted) + directory.files
            has_room = (
                files <= self._most_files and self._bytes + directory.size <= self._max_bytes
            ) or not (self._adopted or self._bytes > 2 * self._segment_bytes)
            if self._is_closed or not has_room:
                directory.close()
                return False
            for _ in range(count):
                self._ledger.enter()
            self._adopted.append(directory)
            self._bytes += directory.size
            self._news.add(
                logging.WARNING,
                "%d event logs of %s that an earlier process has left are published now",
                count,
                self._service,
            )
            return True


def _most_files() -> int:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if limit == resource.RLIM_INFINITY else max(8, min(MOST_FILES, limit // 8))


def _cost(message: Message) -> int:
    return len(message.body) + OVERHEAD
