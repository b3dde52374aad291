"""
A signal handler of the user's raises, at any step of the relay or of a log call.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
from collections.abc import Callable, Iterator
from types import FrameType

import eventlet
import pytest

import nameko_eventlog.delivery
from nameko_eventlog.delivery import BrokerDelivery
from tests.delivery.conftest import Lines, Received, check_sum, make_message
from tests.waiting import wait_until


Make = Callable[..., BrokerDelivery]

DELIVERY = os.path.dirname(nameko_eventlog.delivery.__file__)


class Storm:
    """
    Signals at random moments, whose handler raises where the delivery's code runs.

    Not in eventlet's hub itself: no library survives that one loses a timer.

    Args:
        seed: Chooses the moments.
        error: What is raised.
    """

    def __init__(self, seed: random.Random, error: type[BaseException]) -> None:
        self._seed = seed
        self._error = error
        self.raised = 0
        self.places: set[tuple[str, int]] = set()
        self._before = signal.signal(signal.SIGALRM, self._handle)
        self._arm()

    def _arm(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._seed.uniform(0.0003, 0.005))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._arm()
        if frame is not None and frame.f_code.co_filename.startswith(DELIVERY):
            self.raised += 1
            self.places.add((frame.f_code.co_name, frame.f_lineno))
            raise self._error("a signal")

    def end(self) -> None:
        """
        Let no more come.
        """
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


@pytest.fixture
def storm(seed: random.Random) -> Iterator[Callable[[type[BaseException]], Storm]]:
    """
    Begin a storm.
    """
    storms: list[Storm] = []

    def begin(error: type[BaseException]) -> Storm:
        storms.append(Storm(seed, error))
        return storms[-1]

    yield begin
    for one in storms:
        one.end()


class TestStorm:
    @pytest.mark.parametrize("error", [TimeoutError, RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("kept", ["in memory", "in a spool"])
    def test_sum(
        self,
        uri: str,
        tmp_path: pathlib.Path,
        make_delivery: Make,
        storm: Callable[[type[BaseException]], Storm],
        error: type[BaseException],
        kept: str,
        undelivered: Lines,
    ) -> None:
        """
        What was accepted arrives or is undelivered, and is counted once; the relay goes on.
        """
        received = Received(uri)
        spool = str(tmp_path / "spool") if kept == "in a spool" else None
        delivery = make_delivery(uri, spool=spool)
        delivery.deliver(make_message(0))
        blowing = storm(error)
        accepted, uncertain = {0}, set()
        for number in range(1, 100_000):
            if blowing.raised >= 60:
                break
            try:
                delivery.accept(make_message(number))
                accepted.add(number)
                if number % 10 == 0:
                    eventlet.sleep(0)
            except (KeyboardInterrupt, Exception):
                if number not in accepted:
                    uncertain.add(number)
        blowing.end()
        wait_until(lambda: delivery.stats()["waiting"] <= 0, timeout=60)
        by_name = {json.loads(one["body"])["number"] for one in undelivered.objects}
        received.wait_for(len(accepted - by_name), timeout=60)
        received.read()

        arrived = set(received.numbers)
        print(f"{blowing.raised} raised in {len(blowing.places)} places, {len(uncertain)} unsure")
        assert set() == accepted - arrived - by_name
        assert arrived <= accepted | uncertain
        stats = check_sum(delivery)
        # what was given up after it was sent may have arrived as well
        assert len(arrived - by_name) <= stats["confirmed"] <= len(arrived)
        assert 0 == stats["waiting"]
        # of a log call that has raised: its event log may be named, and not be counted any more
        known = len(arrived | by_name)
        assert known - len(by_name & uncertain) <= stats["accepted"] <= known
        assert blowing.raised >= 60
        received.close()
