"""
Settling deliveries with as few acknowledgements as possible.
"""

from __future__ import annotations

from collections.abc import Iterable


class Settling:
    """
    The unacknowledged delivery tags of one channel.

    One acknowledgement may cover all deliveries up to it. It is used as far as nothing earlier is
    unsettled. Later deliveries are acknowledged individually, so that a slow message does not
    block the next deliveries.

    Args:
        is_singly: Whether to acknowledge each delivery individually: kombu's own transports take
            every acknowledgement as one for a single delivery.
    """

    def __init__(self, is_singly: bool = False) -> None:
        self._is_singly = is_singly
        self._unsettled: dict[int, int] = {}  # tags and sizes, in the order of delivery
        self.size = 0
        """The total size of the unsettled deliveries in bytes."""

    def __len__(self) -> int:
        return len(self._unsettled)

    def __contains__(self, tag: int) -> bool:
        return tag in self._unsettled

    def add(self, tag: int, size: int = 0) -> None:
        """
        Note a delivery.
        """
        self._unsettled[tag] = size
        self.size += size

    def settle(self, tags: Iterable[int]) -> list[tuple[int, bool]]:
        """
        Note that deliveries are settled.

        Args:
            tags: The delivery tags; unknown tags, of another channel, are ignored.

        Returns:
            What to acknowledge: delivery tags, and whether each covers all earlier ones.
        """
        settled = {tag for tag in tags if tag in self._unsettled}
        all_before: int | None = None
        for tag in list(self._unsettled):
            if tag not in settled or self._is_singly:
                break
            self.size -= self._unsettled.pop(tag)
            settled.discard(tag)
            all_before = tag
        for tag in settled:
            self.size -= self._unsettled.pop(tag)
        acknowledgements = [] if all_before is None else [(all_before, True)]
        return acknowledgements + [(tag, False) for tag in sorted(settled)]
