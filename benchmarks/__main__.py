"""
Measure, and print the table: ``python -m benchmarks [MEASURE ...] [--rounds N]``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import traceback
from importlib.metadata import version

from benchmarks.measures import MEASURES
from benchmarks.table import Row, render
from tests.rabbitmq import Broker


PARTS = ("nameko", "kombu", "amqp", "eventlet", "nameko-eventlog-dispatcher", "opentelemetry-sdk")


def main() -> int:
    """
    Run the measures against a broker of their own.

    Returns:
        0, whatever the ratios are: they are for reading, on a machine that may be busy; 1 if
        something could not be measured.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("measure", nargs="*", help=f"any of {', '.join(MEASURES)}; default: all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    arguments = parser.parse_args()
    unknown = set(arguments.measure) - MEASURES.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(MEASURES)}")
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {arguments.rounds}")

    rows: list[Row] = []
    failed = []
    with Broker() as broker:
        for name in arguments.measure or MEASURES:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            try:
                found = MEASURES[name](broker, arguments.rounds)
            except Exception:  # what others have found is told all the same
                traceback.print_exc()
                failed.append(name)
                continue
            rows += found
            print(render(found), file=sys.stderr, flush=True)
    print()
    print(render(rows))
    print()
    print(
        f"{time.strftime('%Y-%m-%d', time.gmtime())}, Python {platform.python_version()},"
        f" {os.cpu_count()} cores, {arguments.rounds} rounds; "
        + ", ".join(f"{part} {version(part)}" for part in PARTS)
    )
    missed = sum(row.met is False for row in rows)
    print(f"{missed} of {sum(row.met is not None for row in rows)} bounds not met")
    if failed:
        print(f"could not be measured: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
