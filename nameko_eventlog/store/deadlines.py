"""
The time limit of a database query, whatever is running when the time is up.
"""

from __future__ import annotations

import math

from eventlet import patcher


_time = patcher.original("time")


class TimeUp(Exception):
    """
    The deadline has passed.
    """


class Deadline:
    """
    One deadline for all statements of a transaction, and for the functions that SQLite calls.

    Args:
        seconds: How long a transaction may take.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._until = math.inf

    def begin(self) -> None:
        """
        Start the clock.
        """
        self._until = _time.monotonic() + self.seconds

    def end(self) -> None:
        """
        Stop the clock: a commit or rollback has no time limit.
        """
        self._until = math.inf

    def left(self) -> float:
        """
        Return the seconds left; infinite outside transactions.
        """
        return float(self._until - _time.monotonic())

    def has_passed(self) -> bool:
        """
        Tell whether the time is up.
        """
        return self.left() <= 0

    def check(self) -> None:
        """
        Raise an exception if the time is up.

        Raises:
            TimeUp: The time is up.
        """
        if self.has_passed():
            raise TimeUp
