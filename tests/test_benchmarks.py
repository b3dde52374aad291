"""
The benchmarks' measures, small: `make bench` is too long to be run for each change.
"""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from benchmarks.rounds import Result, in_fresh_process
from tests.clickhouse import ClickHouse
from tests.databases import EVERY
from tests.nameko_version import NAMEKO
from tests.postgresql import PostgreSQL
from tests.rabbitmq import Broker


pytestmark = pytest.mark.skipif(NAMEKO == 3, reason="they are run on Nameko 2, as the peer is")


def _numbers(result: Any) -> list[float]:
    """
    Return all numbers in a measure's result.
    """
    if isinstance(result, dict):
        return [number for value in result.values() for number in _numbers(value)]
    if isinstance(result, list):
        return [number for value in result for number in _numbers(value)]
    return [result]


def _check(result: Result) -> None:
    numbers = _numbers(result)
    assert numbers
    assert all(number >= 0 for number in numbers)
    assert any(number > 0 for number in numbers)


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        ("spool", {"side": "memory", "rounds": 1, "calls": 50}),
        ("spool", {"side": "spool", "rounds": 1, "calls": 50}),
        ("spool", {"side": "spool", "rounds": 1, "calls": 5, "pause": 0.01}),
        ("throughput", {"side": "ceiling", "count": 200, "kind": "classic"}),
        ("throughput", {"side": "ours", "count": 200, "kind": "quorum"}),
        ("group_commit", {"side": "ours", "workers": 2, "count": 5, "bound": True}),
        ("stalls", {"count": 200, "bound": False}),
        ("soak", {"count": 1_000}),
    ],
)
def test_broker(broker: Broker, measure: str, arguments: dict[str, Any]) -> None:
    """
    What measures the way to the broker runs; log_call needs a peer that is not installed here.
    """
    vhost = broker.add_vhost()
    _check(in_fresh_process(measure, uri=broker.vhost_uri(vhost), **arguments))


@pytest.mark.parametrize("database", EVERY, indirect=True)
@pytest.mark.parametrize("side", ["ours", "handler"])
def test_storing(broker: Broker, database: str, side: str) -> None:
    """
    What measures the way into a database runs, on all of them.
    """
    uri = broker.vhost_uri(broker.add_vhost())
    arguments = {"side": side, "database": database, "count": 50, "again": False}
    _check(in_fresh_process("storing", uri=uri, **arguments))


def test_moving(tmp_path: pathlib.Path, postgresql: PostgreSQL, clickhouse: ClickHouse) -> None:
    """
    What was exported from one database and imported into the others gives the same answers.
    """
    postgresql.start()
    clickhouse.start()
    targets = [postgresql.create_database(), clickhouse.create_database()]
    source = f"sqlite:///{tmp_path}/eventlog.db"
    found = in_fresh_process("moving", source=source, targets=targets, rows=3_000)

    assert [[3_000, []], [3_000, []]] == [[one[0], one[2]] for one in found["moved"]]


def test_volume(database: str) -> None:
    """
    What measures queries and pages finds them answered, on all databases.
    """
    found = in_fresh_process("volume", database=database, rows=5_000, rounds=1)

    assert 10 == len(found["rates"])
    assert 40 < len(found["asked"])
    assert all(cold > 0 and warm > 0 for cold, warm, _ in found["asked"].values())
