"""
UUIDs of version 7 (RFC 9562, 5.7), monotonic within a generator.
"""

from __future__ import annotations

import os
import random
from time import time


_TAIL_BITS = 74
_STEP_BITS = 32

STEP_BACK = 1_000
"""
Milliseconds by which the clock may go back before new ids follow it.

Below that, a clock that is being adjusted, they count on from the last one. Beyond, it was wrong
before, and ids that counted on would bear that wrong time until it is reached.
"""


class UUID7Generator:
    """
    Make UUIDs whose order is that of their making.

    The 74 random bits behind the milliseconds count on from a random start within one
    millisecond, or while the clock stands or goes back by no more than `STEP_BACK` (RFC 9562,
    6.2, method 2). When it goes back further the ids follow it: they stay unique, for the random
    bits begin anew, but those made after sort before some that were made earlier. The
    randomness is this generator's own: ``random.seed()`` does not touch it.
    """

    def __init__(self) -> None:
        self.reseed()
        self._milliseconds = 0
        self._tail = 0
        self._high = -1
        self._head = ""

    def reseed(self) -> None:
        """
        Take new randomness from the operating system, as a forked child must.
        """
        self._getrandbits = random.Random(os.urandom(32)).getrandbits

    def make(self, seconds: float) -> str:
        """
        Return the next UUID.

        Args:
            seconds: The time that it bears, in seconds since the epoch, unless that lies
                before the last one's, or in the future. After the clock has stepped back, it is
                borne even if it lies before the last one's.
        """
        now = time()
        milliseconds = int((seconds if seconds < now else now) * 1000)
        if milliseconds > self._milliseconds or now * 1000 + STEP_BACK < self._milliseconds:
            # the top bit stays free for counting on
            tail = self._getrandbits(_TAIL_BITS - 1)
        else:
            milliseconds = self._milliseconds
            tail = self._tail + 1 + self._getrandbits(_STEP_BITS)
            if tail >> _TAIL_BITS:
                milliseconds += 1
                tail = self._getrandbits(_TAIL_BITS - 1)
        self._milliseconds = milliseconds
        self._tail = tail
        high = milliseconds << 26 | tail >> 48
        if high != self._high:  # within a millisecond it seldom changes
            self._high = high
            stamp = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}"
            self._head = f"{stamp}-7{tail >> 62:03x}-{0x8000 | (tail >> 48 & 0x3FFF):04x}"
        return f"{self._head}-{tail & 0xFFFF_FFFF_FFFF:012x}"
