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
Milliseconds that the clock may step back before new ids follow it.

After a smaller step, such as a clock adjustment, new ids continue from the last one. After a
larger step the earlier time was wrong, and ids that continued from it would keep the wrong time.
"""


class UUID7Generator:
    """
    Make UUIDs that sort in the order in which they were made.

    Within a millisecond, or while the clock stands still or steps back by at most `STEP_BACK`,
    the 74 random bits after the milliseconds count up from a random start (RFC 9562, 6.2, method
    2). After a larger step back the ids follow the clock. They stay unique, because the random
    bits are drawn again, but they sort before some earlier ids. The generator has its own
    randomness, which ``random.seed()`` does not affect.
    """

    def __init__(self) -> None:
        self.reseed()
        self._milliseconds = 0
        self._tail = 0
        self._high = -1
        self._head = ""

    def reseed(self) -> None:
        """
        Draw new randomness from the operating system. A forked child must do this.
        """
        self._getrandbits = random.Random(os.urandom(32)).getrandbits

    def make(self, seconds: float) -> str:
        """
        Return the next UUID.

        Args:
            seconds: The time to encode, in seconds since the epoch. A time in the future becomes
                now. A time before the last id's becomes that of the last id, unless the clock has
                stepped back.
        """
        now = time()
        milliseconds = int((seconds if seconds < now else now) * 1000)
        if milliseconds > self._milliseconds or now * 1000 + STEP_BACK < self._milliseconds:
            # the top bit stays free for counting up
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
