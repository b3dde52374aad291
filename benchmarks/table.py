"""
The table: what was measured, and whether it keeps its bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


HEADINGS = ("measure", "ours", "peer", "ratio", "bound", "")


@dataclass(frozen=True)
class Row:
    """
    One line of the table.

    Args:
        measure: What was measured, and beside whom.
        ours: Our value, with its unit.
        peer: The peer's.
        ratio: What the bound is about: ours to the peer's, or a difference.
        bound: The bound, as text.
        met: Whether it is kept; None where there is no bound.
    """

    measure: str
    ours: str
    peer: str
    ratio: str
    bound: str = ""
    met: bool | None = None

    @classmethod
    def at_most(cls, measure: str, ours: str, peer: str, ratio: float, bound: float) -> Row:
        """
        Make the row of a ratio that must not be larger than *bound*.
        """
        return cls(measure, ours, peer, f"{ratio:.3f}", f"<= {bound:g}", ratio <= bound)

    @classmethod
    def at_least(cls, measure: str, ours: str, peer: str, ratio: float, bound: float) -> Row:
        """
        Make the row of a ratio that must not be smaller than *bound*.
        """
        return cls(measure, ours, peer, f"{ratio:.2f} x", f">= {bound:g} x", ratio >= bound)


def render(rows: Iterable[Row]) -> str:
    """
    Return *rows* as a Markdown table, aligned.
    """
    words = {True: "met", False: "NOT MET", None: ""}
    lines = [HEADINGS] + [(*astuple(row)[:-1], words[row.met]) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )
