"""
UUIDs of version 7.
"""

import random
import threading
import time
import uuid

import pytest
from eventlet import patcher

from nameko_eventlog.delivery import identifiers
from nameko_eventlog.delivery.identifiers import UUID7Generator


class Clock:
    """
    A clock that can be set, in the place of ``time.time``.
    """

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class TestUUID7Generator:
    def test_format(self) -> None:
        """
        A UUID is of version 7 and variant 1, and bears the milliseconds.
        """
        made = uuid.UUID(UUID7Generator().make(1_700_000_000.123))

        assert 7 == made.version
        assert uuid.RFC_4122 == made.variant
        assert 1_700_000_000_123 == made.int >> 80

    def test_text(self) -> None:
        """
        It is written in the usual way.
        """
        text = UUID7Generator().make(1.0)

        assert str(uuid.UUID(text)) == text

    def test_monotonic(self) -> None:
        """
        Within a millisecond each is greater than the one before.
        """
        generator = UUID7Generator()
        made = [generator.make(1.0) for _ in range(10_000)]

        assert sorted(set(made)) == made

    def test_clock_going_back(self) -> None:
        """
        A clock that goes back does not bring the order back.
        """
        generator = UUID7Generator()
        made = [generator.make(seconds) for seconds in (10.0, 9.0, 0.0, -5.0, 10.001)]

        assert sorted(set(made)) == made

    @pytest.mark.parametrize("wrong_by", [1.5, 7_200.0, 3 * 86_400.0, 1e9])
    def test_clock_corrected(self, wrong_by: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        After the clock was ahead and is put right, ids bear the right time at once, in order.
        """
        clock = Clock(1_700_000_000.0 + wrong_by)
        monkeypatch.setattr(identifiers, "time", clock)
        generator = UUID7Generator()
        ahead = [generator.make(clock.now) for _ in range(1_000)]
        clock.now = 1_700_000_000.0
        right = []
        for _ in range(1_000):
            right.append(generator.make(clock.now))
            clock.now += 0.0001

        assert 2_000 == len({*ahead, *right})
        assert sorted(right) == right
        assert {1_700_000_000_000 + n for n in range(100)} == {
            uuid.UUID(made).int >> 80 for made in right
        }

    def test_clock_wrong_again_and_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A clock that is set to and fro between the same two moments makes no id twice.
        """
        clock = Clock(0.0)
        monkeypatch.setattr(identifiers, "time", clock)
        generator = UUID7Generator()
        made = []
        for number in range(10_000):
            clock.now = 1_700_000_000.0 + number % 2 * 7_200
            made.append(generator.make(clock.now))

        assert 10_000 == len(set(made))

    @pytest.mark.parametrize("back", [0.001, 0.2, 0.9])
    def test_clock_adjusted(self, back: float, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A clock that is put back by less than a second does not bring the order back.
        """
        clock = Clock(1_700_000_000.0)
        monkeypatch.setattr(identifiers, "time", clock)
        generator = UUID7Generator()
        made = [generator.make(clock.now)]
        clock.now -= back
        made += [generator.make(clock.now) for _ in range(1_000)]
        clock.now += 2 * back
        made.append(generator.make(clock.now))

        assert sorted(set(made)) == made

    def test_counted_out(self) -> None:
        """
        When the random bits are counted out, the next millisecond is begun.
        """
        generator = UUID7Generator()
        first = generator.make(1.0)
        generator._tail = 2**74 - 1
        second = generator.make(1.0)

        assert first < second
        assert 1001 == uuid.UUID(second).int >> 80

    def test_future(self) -> None:
        """
        A time that is still to come is taken for now.
        """
        generator = UUID7Generator()
        before = int(time.time() * 1000)

        made = uuid.UUID(generator.make(1e20)).int >> 80

        assert before <= made <= int(time.time() * 1000)

    def test_random_is_left_alone(self) -> None:
        """
        Neither does it touch the service's random numbers, nor do they touch it.
        """
        random.seed(1)
        state = random.getstate()
        first = UUID7Generator().make(1.0)
        assert state == random.getstate()
        random.seed(1)

        assert first != UUID7Generator().make(1.0)

    def test_reseed(self) -> None:
        """
        Two copies of one generator part when one is reseeded, as after a fork.
        """
        parent, child = UUID7Generator(), UUID7Generator()
        child._getrandbits = random.Random(1).getrandbits
        parent._getrandbits = random.Random(1).getrandbits
        assert parent.make(1.0) == child.make(1.0)
        child.reseed()

        assert parent.make(2.0) != child.make(2.0)

    def test_threads(self) -> None:
        """
        OS threads that share one never get the same UUID.
        """
        generator = UUID7Generator()
        made: list[str] = []
        threading_ = patcher.original("threading")

        def make() -> None:
            made.extend(generator.make(1.0) for _ in range(5000))

        threads = [threading_.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert threading is not threading_
        assert 20_000 == len(set(made))
