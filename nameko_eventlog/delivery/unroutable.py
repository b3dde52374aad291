"""
Whether a queue receives the event logs, and what follows if none does.
"""

from __future__ import annotations

from nameko_eventlog.delivery.changes import Changes
from nameko_eventlog.delivery.entry import OutboxEntry


PROBE = 1.0
"""Seconds between two messages that test whether a queue receives event logs."""


class Unroutable:
    """
    Watch the messages that the broker returns because no queue receives them.

    With ``warn``, one message a second is mandatory, the probe, and changes are logged. With
    ``hold``, all are mandatory; returned messages are kept, and one of them is sent once a second
    until a queue receives it. With ``ignore``, none is mandatory.

    Args:
        mode: ``warn``, ``hold`` or ``ignore``.
        changes: Logs the changes.
    """

    def __init__(self, mode: str, changes: Changes) -> None:
        self._warns = mode == "warn"
        self.holds = mode == "hold"
        """Whether returned messages are kept."""
        self._changes = changes
        self.probe: int | None = None
        """The delivery tag of the probe in flight, or None."""
        self.probed_at = 0.0
        """When the last probe was sent, by ``time.monotonic()``."""
        self._is_probe_returned = False
        self._returned: set[str] = set()  # message ids

    def connected(self) -> None:
        """
        Begin again on a new connection.
        """
        self.probe = None
        self._is_probe_returned = False
        self._returned.clear()

    @property
    def is_held(self) -> bool:
        """
        Whether event logs wait until a queue receives them.
        """
        return self.holds and self._changes.is_unroutable

    def may_probe(self, now: float) -> bool:
        """
        Tell whether it is time for the next probe.
        """
        return now - self.probed_at >= PROBE

    def wants_probe(self, now: float) -> bool:
        """
        Tell whether the next message should be the probe.
        """
        return self._warns and self.probe is None and self.may_probe(now)

    def returned(self, message_id: str) -> None:
        """
        Note that the broker has returned a message.
        """
        self._is_probe_returned = True
        if self.holds:
            self._returned.add(message_id)

    def confirmed(self, tag: int, multiple: bool) -> bool:
        """
        Evaluate the probe if it is confirmed or refused, and log a change.

        Args:
            tag: The delivery tag that the broker has answered.
            multiple: Whether it covers all earlier tags.

        Returns:
            Whether that was a change.
        """
        if self.probe is None or not (tag == self.probe or (multiple and tag > self.probe)):
            return False
        self.probe = None
        is_new = self._changes.routed(not self._is_probe_returned, is_held=False)
        self._is_probe_returned = False
        return is_new

    def split(self, messages: list[OutboxEntry]) -> tuple[list[OutboxEntry], list[OutboxEntry]]:
        """
        Tell which of *messages*, which are confirmed, a queue has received, and log a change.

        Returns:
            Those that a queue has received, and those that the broker has returned.
        """
        received = [m for m in messages if m.message_id not in self._returned]
        returned = [m for m in messages if m.message_id in self._returned]
        self._changes.routed(not returned, is_held=True)
        return received, returned

    def forget(self, messages: list[OutboxEntry]) -> None:
        """
        Forget that the broker has returned *messages*: they are sent again.
        """
        self._returned.difference_update(message.message_id or "" for message in messages)
