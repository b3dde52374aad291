"""
The disk under the spool does not answer for a while: real, a frozen file system, or at each call.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import eventlet
import pytest
from eventlet import patcher

from nameko_eventlog.delivery import BrokerDelivery
from nameko_eventlog.delivery.spool import directory, segments
from tests.delivery.conftest import (  # noqa: F401
    Lines,
    Received,
    check_sum,
    make_delivery,
    make_message,
    received,
    said,
    settled,
    undelivered,
    uri,
)
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]

threading = patcher.original("threading")


class Disk:
    """
    A directory whose disk can be stalled.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._answers = threading.Event()
        self._answers.set()
        self.stop: Callable[[], object] = self._answers.clear
        self.go_on: Callable[[], object] = self._answers.set

    def waiting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """
        Return *original*, which waits while the disk is stalled.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            self._answers.wait(20)
            return original(*args, **kwargs)

        return call


@pytest.fixture(params=["frozen", "calls"])
def disk(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Disk]:
    """
    An ext4 of its own that `fsfreeze` freezes, where that may be mounted, or calls that wait.
    """
    disk = Disk(tmp_path / "disk")
    disk.path.mkdir()
    if request.param == "frozen" and mounted(tmp_path / "image", disk.path):
        disk.stop = lambda: subprocess.run(["fsfreeze", "-f", disk.path], check=True)
        disk.go_on = lambda: subprocess.run(["fsfreeze", "-u", disk.path], check=False)
        yield disk
        disk.go_on()
        subprocess.run(["umount", "--lazy", disk.path], check=True)
        return
    for module, names in (
        (segments._os, ("pwrite", "fdatasync", "ftruncate", "pread", "open", "fsync")),
        (directory.os, ("unlink", "mkdir")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, disk.waiting(getattr(module, name)))
    yield disk
    disk.go_on()


def mounted(image: pathlib.Path, path: pathlib.Path) -> bool:
    """
    Mount a small ext4 at *path*, and tell whether this machine lets us.
    """
    image.write_bytes(b"")
    os.truncate(image, 32 << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        command = ["mount", "-o", "loop", image, path]
        return 0 == subprocess.run(command, check=False, capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return False


class Pulse:
    """
    A green thread that notes for how long it did not get its turn.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._thread = eventlet.spawn(self._beat)

    def _beat(self) -> None:
        while True:
            before = monotonic()
            eventlet.sleep(0.01)
            self.longest = max(self.longest, monotonic() - before)


@pytest.mark.timeout(120)
class TestStalledDisk:
    def test_goes_on(
        self,
        uri: str,  # noqa: F811
        received: Received,  # noqa: F811
        make_delivery: Make,  # noqa: F811
        said: Lines,  # noqa: F811
        disk: Disk,
    ) -> None:
        """
        While the disk stalls for seconds, event logs go out through memory, in their order; no
        green thread waits for it; one line says so, and one that it is over.
        """
        delivery = make_delivery(uri, spool=str(disk.path))
        for number in range(20):
            delivery.accept(make_message(number))
        pulse = Pulse()
        eventlet.sleep(0.05)
        disk.stop()
        end = monotonic() + 2.5
        number = 20
        while monotonic() < end:
            delivery.accept(make_message(number))
            number += 1
            eventlet.sleep(0.01)
        during = delivery.stats()
        delivery.deliver(make_message(number))  # the broker has confirmed it
        disk.go_on()
        again = "writing event logs of foo to spool"
        wait_until(lambda: delivery.accept(make_message(-1)) or said.saying(again))
        wait_until(settled(delivery))

        stats = check_sum(delivery)
        arrived = [one for one in received.wait_for(stats["confirmed"]) if one >= 0]
        assert list(range(number + 1)) == arrived
        assert 0 == stats["undelivered"]
        assert pulse.longest < 2
        assert 1 == len(said.saying("cannot write to spool"))
        assert 1 == len(said.saying(again))
        assert during["stalled_seconds"] >= 1
        assert stats["stalled_seconds"] >= during["stalled_seconds"]

    def test_both_away(
        self,
        nowhere: str,
        uri: str,  # noqa: F811
        received: Received,  # noqa: F811
        make_delivery: Make,  # noqa: F811
        disk: Disk,
    ) -> None:
        """
        While the broker is away as well, they wait in memory, at risk, and are written when the
        disk answers: each line once, in order.
        """
        delivery = make_delivery(nowhere, spool=str(disk.path))
        delivery.accept(make_message(0))
        eventlet.sleep(0.01)
        disk.stop()
        for number in range(1, 10):
            delivery.accept(make_message(number))
        assert 9 == delivery.stats()["unpersisted_count"]
        disk.go_on()
        wait_until(lambda: not delivery._outbox._spool.is_stalled)
        delivery.accept(make_message(10))
        assert 0 == delivery.stats()["unpersisted_count"]
        delivery.stop(0)
        last = make_delivery(uri, spool=str(disk.path))

        assert list(range(11)) == received.wait_for(11)
        wait_until(settled(last))
        assert 11 == check_sum(last)["confirmed"]
        assert 11 == len(set(received.ids)) == len(received.ids)

    def test_stop(
        self,
        nowhere: str,
        make_delivery: Make,  # noqa: F811
        undelivered: Lines,  # noqa: F811
        disk: Disk,
    ) -> None:
        """
        A service that stops meanwhile does not wait for the disk: what is in memory alone is
        undelivered by name.
        """
        delivery = make_delivery(nowhere, spool=str(disk.path))
        delivery.accept(make_message(0))
        eventlet.sleep(0.01)
        disk.stop()
        delivery.accept(make_message(1))
        begin = monotonic()
        delivery.stop(0)
        assert monotonic() - begin < 15
        assert 1 == len(undelivered)
        disk.go_on()
