"""
Rounds in alternating order, each side of each in a process of its own, and their medians.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Any


Result = dict[str, Any]

TIMEOUT = 900
"""Seconds for one side of one round."""

_ROOT = pathlib.Path(__file__).parent.parent


class ChildError(RuntimeError):
    """
    A measure's process failed.
    """


def in_fresh_process(measure: str, **arguments: Any) -> Result:
    """
    Run a measure where nothing of an earlier one is left: no pools, no caches, no garbage.

    Args:
        measure: The name of its module.
        arguments: For its ``run``; what JSON can express.

    Raises:
        ChildError: If it failed; with what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", measure, json.dumps(arguments)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        raise ChildError(f"{measure} {arguments}: {(done.stdout + done.stderr)[-5_000:]}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def alternate(
    rounds: int, sides: list[str], run: Callable[[str], Result]
) -> list[dict[str, Result]]:
    """
    Run each side once a round, first one side first, then the other.

    Args:
        rounds: How many.
        sides: Their names.
        run: Runs one side.

    Returns:
        The results by side, for each round.
    """
    results = []
    for number in range(rounds):
        order = sides if number % 2 == 0 else sides[::-1]
        results.append({side: run(side) for side in order})
    return results


def medians(rounds: list[dict[str, Result]], field: str) -> dict[str, float]:
    """
    Return the median of a field over the rounds, by side.
    """
    return {side: median(one[side][field] for one in rounds) for side in rounds[0]}


def ratio(rounds: list[dict[str, Result]], field: str, side: str, peer: str) -> float:
    """
    Return the median over the rounds of a side's value divided by its peer's of that round.
    """
    return float(median(one[side][field] / one[peer][field] for one in rounds))
