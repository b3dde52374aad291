"""
The outbox on disk: what was accepted outlives the process.

A spool is a directory of a service. Each process that runs the service has a directory of its
own in it, which it holds a lock on; what a dead one has left is adopted by the next.
"""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections import deque
from collections.abc import Callable, Iterator, KeysView
from itertools import islice, repeat
from time import monotonic
from typing import Any

import eventlet
from eventlet import patcher
from eventlet.greenthread import GreenThread
from greenlet import GreenletExit
from nameko.exceptions import ConfigurationError

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.holding import hold, release
from nameko_eventlog.delivery.outbox import (
    TURN,
    Ledger,
    Level,
    claimed,
    fill_level,
    oldest,
)
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import Directory
from nameko_eventlog.delivery.spool.disk import Stalled
from nameko_eventlog.delivery.spool.segments import encode, settling
from nameko_eventlog.delivery.spool.spool_directories import SpoolDirectories, directory_name
from nameko_eventlog.delivery.steps import first, in_one_step, move, remove_and_count


_os_threading = patcher.original("threading")

SYNC_SECONDS = 1.0
"""How often the operating system is asked to put onto the disk what it was given."""

ADOPT_SECONDS = 10.0
"""How often is looked for what processes have left that died meanwhile."""


class SpooledOutbox:
    """
    An outbox on disk, with as much of it in memory as an outbox in memory would hold.

    Args:
        directory: The spool; one for all services of a machine will do.
        service: The service's name.
        size: The most messages in memory.
        size_bytes: The most bytes in memory, of all that messages take.
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
        identify: Callable[[OutboxEntry], object],
        ledger: Ledger,
    ) -> None:
        self._root = pathlib.Path(directory).absolute() / directory_name(service)
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
        self._news = DeferredLog()
        self._holdings = SpoolDirectories(self._root, service, max_bytes, self._news)
        self._wanted = 0  # by the last one that found no room
        self._ahead: deque[OutboxEntry] = deque()  # in memory, the next ones
        self._tail: deque[OutboxEntry] = deque()  # in memory alone, behind what is on disk
        self._taken: dict[OutboxEntry, Any] = {}
        self._moved = Counter()  # to there; the ledger has counted them before
        self._memory = 0  # of all three
        self._gathered = 0  # since something was last taken
        self._failure = ""
        self._care_failure = ""
        self._is_busy = False
        self._is_closed = False
        self._lock = _os_threading.RLock()
        self._thread: GreenThread | None = None
        try:
            self._holdings.open_own()
        except OSError as exc:
            self._fail(exc)

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

    def start(self) -> None:
        """
        Adopt what was left, and begin to look after the disk.
        """
        self._adopt()
        self._news.tell()
        self._thread = eventlet.spawn(self._maintain)

    def put(self, message: OutboxEntry) -> Level:
        """
        Keep *message* and count it: on disk, or, while that cannot be written, in memory.

        Returns:
            How full it was; ``FULL`` if *message* is not kept.
        """
        with self._lock:
            if self._is_closed:
                return Level.FULL
            if self._is_busy:  # a signal handler, or a finalizer, in the middle of this
                self._memory += hold(message)
                self._enter(self._tail, message)
                return Level.LOW
            self._is_busy = True
            try:
                level = self._put(message)
            except BaseException:  # a signal handler's
                self._holdings.cut()
                raise
            finally:
                self._is_busy = False
        if self._news:
            self._news.tell()
        return level

    def _put(self, message: OutboxEntry) -> Level:
        if message.message_id is None:
            self._identify(message)
        try:
            line = encode(message)
        except Exception:  # headers that AMQP does not take: the relay will say so
            return self._put_behind(message)
        if self._holdings.size + len(line) > self._max_bytes:
            self._tidy(is_full=True)
            if self._holdings.size + len(line) > self._max_bytes:
                # for one that is too long, waiting makes no room
                self._wanted = len(line) if len(line) <= self._max_bytes else 0
                return Level.FULL
        self._wanted = 0
        try:
            self._write_tail()
            if self._write(message, line, first(self._ledger.entered.ticks)):
                self._memory += hold(message)
        except OSError as exc:
            if message.place is None:  # otherwise a signal handler's, after it was written
                self._fail(exc)
                return self._put_behind(message)
        if self._failure:
            self._recover()
        self._gathered += 1
        return Level.LOW if self._gathered % TURN else Level.GATHERED

    def _enter(self, queue: deque[OutboxEntry], message: OutboxEntry) -> None:
        in_one_step(map(queue.append, (message,)), first(self._ledger.entered.ticks))

    def _write(self, message: OutboxEntry, line: bytes, step: Iterator[object]) -> bool:
        """
        Write *message* to the disk, and tell whether it stays in memory as well.

        Args:
            message: It has its place on the disk as soon as it is kept.
            line: What to write.
            step: What is to be taken in the step that keeps it.
        """
        segment, start = self._holdings.append(line)
        end = start + len(line)
        placed = map(setattr, (message,), ("place",), ((segment, start),))
        if (
            self._holdings.is_read
            and len(self._ahead) < self._size
            and self._memory < self._size_bytes
        ):
            segment.keep(start, end, placed, map(self._ahead.append, (message,)), step)
            return True
        segment.leave(end, placed, step)
        return False

    def _put_behind(self, message: OutboxEntry) -> Level:
        self._memory += hold(message)
        level = self._memory_level()
        if level is Level.FULL:
            self._memory -= release(message)
        else:
            self._enter(self._tail, message)
        return level

    def _memory_level(self) -> Level:
        waiting = len(self._tail) + len(self._ahead) + len(self._taken)
        return fill_level(waiting, self._size, self._memory, self._size_bytes)

    def _write_tail(self) -> None:
        while self._tail:
            message = self._tail[0]
            if message.message_id is None:
                self._identify(message)
            taken = first(iter(self._tail.popleft, None))
            try:
                line = encode(message)
            except Exception:
                in_one_step(map(self._ahead.append, taken))
                continue
            if not self._write(message, line, taken):
                self._memory -= release(message)

    def _recover(self) -> None:
        self._failure = ""
        self._news.add(logging.WARNING, "the spool at %s is written again", self._root)

    def _fail(self, exc: OSError) -> None:
        if not self._failure:
            self._failure = str(exc)
            self._news.add(
                logging.ERROR,
                "the spool at %s cannot be written (%s): event logs wait in memory until it can"
                " (logged once)",
                self._root,
                exc,
            )

    def take(self, limit: int) -> list[OutboxEntry]:
        """
        Return the next messages, first in, first out; they stay kept until settled.
        """
        batch: list[OutboxEntry] = []
        with self._alone():
            while len(batch) < limit:
                if not self._ahead and not self._read_ahead():
                    break
                moved = move(self._ahead, self._taken, limit - len(batch), self._moved)
                batch += claimed(moved, self, self._ledger.withdrawn)
            self._gathered = 0
            self._tidy()
        return batch

    def _read_ahead(self) -> bool:
        """
        Read the next ones into memory, and tell whether there are any.
        """
        if self._taken and self._memory_level() is Level.FULL:
            return False  # what is on its way, or waits aside, takes all of it
        try:
            self._holdings.read(self._ahead, self._ledger.undelivered.ticks)
        except Stalled:
            return False  # what is in memory alone comes after what is on the disk
        self._memory += sum(map(hold, self._ahead))
        if not self._ahead:
            rest = islice(iter(self._tail.popleft, None), len(self._tail))
            in_one_step(map(self._ahead.append, rest))
        return bool(self._ahead)

    @property
    def taken(self) -> KeysView[OutboxEntry]:
        """
        What was taken and is not settled, in the order in which it was taken.
        """
        return self._taken.keys()

    def settle(self, message: OutboxEntry, counter: Counter) -> None:
        """
        Let go of a message that was taken, and count what became of it, once.
        """
        self.settle_all([message], counter)

    def settle_all(self, messages: list[OutboxEntry], counter: Counter) -> None:
        """
        Do so for several.
        """
        with self._lock:
            for message in remove_and_count(self._taken, messages, counter, settling):
                self._forget(message)

    def withdraw(self, message: OutboxEntry) -> bool:
        """
        Let go of a message that its waiter has claimed back, unless it is on disk meanwhile.
        """
        with self._alone():
            if message.place is not None:
                return False
            for queue in (self._ahead, self._tail):
                with contextlib.suppress(ValueError):
                    in_one_step(map(queue.remove, (message,)), first(self._ledger.withdrawn.ticks))
                    self._forget(message)
        return True

    def _forget(self, message: OutboxEntry) -> None:
        self._memory -= release(message)
        if not (self._taken or self._ahead or self._tail):
            self._memory = 0

    def holds(self, message: OutboxEntry) -> bool:
        """
        Tell whether *message* is kept; slowly.
        """
        queues = (self._taken, self._ahead, self._tail)
        return message.place is not None or any(message in queue for queue in queues)

    def _tidy(self, is_full: bool = False) -> None:
        self._holdings.tidy(is_full or self.level is Level.FULL)

    def close(self) -> list[OutboxEntry]:
        """
        Leave what is on disk there, and return what is in memory alone.
        """
        if self._thread is not None and self._news.is_home:
            self._thread.kill()
        with self._alone():
            # each step can be made again: the first time was interrupted, maybe
            self._is_closed = True
            with contextlib.suppress(OSError):  # it was full a moment ago, maybe
                self._write_tail()
            alone = [message for message in self._ahead if message.place is None]
            in_one_step(
                map(self._taken.__setitem__, alone, repeat(None)), map(self._ahead.remove, alone)
            )
            move(self._tail, self._taken, len(self._tail), self._moved)
            alone = [message for message in self._taken if message.place is None]
            alone = claimed(alone, self, self._ledger.withdrawn)
            self._holdings.close()
            return alone

    def abandon(self) -> None:
        """
        Leave it to the parent, in a forked child: neither write to it nor keep its lock.
        """
        self._lock = _os_threading.RLock()
        self._is_closed = True
        self._holdings.abandon()

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        return self._holdings.unread + len(self._ahead) + len(self._tail) + len(self._taken)

    @property
    def unpersisted_count(self) -> int:
        """
        How many messages are lost if the process is killed: those that are in memory alone.
        """
        with self._lock:
            kept = (*self._taken, *self._ahead, *self._tail)
            return sum(message.place is None for message in kept)

    @property
    def stalled_seconds(self) -> float:
        """
        For how long the disk has not answered.
        """
        return self._holdings.disk.stalled_seconds

    @property
    def level(self) -> Level:
        """
        How full it is.
        """
        if self._holdings.size + self._wanted > self._max_bytes:
            return Level.FULL
        return self._memory_level() if self._failure else Level.LOW

    @property
    def oldest(self) -> OutboxEntry | None:
        """
        The oldest message, if it is in memory.
        """
        return oldest(self._taken, self._ahead, self._tail)

    # -- looking after the disk

    def _maintain(self) -> None:
        try:
            self._maintain_until_closed()
        except GreenletExit:
            pass
        except BaseException:  # a signal handler's
            if not self._is_closed:
                self._thread = eventlet.spawn(self._maintain)
            raise

    def _maintain_until_closed(self) -> None:
        adopted_at = monotonic()
        while True:
            eventlet.sleep(SYNC_SECONDS)
            if self._is_closed:  # in a forked child
                return
            try:
                if self._holdings.disk.is_stalled:
                    continue
                self._check_place()
                self._retry()
                is_well = self._sync()
                is_due = monotonic() - adopted_at >= ADOPT_SECONDS
                if is_due or self._holdings.has_more:
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
                logging.ERROR, "of the spool at %s: %s (logged once)", self._root, failure
            )

    def _check_place(self) -> None:
        with self._alone():
            try:
                self._holdings.replace_vanished()
            except OSError as exc:
                self._fail(exc)

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

    def _sync(self) -> bool:
        if not self._holdings.is_dirty:
            return True
        try:
            self._holdings.sync()
        except OSError as exc:
            with self._alone():
                self._holdings.finish()  # the next file may be luckier
            self._say_care_failure(f"what was written could not be put onto the disk ({exc})")
            return False
        return True

    def _adopt(self) -> None:
        """
        Take over what processes have left that are not there any more, the oldest first.
        """
        for directory, count in self._holdings.left():
            try:
                if not self._take_over(directory, count):
                    break
            except BaseException:  # a signal handler's
                self._holdings.let_go(directory)
                raise

    def _take_over(self, directory: Directory, count: int) -> bool:
        """
        Publish *directory* as well, if there is room, and tell whether there was.
        """
        with self._alone():
            if self._is_closed:
                directory.close()
                return False
            if not self._holdings.adopt(directory, self._ledger.entered.ticks):
                return False
            self._news.add(
                logging.WARNING,
                "%d event logs of %s that an earlier process has left are published now",
                count,
                self._service,
            )
            return True
