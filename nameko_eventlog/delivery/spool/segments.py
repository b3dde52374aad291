"""
One file of a spool, a segment: messages in the order of acceptance.
"""

from __future__ import annotations

import os
import pathlib
from collections import OrderedDict
from collections.abc import Callable

from eventlet import patcher

from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool.lines import VERSION, Corrupt, decode_header, find
from nameko_eventlog.delivery.steps import in_one_step
from nameko_eventlog.limits import SPOOL_LINE_BYTES


_os = patcher.original("os")  # eventlet's waits for files that are always ready

_CHUNK = 1 << 18
_LONGEST_HEADER = 4096


class Segment:
    """
    An open file, and how far it is written, read and settled; the `Spool` counts that.

    Args:
        path: Where it is.
        fd: The file, open; it is closed if this raises.

    Raises:
        OSError: If it cannot be read.
    """

    def __init__(self, path: pathlib.Path, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.is_known = True
        """Whether this version knows the file's format."""
        self.is_dirty = False
        """Whether something was written since the last sync."""
        self.corruption_logged = False
        self.unread = 0
        """How many of its event logs are not in memory."""
        self.unsettled: OrderedDict[int, None] = OrderedDict()
        """Where each message begins that is in memory and unsettled, in the file's order."""
        try:
            self.written = os.fstat(fd).st_size
            self.first = self._end_of_header()
        except OSError:
            self.close()
            raise
        self.read_up_to = self.first

    def _end_of_header(self) -> int:
        line, end, _ = _os.pread(self.fd, _LONGEST_HEADER, 0).partition(b"\n")
        try:
            self.is_known = decode_header(line) == VERSION
        except Corrupt:
            return 0  # each line is checked by itself
        return len(line) + len(end)

    @property
    def settled_up_to(self) -> int:
        """
        The offset before which everything is settled.
        """
        return next(iter(self.unsettled), self.read_up_to)

    @property
    def is_settled(self) -> bool:
        """
        Whether everything in it is settled.
        """
        return not (self.read_up_to < self.written or self.unsettled)

    def read(
        self, pread: Callable[[int, int, int], bytes]
    ) -> tuple[int, dict[int, OutboxEntry], list[bytes]]:
        """
        Read the next lines, some at a time.

        Args:
            pread: Reads a file.

        Returns:
            Where they end; the messages, by where they begin; the lines that are no messages.

        Raises:
            OSError: If it cannot be read.
        """
        start = self.read_up_to
        chunk = self._read_chunk(pread)
        if not chunk:  # the file was cut
            return self.written, {}, []
        # without a line feed: the last line is not complete yet, was cut, or is too long
        end = chunk.rfind(b"\n") + 1 or len(chunk)
        found: dict[int, OutboxEntry] = {}
        corrupt: list[bytes] = []
        at = start
        for line in chunk[:end].removesuffix(b"\n").split(b"\n"):
            begin, message = find(line)
            if message is None:
                corrupt.append(line)
            else:
                if begin:
                    corrupt.append(line[:begin])
                found[at + begin] = message
            at += len(line) + 1
        return start + end, found, corrupt

    def _read_chunk(self, pread: Callable[[int, int, int], bytes]) -> bytes:
        size = _CHUNK
        while True:
            wanted = min(size, self.written - self.read_up_to)
            chunk = pread(self.fd, wanted, self.read_up_to)
            is_last = self.read_up_to + len(chunk) >= self.written or len(chunk) < wanted
            if is_last or b"\n" in chunk or size >= SPOOL_LINE_BYTES:
                return chunk
            size = min(2 * size, SPOOL_LINE_BYTES)

    def count(self) -> None:
        """
        Count the lines that are unread.

        Raises:
            OSError: If it cannot be read.
        """
        lines, at, last = 0, self.read_up_to, b"\n"
        while at < self.written:
            chunk = _os.pread(self.fd, _CHUNK, at)
            if not chunk:
                break
            lines += chunk.count(b"\n")
            at += len(chunk)
            last = chunk[-1:]
        self.unread = lines + (last != b"\n")

    def cut(self) -> None:
        """
        Cut off what was written after the last message.

        Raises:
            OSError: If that fails.
        """
        if os.fstat(self.fd).st_size > self.written:
            _os.ftruncate(self.fd, self.written)

    def sync(self) -> None:
        """
        Write the file to the disk; called in an OS thread of its own.

        Raises:
            OSError: If that fails; it is unknown then what is on the disk.
        """
        self.is_dirty = False
        fd = os.dup(self.fd)  # it may be closed meanwhile
        try:
            _os.fdatasync(fd)
        finally:
            _os.close(fd)

    def close(self) -> None:
        """
        Close the file.
        """
        fd = self.fd
        if fd >= 0:
            in_one_step(map(setattr, (self,), ("fd",), (-1,)), map(_os.close, (fd,)))
