"""
Which deliveries are settled, and the fewest acknowledgements that say so.
"""

from __future__ import annotations

from collections.abc import Iterable


class Settling:
    """
    The delivery tags of one channel that are not acknowledged.

    One acknowledgement may stand for all deliveries up to it. It is used as far as nothing
    before is unsettled; what is settled behind that is acknowledged singly, so that a slow
    message does not hold back the broker's next ones.

    Args:
        is_singly: Whether each delivery is acknowledged by itself: kombu's own transports take
            every acknowledgement for one delivery.
    """

    def __init__(self, is_singly: bool = False) -> None:
        self._is_singly = is_singly
        self._unsettled: dict[int, int] = {}  # tags and sizes, in the order of delivery
        self.size = 0
        """Bytes of all that are not settled."""

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
        Note that deliveries are done with.

        Args:
            tags: Theirs; those of another channel are passed over.

        Returns:
            What to acknowledge: delivery tags, and whether each stands for all before it.
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
