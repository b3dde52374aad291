"""
The process is killed, or has more to do than it can.
"""

import pathlib
import random
import subprocess
from collections.abc import Callable
from typing import Any

import eventlet
import pytest

from tests.faults.conftest import Queue, Running, settled
from tests.proxy import Proxy
from tests.waiting import wait_until


Run = Callable[..., Running]


@pytest.mark.timeout(300)
class TestKilled:
    def test_again_and_again(
        self,
        rabbit_config: dict[str, Any],
        queue: Queue,
        run: Run,
        tmp_path: pathlib.Path,
        seed: random.Random,
        rounds: int,
    ) -> None:
        """
        Killed at random moments and restarted each time, with a spool it loses nothing.
        """
        uri, spool = rabbit_config["AMQP_URI"], tmp_path / "spool"
        for _ in range(rounds):
            before = len(run_logged(tmp_path))
            running = run(uri, {"spool": str(spool)})
            wait_until(lambda before=before: len(run_logged(tmp_path)) > before)
            eventlet.sleep(seed.random() * 0.4)
            running.kill()
        running = run(uri, {"spool": str(spool)}, COUNT=0)
        wait_until(lambda: running.is_done and settled(running, spool)(), timeout=60)
        running.stop()

        logged = running.logged
        taken = queue.take_all()
        ids = {identity for identity, _ in taken}
        numbers = {number for _, number in taken}
        assert set(logged) <= numbers
        assert len(numbers - set(logged)) <= rounds  # killed between the call and the note of it
        assert len(ids) == len(numbers)
        for pid in {number.split("-")[0] for number in numbers}:
            first = list(dict.fromkeys(n for _, n in taken if n.startswith(f"{pid}-")))
            assert [f"{pid}-{index}" for index in range(len(first))] == first

    def test_rolling_restarts(
        self,
        rabbit_config: dict[str, Any],
        queue: Queue,
        run: Run,
        tmp_path: pathlib.Path,
        seed: random.Random,
        rounds: int,
    ) -> None:
        """
        Two instances share a spool directory; each is replaced, at random by SIGTERM or by
        SIGKILL, while the other goes on: each event log arrives, under one message id.
        """
        uri, spool = rabbit_config["AMQP_URI"], tmp_path / "spool"

        def start() -> Running:
            folder = tmp_path / f"instance-{len(instances)}"
            folder.mkdir()
            instances.append(run(uri, {"spool": str(spool)}, folder=folder))
            return instances[-1]

        instances: list[Running] = []
        running = [start(), start()]
        for _ in range(rounds):
            newer = start()
            wait_until(newer.logs_more, timeout=60)
            eventlet.sleep(seed.random())
            older = running.pop(0)
            older.stop() if seed.random() < 0.5 else older.kill()
            running.append(newer)
        for one in running:
            one.kill()
        last = run(uri, {"spool": str(spool)}, COUNT=0)
        wait_until(lambda: last.is_done and settled(last, spool)(), timeout=60)
        last.stop()

        logged = {number for one in instances for number in one.logged}
        taken = queue.take_all()
        numbers = {number for _, number in taken}
        assert logged <= numbers
        assert len(numbers - logged) <= rounds + 2  # killed between the call and the note of it
        assert len(numbers) == len({identity for identity, _ in taken})
        print(
            f"{len(logged)} accepted, {len(numbers)} received,"
            f" {len(taken) - len(numbers)} of them twice or more"
        )

    def test_stopped_without_a_broker(
        self,
        rabbit_config: dict[str, Any],
        queue: Queue,
        run: Run,
        tmp_path: pathlib.Path,
        nowhere: str,
    ) -> None:
        """
        What a service leaves that stops without a broker arrives after the next start.
        """
        section = {"spool": str(tmp_path / "spool"), "flush_timeout": 0.5}
        first = run(nowhere, section, COUNT=5_000, BATCH=100, PAUSE=0)
        wait_until(lambda: first.is_done)
        first.stop()
        second = run(rabbit_config["AMQP_URI"], section, COUNT=0)
        queue.wait_for(first.logged)
        second.stop()

        assert first.logged == [number for _, number in queue.take_all()]
        assert set() == first.undelivered


@pytest.mark.timeout(300)
class TestTooMuch:
    def test_never_yields(self, rabbit_config: dict[str, Any], queue: Queue, run: Run) -> None:
        """
        A worker that logs 300,000 event logs without ever yielding overflows nothing.
        """
        running = run(rabbit_config["AMQP_URI"], COUNT=300_000, BATCH=300_000)
        wait_until(lambda: running.is_done, timeout=120)
        # what still waits has the time that it takes: on a busy machine more than flush_timeout
        wait_until(lambda: len(queue) == 300_000 or running.undelivered, timeout=120, interval=0.5)
        running.stop()

        assert set() == running.undelivered
        assert 300_000 == len(queue)

    def test_long_outage(
        self,
        proxied: str,
        proxy: Proxy,
        queue: Queue,
        run: Run,
        tmp_path: pathlib.Path,
    ) -> None:
        """
        200,000 event logs wait for the broker on disk: memory stays flat, HTTP is answered.
        """
        spool = tmp_path / "spool"
        running = run(
            proxied,
            {"spool": str(spool), "buffer_size": 2_000},
            COUNT=200_000,
            BATCH=50,
            PAUSE=0,
        )
        wait_until(lambda: len(running.logged) > 2_000)
        proxy.refusing = True
        proxy.cut()
        before = running.resident
        silent = 0
        while not running.is_done:
            silent += not running.is_alive()
            eventlet.sleep(0.2)
        grown = running.resident - before
        proxy.refusing = False
        wait_until(lambda: settled(running, spool)(), timeout=120)
        running.stop()

        assert 0 == silent
        assert grown < 50 << 20, f"{grown >> 20} MiB"
        assert set(running.logged) == {number for _, number in queue.take_all()}
        assert set() == running.undelivered


# A file system of 2 MB on a folder, for the command that follows and for nobody else.
SMALL_DISK = """
mount -t tmpfs -o size=2m none "$1" && shift && exec "$@"
"""


def may_mount(folder: pathlib.Path) -> bool:
    """
    Whether this machine lets us have a file system of our own.
    """
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", SMALL_DISK, "sh", str(folder)]
    return 0 == subprocess.run([*command, "true"], check=False).returncode


@pytest.mark.timeout(300)
class TestDiskFull:
    def test_fills_up(
        self, proxied: str, proxy: Proxy, queue: Queue, run: Run, tmp_path: Any
    ) -> None:
        """
        A disk that fills up in an outage: what it holds and what the memory holds arrives
        afterwards, the rest is undelivered by name, and the service answers all the while.

        The outage is the network's. RabbitMQ has been seen to come back from SIGKILL without a
        binding that was a few seconds old, and then nobody gets what it confirms.
        """
        (spool := tmp_path / "spool").mkdir()
        if not may_mount(spool):
            pytest.skip("the kernel lets this user mount nothing; test_trouble.py limits a file")
        running = run(
            proxied,
            {"spool": str(spool), "buffer_size": 2_000},
            inside=(
                *("unshare", "--map-root-user", "--mount"),
                *("sh", "-c", SMALL_DISK, "sh", str(spool)),
            ),
            COUNT=20_000,
            PAUSE=0.001,
        )
        wait_until(lambda: running.logged)
        proxy.refusing = True
        proxy.cut()
        wait_until(lambda: running.is_done, timeout=120)
        assert running.is_alive()
        proxy.refusing = False
        undelivered = running.undelivered
        wait_until(running.is_settled)
        running.stop()

        taken = queue.take_all()
        numbers = {number for _, number in taken}
        assert 20_000 == len(running.logged)
        assert set(running.logged) == numbers | undelivered
        assert undelivered == running.undelivered
        assert len(numbers) > 2_000
        assert undelivered
        assert len(numbers) == len({identity for identity, _ in taken})


def run_logged(folder: pathlib.Path) -> list[str]:
    """
    Return what was logged so far, in any process.
    """
    path = folder / "logged"
    return path.read_text().split() if path.exists() else []
