"""
Portions of long lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar


T = TypeVar("T")


def portions(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """
    Split *values* into parts of *size*.
    """
    for at in range(0, len(values), size):
        yield values[at : at + size]
