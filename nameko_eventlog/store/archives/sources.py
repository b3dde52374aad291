"""
Reading archives: each row with its place, or why it cannot be read.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import IO, Any, Protocol

import msgspec

from nameko_eventlog import limits
from nameko_eventlog.describing import describe_value, shortened
from nameko_eventlog.extras import require
from nameko_eventlog.store.archives.formats import COMPRESSED, format_of
from nameko_eventlog.store.archives.parquet import ParquetRows
from nameko_eventlog.store.dating import EARLIEST_MS
from nameko_eventlog.store.rows import Unstorable, escape_unstorable
from nameko_eventlog.store.times import format_time, parse_time


_SHOWN = 60  # characters of a line


@dataclass(frozen=True, slots=True)
class ArchivedRow:
    """
    A row of an archive, before it is checked.

    Args:
        message_id: The message id.
        time_ms: The time, in milliseconds since 1970.
        time_note: What is wrong with the sender's clock, or None.
        body: The body as JSON.
    """

    message_id: Any
    time_ms: Any
    time_note: Any
    body: Any


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    message_id: str
    time: str
    body: msgspec.Raw
    time_note: str | None = None


_decode_line = msgspec.json.Decoder(_Line).decode


class Source(Protocol):
    """
    An archive to read.
    """

    @property
    def position(self) -> float:
        """
        How far it has been read, in bytes.
        """

    def __iter__(self) -> Iterator[tuple[str, ArchivedRow | Unstorable]]:
        """
        Yield where each row is, and the row or why it cannot be read.
        """


class LineSource:
    """
    An archive of JSON lines.

    Args:
        name: Its name, for messages.
        file: What to read.
        is_compressed: Whether it is compressed with gzip.
    """

    def __init__(self, name: str, file: IO[bytes], is_compressed: bool = False) -> None:
        self._name = name
        self._file = file
        self._lines: Any = gzip.GzipFile(fileobj=file, mode="rb") if is_compressed else file

    @property
    def position(self) -> float:
        """
        How far it has been read, in bytes.
        """
        return self._file.tell()

    def __iter__(self) -> Iterator[tuple[str, ArchivedRow | Unstorable]]:
        """
        Yield where each row is, and the row or why it cannot be read.
        """
        for number in count(1):
            place = f"{self._name}, line {number}"
            try:
                line = self._read()
            except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
                yield place, Unstorable(f"the compressed data end early, or are damaged ({exc})")
                return
            if line is None:
                yield (
                    place,
                    Unstorable(
                        f"it is longer than IMPORT_LINE_BYTES ({limits.IMPORT_LINE_BYTES})"
                    ),
                )
            elif not line:
                return
            elif line.strip():
                yield place, _read_line(line.rstrip(b"\r\n"))

    def _read(self) -> bytes | None:
        """
        Return the next line, or None if it is too long: then it is skipped.
        """
        most = limits.IMPORT_LINE_BYTES
        line: bytes = self._lines.readline(most + 1)
        if len(line) <= most:
            return line
        while line and not line.endswith(b"\n"):
            line = self._lines.readline(most)
        return None


class ParquetSource:
    """
    An archive in Parquet.

    Args:
        name: Its path.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: ParquetRows | None = None

    @property
    def position(self) -> float:
        """
        How far it has been read, in bytes.
        """
        return 0 if self._rows is None else self._rows.position

    def __iter__(self) -> Iterator[tuple[str, ArchivedRow | Unstorable]]:
        """
        Yield where each row is, and the row or why it cannot be read.
        """
        place = self._name
        try:
            self._rows = ParquetRows(self._name)
            for number, values in enumerate(self._rows, 1):
                place = f"{self._name}, row {number}"
                yield place, ArchivedRow(*values)
        except (ValueError, OSError, NotImplementedError) as exc:
            what = "the rest of it" if self._rows else "it"
            reason = shortened(" ".join(str(exc).split()), 200)
            yield place, Unstorable(f"{what} cannot be read as Parquet: {reason}")


@contextmanager
def open_source(path: str) -> Iterator[Source]:
    """
    Open an archive to read; its suffix tells the format.

    Raises:
        ValueError: The suffix is not that of an archive that can be imported.
        OSError: It cannot be read.
        ConfigurationError: It is in Parquet, and pyarrow is not installed.
    """
    check_name(path)
    if format_of(path) == "parquet":
        yield ParquetSource(path)
        return
    with open(path, "rb") as file:
        yield LineSource(path, file, path.lower().endswith(COMPRESSED))


def check_name(path: str) -> None:
    """
    Check that a file's suffix is that of an archive that can be imported.

    Raises:
        ValueError: It is not.
        ConfigurationError: It is Parquet's, and pyarrow is not installed.
    """
    name = format_of(path)
    if name == "csv":
        raise ValueError(
            f"{path!r} cannot be imported, because CSV is made for spreadsheets: import a .jsonl,"
            " .jsonl.gz or .parquet"
        )
    if name is None:
        raise ValueError(f"{path!r} is not an archive: name a .jsonl, .jsonl.gz or .parquet")
    if name == "parquet":
        require("pyarrow")


def _read_line(line: bytes) -> ArchivedRow | Unstorable:
    try:
        read = _decode_line(line)
        return ArchivedRow(
            read.message_id, _read_time(read.time), read.time_note, bytes(read.body)
        )
    except Unstorable as exc:
        return exc
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as exc:  # msgspec's errors, and UTF-8 that is none
        reason = f"it is not a line of an export: {exc}"
    return Unstorable(f"{reason}, in {_shown(line[:_SHOWN].decode('utf-8', 'replace'))}")


def _read_time(text: str) -> int:
    try:
        return parse_time(text)
    except (ValueError, OverflowError):
        raise Unstorable(
            f"time must be ISO 8601, like {format_time(EARLIEST_MS)}, not {_shown(text)}"
        ) from None


def _shown(value: Any) -> str:
    return escape_unstorable(describe_value(value))
