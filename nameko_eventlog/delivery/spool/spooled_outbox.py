"""
The outbox with a spool: what was accepted outlives the process.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, KeysView
from itertools import islice, repeat
from time import monotonic
from typing import Any

import eventlet
from eventlet import patcher
from eventlet.greenthread import GreenThread
from greenlet import GreenletExit

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
from nameko_eventlog.delivery.spool.disk import Stalled
from nameko_eventlog.delivery.spool.spool import Spool
from nameko_eventlog.delivery.steps import first, in_one_step, move, remove_and_count


_os_threading = patcher.original("threading")

SYNC_SECONDS = 1.0
"""How often the spool is synced to the disk."""

ADOPT_SECONDS = 10.0
"""How often the outbox looks for what dead processes have left."""


class SpooledOutbox:
    """
    An outbox on disk, with as much of it in memory as an outbox in memory would hold.

    Args:
        directory: The spool; all services of a machine may share it.
        service: The service's name.
        size: The most messages in memory.
        size_bytes: The most bytes in memory, of all that messages take.
        max_bytes: The most bytes on disk.
        identify: Gives a message its id.
        ledger: Counts what was adopted, and what was lost on disk.

    Raises:
        ConfigurationError: If *directory* is not a directory.
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
        self._service = service
        self._size = size
        self._size_bytes = size_bytes
        self._identify = identify
        self._ledger = ledger
        self._log = DeferredLog()
        self._spool = Spool(directory, service, max_bytes, self._log)
        self._ahead: deque[OutboxEntry] = deque()  # the next ones, also on disk
        self._tail: deque[OutboxEntry] = deque()  # in memory alone, behind those on disk
        self._taken: dict[OutboxEntry, Any] = {}
        self._moved = Counter()  # to `_taken`; the ledger has counted them before
        self._memory = 0  # bytes of all three
        self._gathered = 0  # messages since something was last taken
        self._is_failing = False
        self._failure_logged = ""  # of the maintenance
        self._is_busy = False
        self._is_closed = False
        self._lock = _os_threading.RLock()
        self._thread: GreenThread | None = None
        try:
            self._spool.open()
        except OSError as exc:
            self._fail(exc)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """
        Exclude other threads, and what interrupts this one, from the block.
        """
        with self._lock:
            was, self._is_busy = self._is_busy, True
            try:
                yield
            finally:
                self._is_busy = was
        self._log.flush()

    def start(self) -> None:
        """
        Adopt what dead processes have left, and begin the maintenance.
        """
        self._adopt()
        self._log.flush()
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
            if self._is_busy:  # a signal handler or a finalizer has interrupted this thread
                self._memory += hold(message)
                self._enter(message)
                return Level.LOW
            self._is_busy = True
            try:
                level = self._put(message)
            except BaseException:  # a signal handler's
                self._spool.cut()
                raise
            finally:
                self._is_busy = False
        if self._log:
            self._log.flush()
        return level

    def _put(self, message: OutboxEntry) -> Level:
        if message.message_id is None:
            self._identify(message)
        try:
            line = self._spool.encode(message)
        except Exception:  # AMQP cannot encode its headers; the relay will log that
            return self._put_in_memory(message)
        if not self._spool.has_room(len(line)):
            return Level.FULL
        try:
            if self._tail:
                self._write_tail()
            if self._write(message, line, first(self._ledger.entered.ticks)):
                self._memory += hold(message)
        except OSError as exc:
            if message.place is None:  # else a signal handler has raised it after the write
                self._fail(exc)
                return self._put_in_memory(message)
        if self._is_failing:
            self._recover()
        self._gathered += 1
        return Level.LOW if self._gathered % TURN else Level.GATHERED

    def _enter(self, message: OutboxEntry) -> None:
        in_one_step(map(self._tail.append, (message,)), first(self._ledger.entered.ticks))

    def _write(self, message: OutboxEntry, line: bytes, step: Iterator[object]) -> bool:
        """
        Write *message* to the disk, and tell whether it stays in memory, too.
        """
        has_room = len(self._ahead) < self._size and self._memory < self._size_bytes
        return self._spool.write(message, line, self._ahead if has_room else None, step)

    def _put_in_memory(self, message: OutboxEntry) -> Level:
        self._memory += hold(message)
        level = self._memory_level()
        if level is Level.FULL:
            self._memory -= release(message)
        else:
            self._enter(message)
        return level

    def _memory_level(self) -> Level:
        waiting = len(self._tail) + len(self._ahead) + len(self._taken)
        return fill_level(waiting, self._size, self._memory, self._size_bytes)

    def _write_tail(self) -> None:
        """
        Write what is in memory alone.

        Raises:
            OSError: If it cannot be written; the rest stays in memory.
        """
        while self._tail:
            message = self._tail[0]
            if message.message_id is None:
                self._identify(message)
            popped = first(iter(self._tail.popleft, None))
            try:
                line = self._spool.encode(message)
            except Exception:
                in_one_step(map(self._ahead.append, popped))
                continue
            if not self._write(message, line, popped):
                self._memory -= release(message)

    def _fail(self, exc: OSError) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._log.add(
                logging.ERROR,
                "cannot write to spool %s (%s): event logs of %s wait in memory until it works"
                " again (logged once)",
                self._spool.root,
                exc,
                self._service,
            )

    def _recover(self) -> None:
        self._is_failing = False
        self._log.add(
            logging.WARNING,
            "writing event logs of %s to spool %s again",
            self._service,
            self._spool.root,
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
            self._spool.tidy(self.level is Level.FULL)
        return batch

    def _read_ahead(self) -> bool:
        """
        Read the next messages into memory, and tell whether there are any.
        """
        if self._taken and self._memory_level() is Level.FULL:
            return False  # all of it is taken: sent, or set aside by the relay
        try:
            self._spool.read(self._ahead, self._ledger.undelivered.ticks)
        except Stalled:
            return False  # what is in memory alone comes after what is on disk
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
            for message in remove_and_count(self._taken, messages, counter, self._spool.settling):
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

    def close(self) -> list[OutboxEntry]:
        """
        Leave what is on disk there, and return what is in memory alone.
        """
        if self._thread is not None and self._log.is_hub_thread:
            self._thread.kill()
        with self._alone():
            # each step may be repeated, after the first time was interrupted
            self._is_closed = True
            with contextlib.suppress(OSError):  # it may work again
                self._write_tail()
            alone = [message for message in self._ahead if message.place is None]
            in_one_step(
                map(self._taken.__setitem__, alone, repeat(None)), map(self._ahead.remove, alone)
            )
            move(self._tail, self._taken, len(self._tail), self._moved)
            alone = [message for message in self._taken if message.place is None]
            alone = claimed(alone, self, self._ledger.withdrawn)
            self._spool.close()
            return alone

    def abandon(self) -> None:
        """
        Leave it to the parent, in a forked child: neither write to it nor keep its lock.
        """
        self._lock = _os_threading.RLock()
        self._is_closed = True
        self._spool.abandon()

    @property
    def waiting(self) -> int:
        """
        How many messages are kept.
        """
        return self._spool.unread + len(self._ahead) + len(self._tail) + len(self._taken)

    @property
    def unpersisted_count(self) -> int:
        """
        How many messages are lost if the process is killed: those in memory alone.
        """
        with self._lock:
            kept = (*self._taken, *self._ahead, *self._tail)
            return sum(message.place is None for message in kept)

    @property
    def stalled_seconds(self) -> float:
        """
        For how long the disk has been stalled, in total.
        """
        return self._spool.stalled_seconds

    @property
    def level(self) -> Level:
        """
        How full it is.
        """
        if self._spool.is_full:
            return Level.FULL
        return self._memory_level() if self._is_failing else Level.LOW

    @property
    def oldest(self) -> OutboxEntry | None:
        """
        The oldest message, if it is in memory.
        """
        return oldest(self._taken, self._ahead, self._tail)

    # -- maintenance

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
            if self._spool.is_stalled:
                continue
            try:
                self._retry()
                is_synced = self._sync()
                if monotonic() - adopted_at >= ADOPT_SECONDS or self._spool.may_adopt:
                    adopted_at = monotonic()
                    self._adopt()
                if is_synced:
                    self._failure_logged = ""
            except Exception as exc:
                self._log_failure(f"maintenance failed ({exc!r})")
            self._log.flush()

    def _log_failure(self, failure: str) -> None:
        if failure != self._failure_logged:
            self._failure_logged = failure
            self._log.add(
                logging.ERROR,
                "spool %s of %s: %s (logged once)",
                self._spool.root,
                self._service,
                failure,
            )

    def _retry(self) -> None:
        """
        Replace the directory if it has vanished, and write what is in memory alone.
        """
        with self._alone():
            try:
                self._spool.replace_vanished()
                if self._tail:
                    self._write_tail()
                    if self._is_failing:
                        self._recover()
            except OSError as exc:
                self._fail(exc)

    def _sync(self) -> bool:
        try:
            self._spool.sync()
        except OSError as exc:
            with self._alone():
                self._spool.finish_segment()  # the next one may be on a good part of the disk
            self._log_failure(f"cannot sync to the disk ({exc}): a power cut may lose more")
            return False
        return True

    def _adopt(self) -> None:
        """
        Take over what dead processes have left, the oldest first, as long as there is room.
        """
        for orphan in self._spool.orphans():
            with self._alone():
                if self._is_closed or not self._spool.adopt(orphan, self._ledger.entered.ticks):
                    break
