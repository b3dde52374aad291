"""
calls and latencies, on a database of their own.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_stored import Stored


def call(number: int, took: float | None, **end: Any) -> list[dict[str, Any]]:
    """
    Return what is special about the event logs of a call.
    """
    began = datetime.now(timezone.utc) - timedelta(seconds=60 - number)
    of_call = {"call_id": f"shop.pay.{number}", "call_stack": ["web.get.1", f"shop.pay.{number}"]}
    fired = {**of_call, "event_type": "entrypoint_fired", "timestamp": began.isoformat()}
    if took is None:
        return [fired]
    ended = (began + timedelta(seconds=took)).isoformat()
    told = {"event_type": "entrypoint_completed", "duration": took, "timestamp": ended, **end}
    return [fired, {**of_call, **told}]


@pytest.fixture(autouse=True)
def four(stored: Stored) -> None:
    """
    Calls: 1 completed, 2 failed, 3 failed as expected, 4 runs.
    """
    failed = {"event_type": "entrypoint_failed", "exception": []}
    stored(
        *call(1, 0.25),
        *call(2, 12, **failed),
        *call(3, 0.5, expected=True, **failed),
        *call(4, None),
    )


class TestCalls:
    def test_lines(self, run: Cli) -> None:
        """
        One a line: time, duration, outcome, where, call id.
        """
        lines = run("calls").stdout.splitlines()

        assert [
            ["-", "running", "shop.pay", "shop.pay.4"],
            ["500.0", "ms", "failed", "as", "expected", "shop.pay", "shop.pay.3"],
            ["12.0", "s", "failed", "shop.pay", "shop.pay.2"],
            ["250.0", "ms", "completed", "shop.pay", "shop.pay.1"],
        ] == [line.split()[2:] for line in lines]

    @pytest.mark.parametrize(
        ("options", "numbers"),
        [
            ("--outcome failed", "2"),
            ("--outcome failed --outcome running", "42"),
            ("--min-duration 500ms", "32"),
            ("--min-duration 300ms --max-duration 2s", "3"),
            ("--order longest", "231"),
            ("--order oldest --limit 2", "12"),
            ("--service shop --entrypoint pay --caller web --since 1h", "4321"),
            ("--until 1h", ""),
        ],
    )
    def test_filters(self, run: Cli, options: str, numbers: str) -> None:
        """
        The options are the filters of `EventLogQuery.calls`.
        """
        done = run("calls", "--json", *options.split())

        found = [json.loads(line)["call_id"][-1] for line in done.stdout.splitlines()]
        assert (list(numbers), 0 if numbers else 1) == (found, done.exit_code)

    def test_none(self, run: Cli) -> None:
        """
        Where there are none, it says so.
        """
        assert "no calls found" in run("calls", "--service", "nobody").stderr

    def test_wrong(self, run: Cli) -> None:
        """
        A wrong option is named, with what to pass.
        """
        assert "pass a number above 0" in run("calls", "-n", "0").stderr
        assert "is not one of 'running', 'completed'" in run("calls", "--outcome", "x").stderr


class TestLatencies:
    def test_table(self, run: Cli) -> None:
        """
        A line for each entrypoint.
        """
        head, line = run("latencies").stdout.splitlines()

        assert ["entrypoint", "calls", "a", "second", "failed", "expected"] == head.split()[:6]
        assert ["shop.pay", "4", "<0.01", "1", "1"] == line.split()[:5]

    def test_json(self, run: Cli) -> None:
        """
        JSON lines are what `EventLogQuery.latencies` answers, by time if asked for.
        """
        lines = run("latencies", "--json", "--bucket", "1d", "--since", "2d").stdout.splitlines()
        found = [json.loads(line) for line in lines]

        assert 4 == sum(one["calls"] for one in found)
        assert {"shop"} == {one["service_name"] for one in found}

    def test_none(self, run: Cli) -> None:
        """
        Where there are none, it says so.
        """
        done = run("latencies", "--service", "nobody")

        assert ("no calls found\n", 1) == (done.stderr, done.exit_code)
