"""
A signal handler of the user's raises at each step at which the spool takes over, reads or ends.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from nameko_eventlog.delivery import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.outbox import Ledger
from nameko_eventlog.delivery.spool import disk as disk_module
from nameko_eventlog.delivery.spool.disk import Stalled
from nameko_eventlog.delivery.spool.spooled_outbox import SpooledOutbox
from tests.delivery.conftest import make_message
from tests.faults.stepping import Stepper


class Spooled:
    """
    An outbox with a spool, and what counts what becomes of its event logs.

    Args:
        directory: The spool.
        size: The most messages in memory.
    """

    def __init__(self, directory: pathlib.Path, size: int = 1000) -> None:
        self.root = directory / "foo"
        self.ledger = Ledger()
        self._identifiers = UUID7Generator()
        self.outbox = SpooledOutbox(
            str(directory), "foo", size, 1 << 20, 1 << 24, self._identify, self.ledger
        )
        self.confirmed: list[int] = []

    def _identify(self, message: OutboxEntry) -> None:
        message.message_id = self._identifiers.make(message.timestamp)

    def put(self, *numbers: int, **changes: Any) -> None:
        """
        Accept event logs of these numbers.
        """
        for number in numbers:
            self.outbox.put(make_message(number, **changes))

    def take(self, limit: int) -> None:
        """
        Take some, as the relay does.
        """
        self.outbox.take(limit)

    def drain(self) -> None:
        """
        Take what is left until there is nothing, and confirm it.
        """
        while self.outbox.take(2) or self.outbox.taken:
            taken = list(self.outbox.taken)
            self.confirmed += [json.loads(message.body)["number"] for message in taken]
            self.outbox.settle_all(taken, self.ledger.confirmed)

    def cannot_write(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Let the disk refuse what is written.
        """

        def refuse(line: bytes) -> None:
            raise OSError("refused")

        monkeypatch.setattr(self.outbox._spool, "_append", refuse)

    @property
    def segment(self) -> pathlib.Path:
        """
        Its only file.
        """
        (path,) = self.root.glob("*/*.jsonl")
        return path

    @property
    def waiting(self) -> tuple[int, int]:
        """
        How many wait, as counted and as kept.
        """
        return self.ledger.stats()["waiting"], self.outbox.waiting


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A busy machine does not count as a stalled disk.
    """
    monkeypatch.setattr(disk_module, "PATIENCE", 20)


@pytest.fixture
def each_step(tmp_path: pathlib.Path) -> Iterator[Callable[..., Iterator[Spooled]]]:
    """
    Make outboxes, and interrupt what is done with each of them one step later than before.
    """
    made: list[Spooled] = []

    def steps(
        prepare: Callable[[Spooled], object],
        interrupted: Callable[[Spooled], object],
        size: int = 3,
    ) -> Iterator[Spooled]:
        for step in count(1):
            spooled = Spooled(tmp_path / str(step), size)
            made.append(spooled)
            prepare(spooled)
            stepper = Stepper(step)
            stepper.run(lambda one=spooled: interrupted(one))  # type: ignore[misc]
            print(step, stepper.where)  # of the last one, if the test fails
            yield spooled
            spooled.outbox.close()
            if not stepper.where:
                return

    yield steps
    for one in made:
        one.outbox.close()


def _damage(spooled: Spooled) -> None:
    content = spooled.segment.read_bytes()
    spooled.segment.write_bytes(content.replace(b'\\"number\\": 5', b'\\"number\\": 9'))


def _cut(spooled: Spooled) -> None:
    os.truncate(spooled.segment, spooled.segment.stat().st_size - 2)


class TestReading:
    @pytest.mark.parametrize(("harm", "lost"), [(_damage, 5), (_cut, 7)])
    def test_lost(
        self,
        each_step: Callable[..., Iterator[Spooled]],
        harm: Callable[[Spooled], object],
        lost: int,
    ) -> None:
        """
        What is not whole in a file is counted once, and the rest is read.
        """

        def prepare(spooled: Spooled) -> None:
            spooled.put(*range(8))
            harm(spooled)
            spooled.take(3)

        for spooled in each_step(prepare, lambda one: one.take(2)):
            assert spooled.waiting[0] == spooled.waiting[1]
            spooled.drain()
            assert (0, 0) == spooled.waiting
            assert [*range(lost), *range(lost + 1, 8)] == sorted(spooled.confirmed)
            assert 1 == spooled.ledger.undelivered.value

    def test_unreadable(
        self, each_step: Callable[..., Iterator[Spooled]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What is in a file that cannot be read is counted once.
        """

        def refuse(fd: int, size: int, at: int) -> bytes:
            raise OSError("refused")

        def prepare(spooled: Spooled) -> None:
            spooled.put(*range(8))
            spooled.take(3)
            monkeypatch.setattr(spooled.outbox._spool._disk, "read", refuse)

        for spooled in each_step(prepare, lambda one: one.take(2)):
            assert spooled.waiting[0] == spooled.waiting[1]
            spooled.drain()
            assert (0, 0) == spooled.waiting
            assert 5 == spooled.ledger.undelivered.value

    def test_stalled(self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What was lost of one file is counted although the disk stalls at the next.
        """

        def stall(fd: int, size: int, at: int) -> bytes:
            if fd == growing.fd:
                raise Stalled
            return original(fd, size, at)

        dead = Spooled(tmp_path)
        dead.put(1, 2, 3)
        (path,) = dead.root.glob("*/*.jsonl")
        dead.outbox.close()
        spooled = Spooled(tmp_path)
        spooled.outbox._adopt()
        spooled.put(4)
        os.truncate(path, 0)
        growing: Any = spooled.outbox._spool._growing
        original = spooled.outbox._spool._disk.read
        with monkeypatch.context() as stalled:
            stalled.setattr(spooled.outbox._spool._disk, "read", stall)
            spooled.take(10)
            assert (1, 1) == spooled.waiting
        spooled.drain()
        spooled.outbox.close()

        assert [4] == spooled.confirmed
        assert 3 == spooled.ledger.undelivered.value


class TestAdoption:
    def test_each_step(self, each_step: Callable[..., Iterator[Spooled]]) -> None:
        """
        What a dead process has left is counted when it is taken over, now or the next time.
        """

        def prepare(spooled: Spooled) -> None:
            dead = Spooled(spooled.root.parent)
            dead.put(1, 2, 3)
            dead.outbox.close()

        for spooled in each_step(prepare, lambda one: one.outbox._adopt()):
            assert spooled.waiting[0] == spooled.waiting[1]
            spooled.outbox._adopt()
            assert (3, 3) == spooled.waiting
            spooled.drain()
            assert [1, 2, 3] == spooled.confirmed


class TestClose:
    def test_each_step(
        self, each_step: Callable[..., Iterator[Spooled]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """
        What is in memory alone is returned when it is closed again, and the lock is let go of.
        """

        def prepare(spooled: Spooled) -> None:
            spooled.put(0, 1)
            spooled.put(2, headers={"x": object()})
            spooled.take(2)
            spooled.cannot_write(monkeypatch)
            spooled.put(3, 4)

        for spooled in each_step(prepare, lambda one: one.outbox.close(), size=100):
            left = spooled.outbox.close()
            assert [2, 3, 4] == [json.loads(message.body)["number"] for message in left]
            next_one = Spooled(spooled.root.parent)
            next_one.outbox._adopt()
            next_one.drain()
            assert [0, 1] == next_one.confirmed
            next_one.outbox.close()
