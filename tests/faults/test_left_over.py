"""
What a crash loop leaves: the spools of many dead processes, and a next one that is killed, too.
"""

import json
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import eventlet
import pytest

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.spool.lines import encode
from tests.delivery.spool.spooling import written
from tests.faults.conftest import Queue, Running, settled
from tests.waiting import wait_until


Run = Callable[..., Running]

DEAD = 100
EACH = 50

FEW_FILES = ("sh", "-c", 'ulimit -n 160 && exec "$@"', "sh")


def leave(spool: pathlib.Path) -> list[str]:
    """
    Leave what so many processes would, and return the numbers.
    """
    identifiers = UUID7Generator()
    left = []
    for process in range(DEAD):
        lines = []
        for index in range(EACH):
            number = f"{process}-{index}"
            body = json.dumps({"data": {"number": number}}).encode()
            message = OutboxEntry(body, "application/json", "utf-8", {}, "counted", 1.7e9)
            message.message_id = identifiers.make(message.timestamp)
            lines.append(encode(message))
            left.append(number)
        directory = written(spool / "foo" / f"dead-{process}", *lines)
        # as after SIGKILL: nothing is closed in order, and nothing of it is noted
        shutil.copytree(directory.path, spool / "foo" / f"{process:032x}")
        directory.close()
        shutil.rmtree(directory.path)
    return left


@pytest.mark.timeout(300)
def test_killed_while_adopting(
    rabbit_config: dict[str, Any],
    queue: Queue,
    run: Run,
    tmp_path: pathlib.Path,
    seed: random.Random,
    rounds: int,
) -> None:
    """
    A hundred dead processes' spools, few files to open, and SIGKILL in the midst of it.
    """
    uri, spool = rabbit_config["AMQP_URI"], tmp_path / "spool"
    left = leave(spool)
    for _ in range(rounds // 2):
        before = len(queue)
        running = run(uri, {"spool": str(spool)}, inside=FEW_FILES, COUNT=100)
        wait_until(lambda before=before: len(queue) > before, timeout=60)
        eventlet.sleep(seed.random() * 0.2)
        running.kill()
    running = run(uri, {"spool": str(spool)}, inside=FEW_FILES, COUNT=0)
    wait_until(lambda: running.is_done and settled(running, spool)(), timeout=60)
    assert running.is_alive()
    running.stop()

    taken = queue.take_all()
    numbers = {number for _, number in taken}
    assert set(left) | set(running.logged) <= numbers
    assert len(numbers) - len(left) <= len(running.logged) + rounds  # killed before the note
    assert len(numbers) == len({identity for identity, _ in taken})
    assert [] == list((spool / "foo").iterdir())
    print(f"{len(numbers)} received, {len(taken) - len(numbers)} of them twice or more")
