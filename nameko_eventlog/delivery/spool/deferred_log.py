"""
Log lines that cannot be logged at once.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque

from nameko_eventlog.delivery.waiting import HubThread


_log = logging.getLogger("nameko_eventlog")


class DeferredLog:
    """
    Keep log lines until no lock is held.

    The service's log handlers may wait, raise, or log themselves. None of that may happen while
    a lock is held, nor in an OS thread, where a lock that eventlet has patched may hang.
    """

    def __init__(self) -> None:
        self._hub_thread = HubThread()
        self._lines: deque[tuple[int, str, tuple[object, ...]]] = deque()

    def add(self, level: int, text: str, *values: object) -> None:
        """
        Keep a line.
        """
        self._lines.append((level, text, values))

    @property
    def is_hub_thread(self) -> bool:
        """
        Whether this is the OS thread that logs the lines.
        """
        return self._hub_thread.is_here

    def flush(self) -> None:
        """
        Log the lines, if this is the OS thread for it.
        """
        while self._lines and self.is_hub_thread:
            level, text, values = self._lines.popleft()
            with contextlib.suppress(Exception):  # the service's handlers may fail
                _log.log(level, text, *values)

    def __bool__(self) -> bool:
        return bool(self._lines)
