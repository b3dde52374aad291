"""
How often something may happen: some times at once, and then with a pause in between.
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic


class Pace:
    """
    Keeps to a rate for each of many keys (GCRA, as in ATM networks).

    Args:
        at_once: How often without a pause.
        pause: Seconds between two times after that.
        keys: Of how many keys is kept count; the one that was last used longest ago goes.
    """

    def __init__(self, at_once: int, pause: float, keys: int = 1) -> None:
        self._pause = pause
        self._ahead = (at_once - 1) * pause
        self._most = keys
        self._due: OrderedDict[str, float] = OrderedDict()

    def delay(self, key: str = "") -> float:
        """
        Return after how many seconds it may happen next: 0, if it may happen now.
        """
        return max(0.0, self._due.get(key, 0.0) - self._ahead - monotonic())

    def count(self, key: str = "") -> None:
        """
        Note that it happens.
        """
        due = max(self._due.pop(key, 0.0), monotonic())
        self._due[key] = due + self._pause
        if len(self._due) > self._most:
            self._due.popitem(last=False)

    def uncount(self, key: str = "") -> None:
        """
        Note that the last time does not count.
        """
        if key in self._due:
            self._due[key] -= self._pause
