"""
The limits: one place in the code, one page in the docs, and no difference between them.
"""

import pathlib
import re

from nameko_eventlog import limits


PAGE = pathlib.Path(__file__).parents[2] / "docs/reference/limits.md"
UNITS = {
    "": 1,
    "bytes": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
}


def number_of(text: str) -> float:
    """
    Read a value as the docs write it: ``32 MiB``, ``10 s``, ``1,000``.
    """
    number, _, unit = text.partition(" ")
    return float(number.replace(",", "")) * UNITS[unit]


class TestReference:
    def test_complete(self):
        """
        The reference lists every limit with its value, and no other.
        """
        documented = {
            name: number_of(value)
            for name, value in re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", PAGE.read_text(), re.M)
        }
        defined = {name: value for name, value in vars(limits).items() if name.isupper()}

        assert defined == documented
