"""
What measures of the log call alone share: a dispatcher that sends nothing.
"""

from __future__ import annotations

from nameko_eventlog import EventLogDispatcher


WARM_UP = 3
"""Rounds that do not count."""


class WithoutRelay(EventLogDispatcher):
    """
    A dispatcher whose event logs stay in the outbox until they are thrown away.
    """

    def start(self) -> None:
        """
        Leave the relay where it is.
        """
