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
from collections import deque
from collections.abc import Callable
from time import monotonic
from uuid import uuid4

import eventlet
from eventlet import patcher, tpool
from eventlet.greenthread import GreenThread
from nameko.exceptions import ConfigurationError

from nameko_eventlog.delivery.directories import CORRUPT, Directory
from nameko_eventlog.delivery.message import Message
from nameko_eventlog.delivery.outbox import OVERHEAD, Ledger, Level
from nameko_eventlog.delivery.segments import Segment, encode


_log = logging.getLogger("nameko_eventlog")
_os_threading = patcher.original("threading")

SYNC_SECONDS = 1.0
"""How often the operating system is asked to put onto the disk what it was given."""

ADOPT_SECONDS = 10.0
"""How often is looked for what processes have left that died meanwhile."""


def _say(level: int, text: str, *values: object) -> None:
    with contextlib.suppress(Exception):  # the service's handlers may fail
        _log.log(level, text, *values)


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
        self._own: Directory | None = None
        self._adopted: deque[Directory] = deque()
        self._left_alone: set[pathlib.Path] = set()
        self._bytes = 0  # on disk
        self._ahead: deque[Message] = deque()  # in memory, the next ones
        self._ahead_bytes = 0
        self._tail: deque[Message] = deque()  # in memory alone, behind what is on disk
        self._taken = 0
        self._failure = ""
        self._failed_at = 0.0
        self._is_dirty = False
        self._is_busy = False
        self._is_closed = False
        self._lock = _os_threading.RLock()
        self._thread: GreenThread | None = None
        self._open_own()

    def _open_own(self) -> None:
        try:
            self._own = Directory(self._root / uuid4().hex, self._service)
        except OSError as exc:
            self._fail(exc)

    def start(self) -> None:
        """
        Adopt what was left, and begin to look after the disk.
        """
        self._adopt()
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
                return self._put_behind(message)
            self._is_busy = True
            try:
                return self._put(message)
            finally:
                self._is_busy = False

    def _put(self, message: Message) -> Level:
        if message.message_id is None:
            self._identify(message)
        try:
            line = encode(message)
        except Exception:  # headers that AMQP does not take: the relay will say so
            return self._put_behind(message)
        if self._bytes + len(line) > self._max_bytes:
            return Level.FULL
        try:
            self._write_tail()
            self._write(message, line)
        except OSError as exc:
            self._fail(exc)
            return self._put_behind(message)
        if self._failure:
            self._failure = ""
            _say(logging.WARNING, "the spool at %s is written again", self._root)
        return Level.LOW

    def _write(self, message: Message, line: bytes) -> None:
        own = self._own
        if own is None:
            if monotonic() - self._failed_at < SYNC_SECONDS:
                raise OSError(errno.EAGAIN, "to be tried again in a second")
            self._open_own()
            own = self._own
            if own is None:
                raise OSError(errno.EIO, self._failure)
        segment, start = own.append(line)
        message.place = segment, start
        self._is_dirty = True
        self._bytes += len(line)
        if (
            not own.unread
            and not self._adopted
            and len(self._ahead) < self._size
            and self._ahead_bytes < self._size_bytes
        ):
            segment.keep(start)
            segment.read_up_to = segment.written
            self._ahead.append(message)
            self._ahead_bytes += len(message.body) + OVERHEAD
        else:
            own.unread += 1

    def _put_behind(self, message: Message) -> Level:
        if len(self._tail) + len(self._ahead) >= self._size:
            return Level.FULL
        self._tail.append(message)
        return Level.LOW

    def _write_tail(self) -> None:
        while self._tail:
            message = self._tail[0]
            try:
                line = encode(message)
            except Exception:
                self._ahead.append(self._tail.popleft())
                continue
            self._write(message, line)
            self._tail.popleft()

    def _fail(self, exc: OSError) -> None:
        self._failed_at = monotonic()
        if not self._failure:
            self._failure = str(exc)
            _say(
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
        with self._lock:
            while len(batch) < limit:
                if not self._ahead:
                    self._read_ahead()
                    if not self._ahead:
                        break
                message = self._ahead.popleft()
                self._ahead_bytes -= len(message.body) + OVERHEAD
                if message.waiter is not None and not message.waiter.take():
                    self._forget(message)
                    continue
                self._taken += 1
                batch.append(message)
            self._tidy()
        return batch

    def _read_ahead(self) -> None:
        for directory in [*self._adopted, *([self._own] if self._own else [])]:
            for segment in directory.segments:
                if not segment.has_unread:
                    continue
                try:
                    self._read(directory, segment)
                except OSError as exc:
                    self._give_up(directory, segment, exc)
                    break
                if not any(one.has_unread for one in directory.segments):
                    directory.unread = 0  # whatever became of single lines
                if self._ahead:
                    return
        self._ahead += self._tail
        self._ahead_bytes += sum(len(one.body) + OVERHEAD for one in self._tail)
        self._tail.clear()

    def _read(self, directory: Directory, segment: Segment) -> None:
        corrupt: list[pathlib.Path] = []
        for start, message in segment.read(
            lambda line: corrupt.append(directory.set_aside(segment, line))
        ):
            message.place = segment, start
            directory.unread -= 1
            self._ahead.append(message)
            self._ahead_bytes += len(message.body) + OVERHEAD
        if corrupt:
            self._say_corrupt(directory, segment, corrupt)

    def _give_up(self, directory: Directory, segment: Segment, exc: OSError) -> None:
        """
        Leave a segment that cannot be read where it is; what it holds is undelivered.
        """
        others = [one for one in directory.segments if one is not segment and one.has_unread]
        readable = 0
        for other in others:
            with contextlib.suppress(OSError):
                readable += other.count()
        for _ in range(directory.unread - readable):
            self._ledger.undelivered.increment()
        directory.unread = readable
        directory.forget(segment)
        _say(
            logging.ERROR,
            "the spool's file %s cannot be read (%s); it is left there, and what it holds counted"
            " as undelivered",
            segment.path,
            exc,
        )

    def _say_corrupt(
        self, directory: Directory, segment: Segment, corrupt: list[pathlib.Path]
    ) -> None:
        directory.unread -= len(corrupt)
        for _ in corrupt:
            self._ledger.undelivered.increment()
        if not segment.is_said_corrupt:
            segment.is_said_corrupt = True
            _say(
                logging.ERROR,
                "lines of the spool's file %s are not what was written; they are kept in %s, and"
                " counted as undelivered (said once)",
                segment.path,
                corrupt[0],
            )

    def settle(self, message: Message) -> None:
        """
        Let go of a message that was taken.
        """
        with self._lock:
            self._taken -= 1
            self._forget(message)

    def _forget(self, message: Message) -> None:
        if message.place is not None:
            segment, start = message.place
            segment.settle(start)

    def withdraw(self, message: Message) -> None:
        """
        Let go of a message that its waiter has claimed back.
        """
        with self._lock:
            for queue in (self._ahead, self._tail):
                with contextlib.suppress(ValueError):
                    queue.remove(message)
                    self._forget(message)
                    if queue is self._ahead:
                        self._ahead_bytes -= len(message.body) + OVERHEAD

    def _tidy(self) -> None:
        for directory in [*self._adopted, *([self._own] if self._own else [])]:
            directory.tidy()
        while self._adopted and not self._adopted[0].segments:
            self._adopted.popleft().close()
        self._bytes = sum(one.size for one in self._adopted) + (self._own.size if self._own else 0)

    def close(self, taken: list[Message]) -> list[Message]:
        """
        Leave what is on disk there, and return what is in memory alone.
        """
        if self._thread is not None:
            self._thread.kill()
        with self._lock:
            if self._is_closed:
                return []
            self._is_closed = True
            alone = [
                message for message in (*taken, *self._ahead, *self._tail) if message.place is None
            ]
            for directory in [*self._adopted, *([self._own] if self._own else [])]:
                directory.sync()
                directory.close()
            return alone

    def abandon(self) -> None:
        """
        Leave it to the parent, in a forked child: neither write to it nor keep its lock.
        """
        self._lock = _os_threading.RLock()
        self._is_closed = True
        for directory in [*self._adopted, *([self._own] if self._own else [])]:
            directory.close(is_parents=True)

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        unread = sum(one.unread for one in self._adopted)
        if self._own is not None:
            unread += self._own.unread
        return unread + len(self._ahead) + len(self._tail) + self._taken

    @property
    def level(self) -> Level:
        """
        How full it is.
        """
        return Level.FULL if self._bytes >= self._max_bytes else Level.LOW

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
                own = self._own
                if own is not None and not own.is_there():
                    with self._lock:
                        own.begin_anew()
                    _say(
                        logging.ERROR,
                        "the spool at %s has vanished: what waits is in files without a name,"
                        " which end with the process; what comes is written to a new one",
                        self._root,
                    )
                if own is not None and self._is_dirty:
                    self._is_dirty = False
                    tpool.execute(own.sync)
                if monotonic() - adopted_at >= ADOPT_SECONDS:
                    self._adopt()
                    adopted_at = monotonic()
            except Exception:
                _log.exception("the spool at %s could not be looked after", self._root)

    def _adopt(self) -> None:
        """
        Take over what processes have left that are not there any more.
        """
        own = self._own.path if self._own is not None else None
        held = {own, *(one.path for one in self._adopted), *self._left_alone}
        try:
            found = [path for path in self._root.iterdir() if path.is_dir()]
            found = sorted(found, key=lambda path: path.stat().st_mtime)
        except OSError:
            return
        for path in found:
            if path in held or path.name == CORRUPT:
                continue
            try:
                directory = Directory(path, self._service)
            except OSError:  # another process lives, or was quicker
                continue
            count = directory.load()
            if not count:
                directory.close()
                if path.exists():  # of a later version, or not to be read
                    self._left_alone.add(path)
                continue
            with self._lock:
                for _ in range(count):
                    self._ledger.enter()
                self._adopted.append(directory)
                self._bytes += directory.size
            _say(
                logging.WARNING,
                "%d event logs of %s that an earlier process has left are published now",
                count,
                self._service,
            )
