"""
Workers that dispatch by hand at once, each waiting for its own confirms.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import eventlet
from eventlet.event import Event

from benchmarks.container import EVENT_DATA, METADATA, bind_queue, dispatcher, running


REPEATS = 3
"""How often in one process; the first is the warm-up of the others."""


def run(side: str, uri: str, workers: int, count: int, bound: bool) -> dict[str, Any]:
    """
    Dispatch *count* event logs in each of *workers* workers.

    Args:
        side: Whose dispatcher.
        uri: An empty vhost.
        workers: How many at once.
        count: Event logs in each.
        bound: Whether a durable queue takes them; without one the broker drops them.

    Returns:
        ``seconds`` until all of them have returned.
    """
    with running(dispatcher(side), uri) as in_worker:
        in_worker(lambda dispatch: dispatch("warm_up", EVENT_DATA, METADATA))
        if bound:
            bind_queue(uri)

        def once() -> float:
            begin = Event()
            returned = 0

            def work(dispatch: Any) -> None:
                nonlocal returned
                begin.wait()
                for _ in range(count):
                    dispatch("session_created", EVENT_DATA, METADATA)
                    returned += 1

            running_workers = [eventlet.spawn(in_worker, work) for _ in range(workers)]
            eventlet.sleep(0.1)  # until all of them wait
            start = perf_counter()
            begin.send(None)
            for worker in running_workers:
                worker.wait()
            elapsed = perf_counter() - start
            if returned != workers * count:
                raise RuntimeError(f"{returned} of {workers * count} dispatches have returned")
            return elapsed

        once()
        return {"seconds": median(once() for _ in range(REPEATS))}
