"""
Disk calls with a time limit, so that a stalled disk does not block the hub.

A stalled disk, or a frozen file system, blocks the thread that writes to it, and no signal ends
that. So an OS thread of its own makes these calls, and the caller waits for a limited time. That
costs about fifteen microseconds each time. Within a millisecond after a successful write, further
writes are made directly.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from eventlet import patcher


_os = patcher.original("os")
_os_thread = patcher.original("_thread")

_sleep = patcher.original("time").sleep

PATIENCE = 0.1
"""How many seconds a call to the disk may take before the disk counts as stalled."""

PROVEN_SECONDS = 0.001
"""For how long after a successful write further writes are made directly."""

CLOSING_SECONDS = 2.0
"""How many seconds the sync at the end may take."""


class Stalled(OSError):
    """
    The disk does not answer.
    """

    def __init__(self) -> None:
        super().__init__(errno.ETIMEDOUT, "the disk does not answer")


def write_whole(fd: int, data: bytes, at: int) -> None:
    """
    Write all of *data* at an offset.

    The offset is where the caller knows the end to be: neither a cut of the file nor an exception
    out of a signal handler right after the write shifts what comes next.

    Raises:
        OSError: If it cannot be written; nothing of it is left then.
    """
    written = 0
    try:
        while written < len(data):  # after a part, the next attempt raises the reason
            more = _os.pwrite(fd, data[written:], at + written)
            if not more:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more
    except OSError:
        _os.ftruncate(fd, at)
        raise


class _Call:
    """
    One call and its result.
    """

    def __init__(self, call: Callable[[], Any], on_late: Callable[[Any], object]) -> None:
        self.call = call
        self.on_late = on_late
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = _os_thread.allocate_lock()
        self.done.acquire()
        self.started = monotonic()
        self._claims: dict[None, bool] = {}

    def is_first(self, is_late: bool) -> bool:
        """
        Claim the outcome: it ended in time, or it is late. Tell whether this was first.
        """
        return self._claims.setdefault(None, is_late) is is_late  # one step, whatever thread

    @property
    def is_given_up(self) -> bool:
        """
        Whether its caller has stopped waiting.
        """
        return self._claims.get(None, False)


class DiskThread:
    """
    Make disk calls in an OS thread of their own; for one caller at a time.
    """

    def __init__(self) -> None:
        self._wake = _os_thread.allocate_lock()
        self._wake.acquire()
        self._current: _Call | None = None
        self._is_running = False
        self._is_closed = False
        self._proven_until = 0.0
        self._stalled_seconds = 0.0
        self.is_syncing = False
        """Whether a sync is under way, which writes may have to wait for."""

    @property
    def is_stalled(self) -> bool:
        """
        Whether a call was given up and has not returned yet.
        """
        current = self._current
        return current is not None and current.is_given_up

    @property
    def stalled_seconds(self) -> float:
        """
        For how long the disk has been stalled, in total.
        """
        current = self._current
        now = monotonic() - current.started if current and current.is_given_up else 0.0
        return self._stalled_seconds + now

    def call(
        self,
        call: Callable[[], Any],
        on_late: Callable[[Any], object] = bool,
        seconds: float | None = None,
    ) -> Any:
        """
        Make *call* and return what it returns.

        Args:
            call: What to do.
            on_late: Called with its result, in that thread, if it returns too late.
            seconds: How long to wait; `PATIENCE` by default.

        Raises:
            Stalled: If it takes longer, or an earlier call has not returned yet.
            BaseException: What *call* raises.
        """
        seconds = PATIENCE if seconds is None else seconds
        before = self._current
        if before is not None:  # given up, or its caller was interrupted by a signal handler
            if before.is_given_up and monotonic() - before.started > seconds:
                raise Stalled
            end = monotonic() + seconds
            while self._current is before:
                if monotonic() > end:
                    raise Stalled
                _sleep(0.0005)
        current = self._current = _Call(call, on_late)
        if not self._is_running:
            self._is_running = True
            _os_thread.start_new_thread(self._run, ())
        self._wake.release()
        try:
            is_done = current.done.acquire(True, seconds)
        except BaseException:
            current.is_first(is_late=True)
            raise
        if not is_done and current.is_first(is_late=True):
            raise Stalled
        if current.error is not None:
            raise current.error
        return current.result

    def write(self, fd: int, data: bytes, at: int) -> None:
        """
        Write all of *data* at an offset; what is written too late is cut off again.

        Raises:
            OSError: If it cannot be written.
        """
        if self._current is None and not self.is_syncing and monotonic() < self._proven_until:
            write_whole(fd, data, at)
            return
        self.call(lambda: write_whole(fd, data, at), lambda _: _os.ftruncate(fd, at))
        self._proven_until = monotonic() + PROVEN_SECONDS

    def read(self, fd: int, size: int, at: int) -> bytes:
        """
        Read at an offset.

        Raises:
            OSError: If it cannot be read.
        """
        found: bytes = self.call(lambda: _os.pread(fd, size, at))
        return found

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            current = self._current
            if current is None:
                return
            try:
                current.result = current.call()
            except BaseException as exc:
                current.error = exc
            if current.is_first(is_late=False):
                self._current = None
                current.done.release()
                continue
            with suppress(Exception):  # the caller was told that it failed
                if current.error is None:
                    current.on_late(current.result)
            self._stalled_seconds += monotonic() - current.started
            self._current = None
            if self._is_closed:
                return

    def close(self) -> None:
        """
        End the thread as soon as its call has returned.
        """
        self._is_closed = True
        if self._is_running and self._current is None:
            self._is_running = False
            self._wake.release()
