"""
Files of the spool that are not what was written: everything else is saved, and the sum is right.
"""

from __future__ import annotations

import json
import pathlib
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from nameko_eventlog.delivery.spool.lines import encode
from tests.delivery.conftest import make_message
from tests.delivery.spool.spooling import adopted, written
from tests.examples import examples


COUNT = 6


def _write() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        messages = [
            make_message(number, message_id=f"id-{number}", headers={"é": "x\n"})
            for number in range(COUNT)
        ]
        directory = written(pathlib.Path(folder) / "foo" / "one", *map(encode, messages))
        content = directory.segments[0].path.read_bytes()
        directory.close()
    return content


WRITTEN = _write()

LINES = WRITTEN.splitlines(keepends=True)[1:]


def read(content: bytes) -> tuple[list[int], int, int]:
    """
    Read a file with *content* as the next process would.

    Returns:
        The numbers of the messages, how many event logs were expected, how many were lost.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "foo" / "one"
        path.mkdir(parents=True)
        (path / "00000001.jsonl").write_bytes(content)
        messages, expected, lost = adopted(path)
        found = [json.loads(message.body)["number"] for message in messages]
        assert bool(lost) == bool(list(path.parent.glob("corrupt/*")))
    return found, expected, lost


class TestCut:
    def test_at_every_byte(self) -> None:
        """
        A file that ends anywhere gives back every line that is whole in it.
        """
        for end in range(len(WRITTEN) + 1):
            found, expected, lost = read(WRITTEN[:end])
            whole = [n for n, line in enumerate(LINES) if line.rstrip(b"\n") in WRITTEN[:end]]
            assert whole == found
            assert expected == len(found) + lost
            assert lost <= 1


class TestFlipped:
    @given(st.lists(st.integers(0, len(WRITTEN) * 8 - 1), min_size=1, max_size=6, unique=True))
    @settings(max_examples=examples(300))
    def test_anywhere(self, bits: list[int]) -> None:
        """
        Bits that are flipped anywhere cost the lines that they are in, and those they join.
        """
        content = bytearray(WRITTEN)
        for bit in bits:
            content[bit // 8] ^= 1 << bit % 8
        found, expected, lost = read(bytes(content))

        hit = {bit // 8 for bit in bits}
        untouched, at = [], len(WRITTEN) - sum(map(len, LINES))
        for number, line in enumerate(LINES):
            if not hit & set(range(at - 1, at + len(line))):  # the end of the line before, too
                untouched.append(number)
            at += len(line)
        assert set(untouched) <= set(found) <= set(range(COUNT))
        assert sorted(set(found)) == found
        assert expected == len(found) + lost


class TestRubbish:
    @given(st.binary(max_size=300), st.integers(0, len(LINES)))
    def test_between(self, rubbish: bytes, index: int) -> None:
        """
        Whatever stands between two lines costs no line.
        """
        lines = [WRITTEN.splitlines(keepends=True)[0], *LINES]
        lines.insert(index + 1, rubbish + b"\n")
        found, expected, lost = read(b"".join(lines))

        assert list(range(COUNT)) == found
        assert expected == COUNT + lost

    def test_long_line(self) -> None:
        """
        A line that is longer than what is read at once is read as a whole.
        """
        body = json.dumps({"number": COUNT, "x": "é" * 500_000}).encode()
        long = encode(make_message(body=body, message_id="long"))
        found, _, lost = read(WRITTEN + long + b"y" * 1_000_000 + b"\n" + LINES[0])

        assert ([*range(COUNT), COUNT, 0], 1) == (found, lost)
