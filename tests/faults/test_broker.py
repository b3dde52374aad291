"""
The broker is killed, alone or together with the process.
"""

import pathlib
import random
from collections.abc import Callable
from typing import Any

import eventlet
import pytest

from tests.faults.conftest import Queue, Running, settled
from tests.proxy import Proxy
from tests.rabbitmq import Broker
from tests.waiting import wait_until


Run = Callable[..., Running]

LOAD = 0.005
"""
Seconds between ten event logs: what a broker recovers in a moment.
"""

ROOM = {"buffer_size": 1_000_000, "buffer_bytes": 1 << 30}
"""
In memory, for what is logged in twenty outages one upon the other.
"""


def restart(broker: Broker, proxy: Proxy, queue: Queue, after: float = 0) -> None:
    """
    Kill the broker and start it *after* so many seconds; nobody reaches it before its queue is
    bound again, since RabbitMQ has been seen to come back without a binding a second old.
    """
    proxy.refusing = True
    broker.kill()
    eventlet.sleep(after)
    broker.start()
    queue.bind()
    proxy.refusing = False


@pytest.mark.timeout(1800)
class TestKilled:
    @pytest.mark.parametrize("section", [ROOM, {"spool": True}], ids=["memory", "spool"])
    def test_under_load(
        self,
        proxy: Proxy,
        proxied: str,
        queue: Queue,
        broker: Broker,
        run: Run,
        tmp_path: pathlib.Path,
        seed: random.Random,
        rounds: int,
        section: dict[str, Any],
    ) -> None:
        """
        Killed at random moments under load, and back each time: nothing is lost.
        """
        if "spool" in section:
            section = {"spool": str(tmp_path / "spool")}
        running = run(proxied, section, PAUSE=LOAD)
        for _ in range(max(1, rounds // 2)):
            before = len(queue)
            wait_until(lambda before=before: len(queue) > before + 100, timeout=60)
            eventlet.sleep(seed.random())
            restart(broker, proxy, queue)
        running.stop_logging()
        wait_until(lambda: running.is_done)
        wait_until(running.is_settled, timeout=120)
        running.stop()

        logged = running.logged
        taken = queue.take_all()
        print(f"{len(logged)} accepted, {len(taken)} received, {len(taken) - len(logged)} twice")
        assert len(logged) > 100
        assert set(logged) == {number for _, number in taken} | running.undelivered
        assert set() == running.undelivered
        assert len(set(logged)) == len({identity for identity, _ in taken})

    def test_both(
        self,
        proxy: Proxy,
        proxied: str,
        queue: Queue,
        broker: Broker,
        run: Run,
        tmp_path: pathlib.Path,
        seed: random.Random,
        rounds: int,
    ) -> None:
        """
        Broker and process, killed at random: with a spool every accepted event log arrives.
        """
        spool = tmp_path / "spool"
        running = run(proxied, {"spool": str(spool)}, PAUSE=LOAD)
        for number in range(rounds):
            wait_until(running.logs_more, timeout=60)
            eventlet.sleep(seed.random())
            if number == 0 or seed.random() < 0.3:
                restart(broker, proxy, queue, after=seed.random())
            else:
                running.kill()
                running = run(proxied, {"spool": str(spool)}, PAUSE=LOAD)
        running.kill()
        running = run(proxied, {"spool": str(spool)}, COUNT=0)
        wait_until(lambda: running.is_done and settled(running, spool)(), timeout=120)
        running.stop()

        logged = set(running.logged)
        taken = queue.take_all()
        numbers = {number for _, number in taken}
        assert logged <= numbers
        assert len(numbers - logged) <= rounds + 1
        assert len(numbers) == len({identity for identity, _ in taken})
        print(
            f"{len(logged)} accepted, {len(numbers)} received,"
            f" {len(taken) - len(numbers)} of them twice or more"
        )
