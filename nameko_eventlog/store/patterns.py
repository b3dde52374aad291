"""
Patterns of names, in which ``*`` stands for any text.
"""

from __future__ import annotations

from collections.abc import Sequence


class Patterns:
    """
    Matches names against several patterns.

    Not a regular expression, which may backtrack for hours over a pattern with many ``*``: each
    part is searched once, after the part before it.

    Args:
        patterns: The patterns.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
        self._parts = [pattern.split("*") for pattern in patterns if "*" in pattern]

    def fullmatch(self, name: str) -> bool:
        """
        Tell whether one of the patterns matches the whole of *name*.
        """
        return name in self._exact or any(_fits(parts, name) for parts in self._parts)


def _fits(parts: Sequence[str], name: str) -> bool:
    first, *middle, last = parts
    end = len(name) - len(last)
    if not (name.startswith(first) and name.endswith(last) and len(first) <= end):
        return False
    at = len(first)
    for part in middle:
        found = name.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
