"""
Exponential backoff with jitter.
"""

import random

import pytest

from nameko_eventlog.backoff import backoff


class TestBackoff:
    @pytest.mark.parametrize(
        ("failures", "pause"), [(1, 0.1), (2, 0.2), (3, 0.4), (6, 3.2), (7, 5.0), (10**6, 5.0)]
    )
    def test_growth(self, failures: int, pause: float) -> None:
        """
        The pause doubles up to the longest, and half of it is random.
        """
        drawn = [backoff(failures, 0.1, 5.0) for _ in range(200)]

        assert all(pause / 2 <= one <= pause for one in drawn)
        assert max(drawn) - min(drawn) > pause / 4

    def test_random_state_of_the_service(self) -> None:
        """
        The jitter does not follow the service's ``random.seed()``, and does not advance it.
        """
        random.seed(1)
        first = [backoff(1, 1.0, 1.0) for _ in range(5)]
        drawn = random.random()
        random.seed(1)
        second = [backoff(1, 1.0, 1.0) for _ in range(5)]

        assert first != second
        assert drawn == random.random()
