"""
A cluster with a quorum queue loses nodes. Only in ``make chaos``: three nodes take their time.
"""

import pathlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import eventlet
import pytest

from tests.faults.cluster import Cluster
from tests.faults.conftest import Queue, Running, settled
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """
    A running cluster.
    """
    with Cluster() as cluster:
        yield cluster


@pytest.mark.timeout(3600)
def test_nodes_lost(
    cluster: Cluster,
    run: Callable[..., Running],
    tmp_path: pathlib.Path,
    seed: random.Random,
    rounds: int,
) -> None:
    """
    The leader killed, a node cut off from the others, at random: nothing is lost.
    """
    queue = Queue(cluster.uri, **{"x-queue-type": "quorum"})
    spool = tmp_path / "spool"
    running = run(cluster.uri, {"spool": str(spool)})
    killed = cut = 0
    for number in range(max(2, rounds // 4)):
        wait_until(running.logs_more, timeout=60)
        eventlet.sleep(seed.random())
        if number == 0 or (number > 1 and seed.random() < 0.5):
            node = cluster.leader("q")
            node.kill()
            eventlet.sleep(seed.random() * 5)
            node.start()
            wait_until(lambda node=node: 3 == cluster.count(node), timeout=120)
            killed += 1
        else:
            with cluster.cut_off(seed.choice(cluster.nodes)):
                eventlet.sleep(seed.random() * 5)
            cut += 1
    running.stop_logging()
    wait_until(lambda: running.is_done and settled(running, spool)(), timeout=180)
    running.stop()

    logged: list[str] = running.logged
    taken: list[tuple[str, Any]] = queue.take_all()
    numbers = {number for _, number in taken}
    print(
        f"{killed} leaders killed, {cut} nodes cut off: {len(logged)} accepted,"
        f" {len(numbers)} received, {len(taken) - len(numbers)} of them twice or more"
    )
    assert killed
    assert cut
    assert set(logged) == numbers
    assert len(numbers) == len({identity for identity, _ in taken})
