"""
Event logs a second from one worker, from the call until the broker has confirmed them all.
"""

from __future__ import annotations

from time import perf_counter, process_time
from typing import Any

from benchmarks.container import (
    EVENT_DATA,
    METADATA,
    OLD,
    OURS,
    bind_queue,
    dispatcher,
    logger,
    running,
    wait_until_confirmed,
)


def run(side: str, uri: str, count: int) -> dict[str, Any]:
    """
    Dispatch *count* event logs in one worker: ours by log calls, the old library's by hand.

    Returns:
        ``rate``: event logs a second; ``cpu``: Python's microseconds for each.
    """

    def work(dispatch: Any) -> tuple[float, float]:
        dispatch("warm_up", EVENT_DATA, METADATA)
        bind_queue(uri)
        start, cpu = perf_counter(), process_time()
        if side == OURS:
            before = dispatch.stats()["accepted"]
            for _ in range(count):
                logger.info("session_created", extra=EVENT_DATA)
            wait_until_confirmed(dispatch.stats, before + count)
        else:
            for _ in range(count):
                dispatch("session_created", EVENT_DATA, METADATA)
        return perf_counter() - start, process_time() - cpu

    if side not in (OURS, OLD):
        raise ValueError(f"side must be {OURS!r} or {OLD!r}, not {side!r}")
    with running(dispatcher(side), uri) as in_worker:
        elapsed, cpu = in_worker(work)
    return {"rate": count / elapsed, "cpu": cpu / count * 1e6}
