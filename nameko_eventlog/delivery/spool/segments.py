"""
The spool's files: one JSON object a line, each with a checksum.

Any tool that reads lines of JSON can look into them. A segment's first line says which format
it is of; each other is a message, in the order of acceptance.
"""

from __future__ import annotations

import base64
import errno
import os
import pathlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice, repeat
from typing import Any
from zlib import crc32

import msgspec
from amqp.serialization import dumps, loads
from eventlet import patcher

from nameko_eventlog.amqp.message import shortstr
from nameko_eventlog.amqp.tables import SharedTable
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.spool import private_files
from nameko_eventlog.delivery.spool.disk import DiskThread, Stalled
from nameko_eventlog.delivery.spool.lines import bounded_lines
from nameko_eventlog.delivery.steps import in_one_step
from nameko_eventlog.limits import SPOOL_LINE_BYTES
from nameko_eventlog.plain_json import encode_plain, is_plain


_os = patcher.original("os")  # eventlet's waits for files that are always ready

VERSION = 1
"""Of the format; what a reader does not know, it leaves alone."""

SUFFIX = ".jsonl"

_CHECKSUM = b',"crc32":"'
_CHUNK = 1 << 18
_LONGEST_HEADER = 4096


class Corrupt(Exception):
    """
    A line that is not what was written.
    """


class LaterVersion(Exception):
    """
    A file of a format that this version does not know.
    """


class _Header(msgspec.Struct):
    nameko_eventlog_spool: int
    service: str


class _Stored(msgspec.Struct, omit_defaults=True):
    message_id: str
    event_type: str
    timestamp: float
    headers: dict[str, Any] | str
    body: str
    content_type: str = "application/json"
    content_encoding: str = "utf-8"
    body_encoding: str = "utf-8"


_decode_header = msgspec.json.Decoder(_Header).decode
_decode_stored = msgspec.json.Decoder(_Stored).decode


def encode(message: OutboxEntry) -> bytes:
    """
    Return *message* as a line.

    Headers of plain JSON types are there as JSON, others as an AMQP table in base64; a body that
    is no text is in base64, too.

    Raises:
        Exception: If AMQP does not know a header's value; such a message cannot be sent anyway.
            Or if the line is longer than `SPOOL_LINE_BYTES`, and would not be read again.
    """
    found: Any = message.headers
    if type(found) is SharedTable:
        found = dict(found)
    stored = _Stored(
        str(message.message_id),
        shortstr(message.event_type),
        message.timestamp,
        found if type(found) is dict and is_plain(found) else _as_table(found),
        "",
        message.content_type,
        message.content_encoding,
    )
    try:
        stored.body = message.body.decode("utf-8")
    except UnicodeDecodeError:
        stored.body = base64.b64encode(message.body).decode("ascii")
        stored.body_encoding = "base64"
    try:
        line = encode_plain(stored)
    except UnicodeEncodeError:  # lone surrogates, which AMQP takes
        stored.headers = _as_table(found)
        line = encode_plain(stored)
    line = _with_checksum(line)
    if len(line) > SPOOL_LINE_BYTES:
        raise ValueError(f"a line of {len(line)} bytes, more than SPOOL_LINE_BYTES")
    return line


def _as_table(headers: Any) -> str:
    return base64.b64encode(dumps("F", [dict(headers)])).decode("ascii")


def _with_checksum(line: bytes) -> bytes:
    line = line[:-1]
    return b'%b%b%08x"}\n' % (line, _CHECKSUM, crc32(line))


def _checked(line: bytes) -> bytes:
    """
    Return *line* without its end.

    Raises:
        Corrupt: If the checksum is not the line's.
    """
    end = line.rfind(_CHECKSUM)
    if end < 0 or line[end:] != b'%b%08x"}' % (_CHECKSUM, crc32(line[:end])):
        raise Corrupt
    return line


def decode(line: bytes) -> OutboxEntry:
    """
    Return the message that *line* is.

    Args:
        line: As `encode` returns it, without the end of the line.

    Raises:
        Corrupt: If it is not what was written.
    """
    try:
        stored = _decode_stored(_checked(line))
        headers = stored.headers
        if isinstance(headers, str):
            (headers,), _ = loads("F", base64.b64decode(headers), 0)
        body = stored.body.encode("utf-8")
        if stored.body_encoding == "base64":
            body = base64.b64decode(body)
    except Corrupt:
        raise
    except Exception as exc:
        raise Corrupt from exc
    return OutboxEntry(
        body,
        stored.content_type,
        stored.content_encoding,
        SharedTable(headers),
        stored.event_type,
        stored.timestamp,
        message_id=stored.message_id,
    )


def _find(line: bytes) -> tuple[int, OutboxEntry | None]:
    """
    Return where in *line* the message begins, and the message, or None if there is none.

    A file that somebody has cut, and that is written on, has zeros there, which JSON never has.
    """
    begin = line.rfind(b"\0") + 1
    try:
        return begin, decode(line[begin:])
    except Corrupt:
        return 0, None


def read_position(line: str) -> tuple[str, int]:
    """
    Return up to where a directory is settled: a segment's name, and the offset in it.

    Args:
        line: What its file says of that; of one that is not what was written, nothing is.
    """
    said, _, checksum = line.rstrip("\n").rpartition(" ")
    name, _, offset = said.partition(" ")
    if f"{crc32(said.encode()):08x}" != checksum or not offset.isdecimal():
        return "", 0
    return name, int(offset)


def read_segment(fd: int, offset: int = 0) -> Iterator[OutboxEntry | None]:
    """
    Read the messages of a segment, and change nothing: a living process may be at it.

    Args:
        fd: The file, open; it is closed at the end.
        offset: Up to where it is settled.

    Yields:
        Each message; None for a line that is none, but for a last one that is not whole yet.

    Raises:
        OSError: If it cannot be read.
        LaterVersion: If it is of a format that is not known.
    """
    size = os.fstat(fd).st_size
    with open(fd, "rb") as file:
        first = file.readline(_LONGEST_HEADER)
        try:
            header = _decode_header(_checked(first.removesuffix(b"\n")))
        except (Corrupt, msgspec.MsgspecError):
            file.seek(min(offset, size))  # each line is checked by itself
        else:
            if header.nameko_eventlog_spool != VERSION:
                raise LaterVersion
            file.seek(max(min(offset, size), len(first)))
        for line in bounded_lines(file, SPOOL_LINE_BYTES):
            if line is None:
                yield None
                continue
            begin, message = _find(line.removesuffix(b"\n"))
            if message is not None and begin:
                yield None
            if message is not None or line.endswith(b"\n"):
                yield message


class Segment:
    """
    One file of a spool.

    Args:
        directory: The directory that it is in, open.
        path: Where.
        is_new: Whether to make it.
        service: The service's name, for a new one.

    Raises:
        OSError: If it cannot be opened or made.
    """

    def __init__(
        self, directory: int, path: pathlib.Path, is_new: bool = False, service: str = ""
    ) -> None:
        self.path = path
        self.disk: DiskThread | None = None
        """Makes the calls that may have to wait, if there is one."""
        self.is_growing = is_new
        self.is_known = True
        self.is_said_corrupt = False
        self.is_dirty = False
        self.unread = 0
        """How many event logs it holds that are not in memory."""
        self.unsettled: OrderedDict[int, None] = OrderedDict()
        """Where each message begins that is in memory and unsettled, in the file's order."""
        take = private_files.make_file if is_new else private_files.open_file
        self.fd = take(directory, path, os.O_RDWR)
        self.written = 0
        if is_new:
            try:
                line = _with_checksum(encode_plain(_Header(VERSION, service)))
                self.append(line)
                self.written = len(line)
            except OSError:
                self.close()
                with suppress(FileNotFoundError):
                    os.unlink(path.name, dir_fd=directory)
                raise
            self.first = self.written
        else:
            try:
                self.written = os.fstat(self.fd).st_size
                self.first = self._end_of_header()
            except OSError:
                self.close()
                raise
        self.read_up_to = self.first

    def _end_of_header(self) -> int:
        head = _os.pread(self.fd, _LONGEST_HEADER, 0)
        line, end, _ = head.partition(b"\n")
        try:
            header = _decode_header(_checked(line))
        except (Corrupt, msgspec.MsgspecError):
            return 0  # each line is checked by itself
        self.is_known = header.nameko_eventlog_spool == VERSION
        return len(line) + len(end)

    def append(self, line: bytes) -> int:
        """
        Write *line* at the end; it is not kept before `keep` or `leave` is called.

        Returns:
            Where it begins.

        Raises:
            OSError: If it cannot be written; then nothing of it is left.
        """
        start = self.written
        # to where we know that the end is: whoever cuts the file, and an exception out of a
        # signal handler right after the writing, must not shift what comes
        written = 0
        try:
            while written < len(line):  # when a part was, the next attempt says why
                more = self._pwrite(line[written:], start + written)
                if not more:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                written += more
        except Stalled:
            raise  # what comes late is cut off when it comes
        except OSError:
            _os.ftruncate(self.fd, start)
            raise
        return start

    def cut(self) -> None:
        """
        Cut off what was written and not kept.

        Raises:
            OSError: If it cannot be.
        """
        if os.fstat(self.fd).st_size > self.written:
            _os.ftruncate(self.fd, self.written)

    def _pwrite(self, part: bytes, at: int) -> int:
        written: int = (_os.pwrite if self.disk is None else self.disk.write)(self.fd, part, at)
        return written

    def _pread(self, size: int, at: int) -> bytes:
        if self.disk is None:
            found: bytes = _os.pread(self.fd, size, at)
        else:
            found = self.disk.call(lambda: _os.pread(self.fd, size, at))
        return found

    def sync(self) -> None:
        """
        Put onto the disk what was written; called in an OS thread of its own.

        Raises:
            OSError: If that fails; what is on the disk is not known then.
        """
        self.is_dirty = False
        fd = os.dup(self.fd)  # it may be closed meanwhile
        try:
            _os.fdatasync(fd)
        finally:
            _os.close(fd)

    def keep(self, start: int, end: int, *also: Iterator[Any]) -> None:
        """
        Keep what was appended, as a message that is in memory; all in one step.

        Args:
            start: Where it begins.
            end: Where it ends.
            also: What is to be taken in that step.
        """
        in_one_step(
            map(setattr, repeat(self), ("written", "read_up_to", "is_dirty"), (end, end, True)),
            map(self.unsettled.__setitem__, (start,), (None,)),
            *also,
        )

    def leave(self, end: int, *also: Iterator[Any]) -> None:
        """
        Keep what was appended, as a message that is not in memory; all in one step.

        Args:
            end: Where it ends.
            also: What is to be taken in that step.
        """
        in_one_step(
            map(
                setattr,
                repeat(self),
                ("written", "unread", "is_dirty"),
                (end, self.unread + 1, True),
            ),
            *also,
        )

    @property
    def settled_up_to(self) -> int:
        """
        Before where everything is settled.
        """
        return next(iter(self.unsettled), self.read_up_to)

    @property
    def has_unread(self) -> bool:
        """
        Whether there is something that is not in memory.
        """
        return self.read_up_to < self.written

    @property
    def is_settled(self) -> bool:
        """
        Whether it holds something, and all of it is settled.
        """
        return self.written > self.first and not (self.has_unread or self.unsettled)

    @property
    def is_done(self) -> bool:
        """
        Whether nothing in it is of use any more.
        """
        return not (self.is_growing or self.has_unread or self.unsettled)

    def read(
        self,
        into: deque[OutboxEntry],
        lost: Iterator[object],
        on_corrupt: Callable[[list[bytes]], object],
    ) -> int:
        """
        Read on, some at a time.

        Args:
            into: Where to append the messages, in one step.
            lost: A step of it is taken, in the same one, for each event log that was not found
                when everything is read.
            on_corrupt: Called before that with what is no message, if there is such.

        Returns:
            How many event logs were not found.

        Raises:
            OSError: If it cannot be read.
        """
        size = _CHUNK
        while True:
            wanted = min(size, self.written - self.read_up_to)
            chunk = self._pread(wanted, self.read_up_to)
            end = chunk.rfind(b"\n") + 1
            if end or self.read_up_to + len(chunk) >= self.written or len(chunk) < wanted:
                break
            if size >= SPOOL_LINE_BYTES:  # no message; the rest of it is read on its own
                break
            size = min(2 * size, SPOOL_LINE_BYTES)
        if not chunk:  # somebody has cut it
            return self._take_read(self.written, [], [], into, lost)
        if not end:  # the last line is not whole: its call has not returned, or it was cut
            end = len(chunk)
        found: list[OutboxEntry] = []
        starts: list[int] = []
        corrupt: list[bytes] = []
        start = self.read_up_to
        for line in chunk[:end].removesuffix(b"\n").split(b"\n"):
            begin, message = _find(line)
            if message is None:
                corrupt.append(line)
            else:
                if begin:
                    corrupt.append(line[:begin])
                message.place = self, start + begin
                starts.append(start + begin)
                found.append(message)
            start += len(line) + 1
        if corrupt:  # rather twice than not at all
            on_corrupt(corrupt)
        return self._take_read(self.read_up_to + end, found, starts, into, lost)

    def _take_read(
        self,
        end: int,
        found: list[OutboxEntry],
        starts: list[int],
        into: deque[OutboxEntry],
        lost: Iterator[object],
    ) -> int:
        unread = max(0, self.unread - len(found))
        missing = unread if end >= self.written else 0
        in_one_step(
            map(setattr, repeat(self), ("read_up_to", "unread"), (end, unread - missing)),
            map(self.unsettled.__setitem__, starts, repeat(None)),
            map(into.append, found),
            islice(lost, missing),
        )
        return missing

    def count(self) -> int:
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
        return self.unread

    def close(self) -> None:
        """
        Close the file.
        """
        fd = self.fd
        if fd >= 0:
            in_one_step(map(setattr, (self,), ("fd",), (-1,)), map(_os.close, (fd,)))


def settling(messages: list[OutboxEntry]) -> Iterator[object]:
    """
    Return what is to be taken for each of *messages* to settle it where it is on the disk.
    """
    nowhere: OrderedDict[int, None] = OrderedDict()
    places = [message.place for message in messages]
    return map(
        OrderedDict.pop,
        [nowhere if place is None else place[0].unsettled for place in places],
        [0 if place is None else place[1] for place in places],
        repeat(None),
    )
