"""
Rate limits: some events at once, then a pause between events.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic


class Pace:
    """
    A rate limiter for each of many keys (GCRA, as in ATM networks).

    Args:
        at_once: How many events may happen without a pause.
        pause: Seconds between two events after that.
        keys: How many keys are remembered; the least recently used one is forgotten first.
    """

    def __init__(self, at_once: int, pause: float, keys: int = 1) -> None:
        self._pause = pause
        self._ahead = (at_once - 1) * pause
        self._most = keys
        self._due: OrderedDict[str, float] = OrderedDict()

    def delay(self, key: str = "") -> float:
        """
        Return the seconds until the next event may happen; 0 if it may happen now.
        """
        return max(0.0, self._due.get(key, 0.0) - self._ahead - monotonic())

    def count(self, key: str = "") -> None:
        """
        Count an event.
        """
        due = max(self._due.pop(key, 0.0), monotonic())
        self._due[key] = due + self._pause
        if len(self._due) > self._most:
            self._due.popitem(last=False)

    def uncount(self, key: str = "") -> None:
        """
        Take back the last event.
        """
        if key in self._due:
            self._due[key] -= self._pause
