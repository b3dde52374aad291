"""
Exponential backoff with jitter.
"""

from __future__ import annotations

import random


# not the module's functions: ``random.seed()`` in a service must not make all instances retry at
# the same moments, and our draws must not change what the service draws
_random = random.Random()

_MOST_DOUBLINGS = 30


def backoff(failures: int, first: float, longest: float) -> float:
    """
    Return how many seconds to wait before the next attempt.

    The pause doubles with each failure, up to *longest*. Of that, between half and all is taken,
    at random, so that instances do not retry in step.

    Args:
        failures: How many attempts have failed in a row; 1 or more.
        first: The pause after the first failure, in seconds, before jitter.
        longest: The longest pause, in seconds.
    """
    pause = min(longest, first * 2.0 ** min(failures - 1, _MOST_DOUBLINGS))
    return pause * _random.uniform(0.5, 1)
