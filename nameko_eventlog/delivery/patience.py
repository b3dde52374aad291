"""
How long the relay waits for the broker's confirms.
"""

from __future__ import annotations

from nameko_eventlog.delivery.changes import Changes


LONGEST_PATIENCE = 600.0
"""The most seconds that the broker gets to confirm, when ``confirm_timeout`` is too short."""


class Patience:
    """
    Begin with ``confirm_timeout``, and double it for a broker whose confirms all take longer.

    If the relay published again before every confirm, that would never end.

    Args:
        confirm_timeout: Seconds that the broker has to confirm.
        changes: Logs that confirms take longer, and that they do no more.
    """

    def __init__(self, confirm_timeout: float, changes: Changes) -> None:
        self._confirm_timeout = confirm_timeout
        self._changes = changes
        self._longest_wait = 0.0  # for a confirm; 0 unless longer than confirm_timeout
        self._long_wait_at = 0.0
        self.seconds = confirm_timeout
        """How long the relay waits for a confirm."""

    def connected(self, now: float) -> None:
        """
        Begin again on a new connection, which says nothing about confirms yet.
        """
        self._longest_wait = 0.0
        self._long_wait_at = now

    def is_over(self, waited: float, now: float) -> bool:
        """
        Tell whether the oldest message has waited for its confirm for too long.

        After confirms have arrived in time for long enough, that is ``confirm_timeout`` again.

        Args:
            waited: Its wait, in seconds.
            now: The time, by ``time.monotonic()``.
        """
        if waited > self._confirm_timeout:
            self._longest_wait = max(self._longest_wait, waited)
            self._long_wait_at = now
            return waited > self.seconds
        if self.seconds > self._confirm_timeout and now - self._long_wait_at > 10 * self.seconds:
            self.seconds = self._confirm_timeout
            self._longest_wait = 0.0
            self._changes.quick()
        return False

    def double(self) -> None:
        """
        Give the broker more time on the next connection.
        """
        self.seconds = min(self.seconds * 2, max(LONGEST_PATIENCE, self._confirm_timeout))

    def confirmed(self) -> None:
        """
        Log how long confirms take, if that is longer than ``confirm_timeout``.
        """
        if self._longest_wait:
            self._changes.slow(self._longest_wait, self.seconds, self._confirm_timeout)
