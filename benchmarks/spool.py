"""
What the spool adds to a log call.
"""

from __future__ import annotations

import gc
import tempfile
from statistics import median
from time import perf_counter
from typing import Any

import eventlet

from benchmarks.container import logger, running
from benchmarks.without_relay import WARM_UP, WithoutRelay


SPOOL, MEMORY = "spool", "memory"


def run(side: str, uri: str, rounds: int, calls: int, pause: float = 0.0) -> dict[str, Any]:
    """
    Measure log calls of a service, with a spool or without.

    Args:
        side: `SPOOL` or `MEMORY`.
        uri: The broker.
        rounds: How many rounds to measure.
        calls: How many log calls to make in each.
        pause: Seconds between two log calls.

    Returns:
        ``microseconds``: of one call, the median of the rounds.
    """

    def work(dispatch: Any) -> list[float]:
        outbox = dispatch._delivery._outbox
        confirmed = dispatch._delivery._ledger.confirmed
        results = []
        for _ in range(WARM_UP + rounds):
            gc.collect()
            took = 0.0
            for number in range(calls):
                if pause:
                    eventlet.sleep(pause)
                start = perf_counter()
                logger.info(
                    "session_created",
                    extra={"session_id": "8c1d2e3f", "user": number, "amount": 12.5},
                )
                took += perf_counter() - start
            results.append(took / calls * 1e6)
            if outbox.waiting != calls:
                raise RuntimeError(f"{outbox.waiting} of {calls} are in the outbox")
            for message in outbox.take(calls):
                outbox.settle(message, confirmed)
        return results[WARM_UP:]

    with tempfile.TemporaryDirectory() as directory:
        section = {"spool": directory} if side == SPOOL else None
        with running(WithoutRelay(), uri, section) as in_worker:
            return {"microseconds": median(in_worker(work))}
