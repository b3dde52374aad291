"""
The network between the service and its broker is a bad one, or the broker is late.
"""

import pathlib
import random
from collections.abc import Callable
from typing import Any

import eventlet
import pytest

from tests.faults.conftest import Queue, Running, settled
from tests.proxy import Proxy
from tests.waiting import wait_until


Run = Callable[..., Running]


def check_all_received(running: Running, queue: Queue) -> None:
    """
    Stop the service, and hold what was logged to what has arrived.
    """
    wait_until(running.is_settled)  # to count messages is not enough: some come twice
    running.stop()
    taken = queue.take_all()
    numbers = {number for _, number in taken}
    print(
        f"{len(running.logged)} accepted, {len(numbers)} received,"
        f" {len(taken) - len(numbers)} of them twice or more"
    )
    assert set(running.logged) == numbers
    assert len(numbers) == len({identity for identity, _ in taken})


@pytest.mark.timeout(1800)
class TestPath:
    @pytest.mark.parametrize("section", [{}, {"spool": True}], ids=["memory", "spool"])
    def test_latency_and_stalls(
        self,
        proxied: str,
        proxy: Proxy,
        queue: Queue,
        run: Run,
        tmp_path: pathlib.Path,
        seed: random.Random,
        rounds: int,
        section: dict[str, Any],
    ) -> None:
        """
        200 ms each way, stalls, some longer than a confirm may take, and resets: nothing is lost.
        """
        spool = tmp_path / "spool"
        if section:
            section = {"spool": str(spool)}
        proxy.delay = 0.2
        running = run(proxied, {"confirm_timeout": 2, **section}, PAUSE=0.02)
        for _ in range(rounds):
            wait_until(running.logs_more)
            eventlet.sleep(seed.random())
            proxy.frozen = True
            eventlet.sleep(seed.random() * 4)
            proxy.frozen = False
            if seed.random() < 0.3:
                proxy.cut()
        running.stop_logging()
        wait_until(lambda: running.is_done)
        queue.wait_for(running.logged)
        if section:
            wait_until(settled(running, spool), timeout=60)

        assert set() == running.undelivered
        check_all_received(running, queue)

    def test_down_at_the_start(
        self,
        proxied: str,
        proxy: Proxy,
        queue: Queue,
        run: Run,
        rounds: int,
    ) -> None:
        """
        Down when the service starts, and for ``ROUNDS`` seconds: it serves, and all arrives.
        """
        proxy.refusing = True
        running = run(proxied, {}, COUNT=5_000)
        wait_until(lambda: running.is_done, timeout=60)
        for _ in range(rounds):
            assert running.is_alive()
            eventlet.sleep(1)
        assert 0 == len(queue)
        proxy.refusing = False
        queue.wait_for(running.logged)

        assert set() == running.undelivered
        check_all_received(running, queue)
