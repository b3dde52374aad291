"""
How long a busy relay holds up everybody else.
"""

from __future__ import annotations

import gc
from time import perf_counter
from typing import Any

import eventlet

from benchmarks.container import (
    EVENT_DATA,
    METADATA,
    OURS,
    bind_queue,
    dispatcher,
    logger,
    running,
)


TICK = 0.001
"""Seconds that the green thread sleeps between ticks."""


class _Ticker:
    """
    A green thread that wants to run every millisecond.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._last = perf_counter()
        self._thread = eventlet.spawn(self._tick)

    def _tick(self) -> None:
        self._last = perf_counter()
        while True:
            eventlet.sleep(TICK)
            now = perf_counter()
            self.longest = max(self.longest, now - self._last - TICK)
            self._last = now

    def stop(self) -> float:
        """
        Return the longest that it was late, in milliseconds.
        """
        self._thread.kill()
        return self.longest * 1e3


def run(uri: str, count: int, bound: bool) -> dict[str, Any]:
    """
    Let *count* event logs drain beside a ticker, then leave it alone for as long.

    Returns:
        ``busy`` and ``idle``: the longest stall of each, in milliseconds; ``rate``: event
        logs a second meanwhile.
    """

    def work(dispatch: Any) -> tuple[float, float, float]:
        dispatch("warm_up", EVENT_DATA, METADATA)
        if bound:
            bind_queue(uri)
        before = dispatch.stats()["confirmed"]
        for _ in range(count):  # its own stall is not the relay's
            logger.info("session_created", extra=EVENT_DATA)
        ticker, start = _Ticker(), perf_counter()
        while dispatch.stats()["confirmed"] < before + count:
            eventlet.sleep(0.02)
        elapsed = perf_counter() - start
        busy = ticker.stop()
        gc.collect()
        ticker = _Ticker()
        eventlet.sleep(elapsed)
        return busy, ticker.stop(), count / elapsed

    with running(dispatcher(OURS), uri) as in_worker:
        busy, idle, rate = in_worker(work)
    return {"busy": busy, "idle": idle, "rate": rate}
