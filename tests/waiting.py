"""
Waiting for a condition, with a deadline, in place of sleeping and hoping.
"""

import time
from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 60.0, interval: float = 0.01) -> T:
    """
    Call *condition* until what it returns is true, and return that.

    Other green threads get their turn in between.

    Args:
        condition: What to wait for.
        timeout: Seconds after which to give up.
        interval: Seconds between two calls.

    Raises:
        AssertionError: It was never true; names the condition and its last value.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{condition!r} was still {value!r} after {timeout} s")
        time.sleep(interval)
    return value
