"""
Calls to a disk that may not answer, out of the way of the hub.

A disk that stalls, or a file system that is frozen, keeps who writes to it from running, and no
signal ends that. So an OS thread of its own makes such calls, and who asked for one waits for it
only so long. That costs some fifteen microseconds each time. Where writes follow each other
closely, those within a millisecond after one that went well are made directly.
"""

from __future__ import annotations

import errno
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
"""For how long after a write that went well the next ones are made directly."""

CLOSING_SECONDS = 2.0
"""How many seconds putting onto the disk what was written may take at the end."""


class Stalled(OSError):
    """
    The disk does not answer.
    """

    def __init__(self) -> None:
        super().__init__(errno.ETIMEDOUT, "the disk does not answer")


class _Call:
    """
    One call, and what became of it.
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
        Tell whether it ended in time, or was given up, whichever was first.
        """
        return self._claims.setdefault(None, is_late) is is_late  # one step, whatever thread

    @property
    def is_given_up(self) -> bool:
        """
        Whether nobody waits for it any more.
        """
        return self._claims.get(None, False)


class DiskThread:
    """
    Make calls to a disk in an OS thread of their own; for one caller at a time.
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
        """Whether the disk is just asked to keep what it was given: writes may have to wait."""

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
        For how long calls have kept the disk stalled.
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
            on_late: Called with its result, in that thread, if nobody waits for it any more.
            seconds: How long to wait; `PATIENCE` by default.

        Raises:
            Stalled: If it takes longer, or an earlier one has not returned yet.
            BaseException: What *call* raises.
        """
        seconds = PATIENCE if seconds is None else seconds
        before = self._current
        if before is not None:  # one that a signal handler's exception has left, maybe
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

    def write(self, fd: int, line: bytes, at: int) -> int:
        """
        Write *line* where it belongs, and return how much of it was written.

        What comes late is cut off again.

        Raises:
            OSError: If it cannot be written.
        """
        if self._current is None and not self.is_syncing and monotonic() < self._proven_until:
            direct: int = _os.pwrite(fd, line, at)
            return direct
        written: int = self.call(lambda: _os.pwrite(fd, line, at), lambda _: _os.ftruncate(fd, at))
        self._proven_until = monotonic() + PROVEN_SECONDS
        return written

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
            with suppress(Exception):  # who asked for it was told that it failed
                if current.error is None:
                    current.on_late(current.result)
            self._stalled_seconds += monotonic() - current.started
            self._current = None
            if self._is_closed:
                return

    def close(self) -> None:
        """
        End the thread, when its call has returned.
        """
        self._is_closed = True
        if self._is_running and self._current is None:
            self._is_running = False
            self._wake.release()
