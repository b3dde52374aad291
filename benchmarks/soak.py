"""
A million event logs through one service: ``python -m benchmarks.soak [--count N] [--plot FILE]``.

Prints, for each tenth, the resident memory and the event logs a second; exits with 1 if
something is lost, or memory or throughput are not flat.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from time import perf_counter
from typing import Any

import kombu

from benchmarks.container import OURS, bind_queue, dispatcher, logger, running
from benchmarks.container import wait_until_confirmed as wait
from benchmarks.rounds import in_fresh_process
from tests.rabbitmq import Broker


LINES = 9
"""Log lines of each call, beside the event log of its being captured."""

TENTHS = 10
FLAT = 0.1
"""How much more memory, or less throughput, the last tenth may show than the first."""


def run(uri: str, count: int) -> dict[str, Any]:
    """
    Run calls that are captured and log, until there are *count* event logs.

    Returns:
        ``tenths``: of each, ``resident`` (bytes), ``rate`` (event logs a second) and
        ``received``; ``undelivered``.
    """
    section = {"auto_capture": True, "capture_types": ["Entrypoint"]}
    each = count // TENTHS
    with running(dispatcher(OURS), uri, section) as in_worker, kombu.Connection(uri) as connection:
        stats = in_worker(lambda dispatch: dispatch.stats)
        wait(stats, 1)
        bind_queue(uri)
        queue = kombu.Queue("event-logs")(connection.default_channel)

        def work(dispatch: Any) -> None:
            for number in range(LINES):
                logger.info("counted", extra={"number": number, "session": "8c1d2e3f"})

        tenths = []
        for tenth in range(1, TENTHS + 1):
            start = perf_counter()
            for _ in range(each // (LINES + 1)):
                in_worker(work)
            wait(stats, 1 + tenth * each)
            tenths.append(
                {
                    "rate": each / (perf_counter() - start),
                    "resident": _resident(),
                    "received": queue.purge(),
                }
            )
        return {"tenths": tenths, "undelivered": stats()["undelivered"]}


def _resident() -> int:
    statm = pathlib.Path("/proc/self/statm").read_text()
    return int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE")


def draw(tenths: list[dict[str, Any]], count: int, path: str) -> None:
    """
    Draw memory and throughput over the event logs, each from zero.

    Args:
        tenths: As from `run`.
        count: The event logs of all tenths.
        path: The picture's, whose name says of which kind it is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    memory, rate = figure.subplots(1, 2)
    logged = [count * (number + 1) // len(tenths) / 1e6 for number in range(len(tenths))]
    memory.plot(logged, [tenth["resident"] / 2**20 for tenth in tenths], marker="o")
    memory.set(ylabel="resident memory, MiB")
    rate.plot(logged, [tenth["rate"] for tenth in tenths], marker="o")
    rate.set(ylabel="event logs a second")
    for axes in (memory, rate):
        axes.set(xlabel="event logs, millions")
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


def main() -> int:
    """
    Run it against a broker of its own, and judge.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="event logs (a million)")
    parser.add_argument("--plot", metavar="FILE", help="draw it, too: docs/soak.svg")
    arguments = parser.parse_args()
    count = arguments.count // 100 * 100
    with Broker() as broker:
        result = in_fresh_process("soak", uri=broker.vhost_uri(broker.add_vhost()), count=count)
    tenths = result["tenths"]
    print("| event logs | resident, MiB | event logs a second |")
    print("| ---------: | ------------: | ------------------: |")
    for number, tenth in enumerate(tenths, 1):
        memory, rate = tenth["resident"] / 2**20, tenth["rate"]
        print(f"| {number * count // TENTHS:10,} | {memory:13.1f} | {rate:19,.0f} |")
    if arguments.plot:
        draw(tenths, count, arguments.plot)
    received = sum(tenth["received"] for tenth in tenths)
    grown = tenths[-1]["resident"] / tenths[0]["resident"] - 1
    slower = 1 - tenths[-1]["rate"] / tenths[0]["rate"]
    print(
        f"{count:,} accepted, {received:,} received, {result['undelivered']} undelivered;"
        f" memory {grown:+.1%}, throughput {-slower:+.1%}, the last tenth to the first"
    )
    return int(received != count or grown > FLAT or slower > FLAT)


if __name__ == "__main__":
    sys.exit(main())
