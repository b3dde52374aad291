"""
Lines of files that others may have written: read one at a time, and none longer than a bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO


def bounded_lines(file: IO[bytes], most: int) -> Iterator[bytes | None]:
    """
    Read lines; a line ends with a line feed, and with nothing else that Python takes for an end.

    Args:
        file: Where from.
        most: The longest line, in bytes.

    Yields:
        Each line with its end; None for one that is longer, of which no more is kept in memory.
    """
    while line := file.readline(most):
        if line.endswith(b"\n") or len(line) < most:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(most)
        yield None
