"""
Files of the spool that are not what was written: everything else is saved, and the sum is right.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool.deferred_log import DeferredLog
from nameko_eventlog.delivery.spool.directory import Directory
from nameko_eventlog.delivery.spool.segments import encode
from tests.delivery.conftest import make_message
from tests.examples import examples


COUNT = 6


def _write() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        directory = Directory(pathlib.Path(folder) / "one", "foo", DeferredLog())
        for number in range(COUNT):
            message = make_message(number, message_id=f"id-{number}", headers={"é": "x\n"})
            line = encode(message)
            segment, start = directory.append(line)
            segment.leave(start + len(line))
        content = segment.path.read_bytes()
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
        path = pathlib.Path(folder) / "one"
        path.mkdir()
        (path / "00000001.jsonl").write_bytes(content)
        directory = Directory(path, "foo", DeferredLog())
        expected = directory.load()
        messages: deque[OutboxEntry] = deque()
        lost = Counter()
        while directory.unread:
            directory.read(messages, lost.ticks)
        found = [json.loads(message.body)["number"] for message in messages]
        kept = list((pathlib.Path(folder) / "corrupt").glob("*"))
        assert bool(lost.value) == bool(kept)
        directory.close()
    return found, expected, lost.value


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
