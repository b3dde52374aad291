"""
The power fails: what had reached the block device by then is all that there is.

A file system is mounted from a file. A copy of that file is what a start after a power cut finds:
whatever the kernel had not yet given to the device is missing from it.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.faults.conftest import Queue, Running
from tests.waiting import wait_until


Run = Callable[..., Running]

# Mounted for the command that follows, and for nobody else.
MOUNTED = 'mount -o loop "$1" "$2" && shift 2 && exec "$@"'

# Stores event logs, a hundred in a transaction, and says after each how many are stored.
STORE = """
import sys
from nameko_eventlog.store.writing import EventLogWriter
from tests.store.conftest import body, make_message
writer = EventLogWriter(sys.argv[1], ["json"])
for number in range(1, 10_000):
    assert [] == writer.write([make_message(body()) for _ in range(100)])
    print(100 * number, flush=True)
"""

COUNT = """
import sqlite3, sys
print(sqlite3.connect(sys.argv[1]).execute("SELECT count(*) FROM event_logs").fetchone()[0])
"""


class Device:
    """
    An ext4 in a file.

    Args:
        folder: Where to keep the file, and what it is mounted on.
        name: Its name.
    """

    def __init__(self, folder: pathlib.Path, name: str) -> None:
        self.image = folder / f"{name}.img"
        self.folder = folder / name
        self.folder.mkdir()

    def make(self) -> None:
        """
        Make the file system.
        """
        with self.image.open("wb") as file:
            file.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", self.image], check=True)

    @property
    def inside(self) -> tuple[str, ...]:
        """
        The beginning of a command that has it mounted.
        """
        shell = ("sh", "-c", MOUNTED, "sh", str(self.image), str(self.folder))
        return ("unshare", "--mount", *shell)


@pytest.fixture
def device(tmp_path: pathlib.Path) -> Device:
    """
    An empty file system.
    """
    device = Device(tmp_path, "device")
    try:
        device.make()
        subprocess.run([*device.inside, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the kernel lets this user mount no file; test_damage.py cuts files")
    return device


def cut(device: Device, process: subprocess.Popen[Any], name: str, goes_on: bool) -> Device:
    """
    Return what a power cut would leave now, under a name of its own; the process goes on or ends.
    """
    left = Device(device.image.parent, name)
    process.send_signal(signal.SIGSTOP)  # the kernel goes on for itself; a copy takes no time
    shutil.copyfile(device.image, left.image)
    if goes_on:
        process.send_signal(signal.SIGCONT)
    else:
        process.kill()
        process.wait()
    return left


def lines(device: Device) -> int:
    """
    Count the event logs in the spool on *device*.
    """
    command = f"cat {device.folder}/*/*/*.jsonl | grep -c message_id || true"
    done = subprocess.run(
        [*device.inside, "sh", "-c", command], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.timeout(300)
class TestPowerCut:
    def test_spool(
        self,
        device: Device,
        rabbit_config: dict[str, Any],
        queue: Queue,
        run: Run,
        nowhere: str,
    ) -> None:
        """
        What was accepted is soon on the device, while the service runs on, and arrives.
        """
        section = {"spool": str(device.folder)}
        first = run(nowhere, section, inside=device.inside, BATCH=10, PAUSE=0.01)
        wait_until(lambda: len(first.logged) >= 1_000, timeout=60)
        before = set(first.logged)
        copies = map(str, itertools.count())
        wait_until(
            lambda: lines(cut(device, first.process, next(copies), True)) >= len(before),
            timeout=60,
            interval=0.5,
        )
        left = cut(device, first.process, "left", False)
        accepted = set(first.logged)
        second = run(
            rabbit_config["AMQP_URI"],
            {"spool": str(left.folder)},
            inside=left.inside,
            COUNT=0,
        )
        queue.wait_for(before)
        second.stop()
        arrived = [number for _, number in queue.take_all()]
        print(f"{len(before)} were to be on the device, {len(arrived)} were, of {len(accepted)}")

        assert before <= set(arrived)
        # the last one may have been written, and its log call not have returned
        assert len(set(arrived) - accepted) <= 1
        assert len(arrived) == len(set(arrived))

    def test_store(self, device: Device) -> None:
        """
        All event logs whose transaction has ended are on the device.
        """
        environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONWARNINGS": "ignore"}
        python = [sys.executable, "-c"]
        process = subprocess.Popen(
            [*device.inside, *python, STORE, f"sqlite:///{device.folder}/e.db"],
            env=environment,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        said = 0
        for _ in range(50):
            said = int(process.stdout.readline())
        left = cut(device, process, "left", False)
        said = int((process.stdout.read().split() or [said])[-1])
        process.stdout.close()
        found = subprocess.run(
            [*left.inside, *python, COUNT, f"{left.folder}/e.db"],
            check=True,
            capture_output=True,
        )

        print(f"{said} acknowledged, {int(found.stdout)} on the device")
        assert said <= int(found.stdout) <= said + 100
