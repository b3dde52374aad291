"""
The measures: who is compared with whom, in how many rounds, and the bounds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks.databases import addresses
from benchmarks.day import ROWS
from benchmarks.rounds import Result, alternate, in_fresh_process, medians, ratio
from benchmarks.table import Row
from tests.rabbitmq import Broker


ROWS_A_DAY = int(os.environ.get("ROWS") or ROWS)
"""How many event logs `volume` stores: ``ROWS``, or those of a day."""

OURS, OLD, CEILING = "ours", "old", "ceiling"
BOUND = {True: "durable queue", False: "no queue bound"}


def _on_empty_vhost(broker: Broker, measure: str, **arguments: object) -> Result:
    vhost = broker.add_vhost()
    try:
        return in_fresh_process(measure, uri=broker.vhost_uri(vhost), **arguments)
    finally:
        broker.delete_vhost(vhost)


def log_call(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure one log call: at most 0.9 of QueueHandler's, a quarter of OpenTelemetry's.

    Ours ends with the encoded body in the outbox. OpenTelemetry's batch processor encodes
    later, in the same interpreter: with that it is the same work, and without it is shown, too.

    Args:
        broker: Where nothing is sent.
        rounds: How many processes; in each, 40 rounds of 2,000 calls.
    """
    processes = [
        _on_empty_vhost(broker, "log_call", rounds=40, calls=2_000)["rounds"]
        for _ in range(rounds)
    ]
    calls = [one for process in processes for one in process]

    def microseconds(name: str) -> str:
        return f"{median(one[name] for one in calls):.1f} us"

    def row(peer: str, called: str, bound: float | None) -> Row:
        # the median process, so that one on a busy core does not count more than another
        value = median(median(one["ours"] / one[peer] for one in process) for process in processes)
        measure = f"one log call / {called}"
        if bound is None:
            return Row(measure, microseconds("ours"), microseconds(peer), f"{value:.2f}")
        return Row.at_most(measure, microseconds("ours"), microseconds(peer), value, bound)

    return [
        row("queue", "QueueHandler", 0.9),
        row("otel_encoded", "OpenTelemetry, batched and encoded", 0.25),
        row("otel", "OpenTelemetry, not encoded yet", None),
        row("null", "NullHandler (the floor)", None),
    ]


def spool(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure what the spool adds to a log call: at most 20 microseconds, one after the other.

    A hundred a second cost more: each is written by another OS thread, off the hub.
    """

    def measure(name: str, bound: float | None, **arguments: Any) -> Row:
        results = alternate(
            rounds,
            ["spool", "memory"],
            lambda side: _on_empty_vhost(broker, "spool", side=side, **arguments),
        )
        took = medians(results, "microseconds")
        more = median(
            one["spool"]["microseconds"] - one["memory"]["microseconds"] for one in results
        )
        values = (name, f"{took['spool']:.1f} us", f"{took['memory']:.1f} us", f"{more:+.1f} us")
        return Row(*values) if bound is None else Row(*values, f"<= +{bound:g} us", more <= bound)

    return [
        measure("one log call with a spool / in memory", 20, rounds=20, calls=1_000),
        measure("the same, a hundred a second", None, rounds=5, calls=100, pause=0.01),
    ]


def _beside_ceiling(kind: str, rate: dict[str, float], value: float) -> Row:
    values = (
        f"the same / constant bytes in batches, {kind}",
        f"{rate[OURS]:,.0f}/s",
        f"{rate[CEILING]:,.0f}/s",
    )
    if kind == "classic":
        return Row.at_least(*values, value, 0.7)
    return Row(*values, f"{value:.2f} x")


def throughput(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure the way to confirmed, beside the old library and what the broker takes at the most.
    """
    counts = {OURS: 20_000, CEILING: 20_000, OLD: 2_000}
    rows = []
    for kind, times in (("classic", 14), ("quorum", 18)):
        results = alternate(
            rounds,
            [OURS, CEILING, OLD],
            lambda side, kind=kind: _on_empty_vhost(  # type: ignore[misc]
                broker, "throughput", side=side, count=counts[side], kind=kind
            ),
        )
        rate, cpu = medians(results, "rate"), medians(results, "cpu")
        ours = f"{rate[OURS]:,.0f}/s"
        rows += [
            Row.at_least(
                f"one worker to confirmed, durable {kind} queue / 0.4.2",
                ours,
                f"{rate[OLD]:,.0f}/s",
                ratio(results, "rate", OURS, OLD),
                times,
            ),
            _beside_ceiling(kind, rate, ratio(results, "rate", OURS, CEILING)),
            Row.at_most(
                f"Python CPU for each, {kind} / 0.4.2",
                f"{cpu[OURS]:.0f} us",
                f"{cpu[OLD]:.0f} us",
                ratio(results, "cpu", OURS, OLD),
                0.125,
            ),
        ]
    return rows


def group_commit(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure ten workers that wait: at least 1.5 times the old library, 4 times without a queue.
    """
    rows = []
    for bound, at_least in ((True, 1.5), (False, 4)):
        results = alternate(
            rounds,
            [OURS, OLD],
            lambda side, bound=bound: _on_empty_vhost(  # type: ignore[misc]
                broker, "group_commit", side=side, workers=10, count=100, bound=bound
            ),
        )
        seconds = medians(results, "seconds")
        rows.append(
            Row.at_least(
                f"ten workers wait for their confirms, {BOUND[bound]} / 0.4.2",
                f"{seconds[OURS] * 1e3:.0f} ms",
                f"{seconds[OLD] * 1e3:.0f} ms",
                ratio(results, "seconds", OLD, OURS),
                at_least,
            )
        )
    return rows


def stalls(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure what 50,000 draining event logs add to the longest stall: at most 20 ms.
    """
    rows = []
    for bound in (True, False):
        results = [
            _on_empty_vhost(broker, "stalls", count=50_000, bound=bound) for _ in range(rounds)
        ]
        more = median(one["busy"] - one["idle"] for one in results)
        rows.append(
            Row(
                f"longest stall while 50,000 drain, {BOUND[bound]} / idle",
                f"{median(one['busy'] for one in results):.1f} ms",
                f"{median(one['idle'] for one in results):.1f} ms",
                f"{more:+.1f} ms",
                "<= +20 ms",
                more <= 20,
            )
        )
    return rows


def storing(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure the way from a queue into a database, beside one insert and commit an event log.
    """
    rows = []
    for database, times in (("sqlite", 6), ("postgresql", 5), ("clickhouse", 10)):
        with addresses(database) as make:
            results = alternate(
                rounds,
                [OURS, "handler"],
                lambda side, database=database, make=make: _on_empty_vhost(  # type: ignore[misc]
                    broker,
                    "storing",
                    side=side,
                    database=make(),
                    count=20_000 if side == OURS else 3_000,
                ),
            )
        rate = medians(results, "rate")
        rows.append(
            Row.at_least(
                f"queue into {database} / @event_handler, a commit each",
                f"{rate[OURS]:,.0f}/s",
                f"{rate['handler']:,.0f}/s",
                ratio(results, "rate", OURS, "handler"),
                times,
            )
        )
        again = median(one[OURS]["again"] for one in results)
        slower = median(one[OURS]["rate"] / one[OURS]["again"] for one in results)
        rows.append(
            Row.at_most(
                f"the same, all of them duplicates / new, {database}",
                f"{1e6 / again:.0f} us",
                f"{1e6 / rate[OURS]:.0f} us",
                slower,
                1.0,
            )
        )
    return rows


def volume(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure a day of a hundred event logs a second: writing it, its size, and each question.
    """
    rows = []
    for database, most_bytes in (("sqlite", 800), ("postgresql", 1_000), ("clickhouse", 150)):
        with addresses(database) as make:
            found = in_fresh_process("volume", database=make(), rows=ROWS_A_DAY, rounds=rounds)
        rates = found["rates"]
        rows.append(
            Row.at_least(
                f"writer alone, {database}, the last tenth of a day / the first",
                f"{rates[-1]:,.0f}/s",
                f"{rates[0]:,.0f}/s",
                rates[-1] / rates[0],
                0.8,
            )
        )
        size = found["bytes"]
        rows.append(
            Row(
                f"bytes on disk for each event log, {database}",
                f"{size:.0f}",
                "",
                "",
                f"<= {most_bytes}",
                size <= most_bytes,
            )
        )
        for name, (cold, warm, bound) in found["asked"].items():
            rows.append(
                Row(
                    f"{database}, {name}; beside it the first answer",
                    f"{warm:.1f} ms",
                    f"{cold:.0f} ms",
                    "",
                    "" if bound is None else f"<= {bound} ms",
                    None if bound is None else warm <= bound,
                )
            )
    return rows


def moving(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure an export of a day and its import into the other databases: the same answers.
    """
    kinds = ("sqlite", "postgresql", "clickhouse")
    with ExitStack() as stack:
        source, *targets = (stack.enter_context(addresses(kind))() for kind in kinds)
        found = in_fresh_process("moving", source=source, targets=targets, rows=ROWS_A_DAY)
    rows = [Row("export from sqlite to Parquet", f"{found['exported']:,.0f}/s", "", "")]
    for kind, (stored, rate, different) in zip(kinds[1:], found["moved"], strict=True):
        said = ", ".join(different) or "none"
        is_same = not different and stored == ROWS_A_DAY
        rows.append(Row(f"import into {kind}", f"{rate:,.0f}/s", "", ""))
        rows.append(
            Row(f"questions that {kind} answers differently", said, "", "", "none", is_same)
        )
    return rows


def backlog(broker: Broker, rounds: int) -> list[Row]:
    """
    Measure the store's memory while it works off a million messages, once.
    """
    with addresses("sqlite") as make:
        result = _on_empty_vhost(
            broker, "storing", side=OURS, database=make(), count=1_000_000, again=False
        )
    return [
        Row.at_most(
            "store's memory at the end of a backlog of a million / at a tenth",
            f"{result['end'] / 2**20:.0f} MiB",
            f"{result['tenth'] / 2**20:.0f} MiB",
            result["end"] / result["tenth"],
            1.1,
        )
    ]


MEASURES: dict[str, Callable[[Broker, int], list[Row]]] = {
    "log_call": log_call,
    "spool": spool,
    "throughput": throughput,
    "group_commit": group_commit,
    "stalls": stalls,
    "storing": storing,
    "volume": volume,
    "moving": moving,
    "backlog": backlog,
}
