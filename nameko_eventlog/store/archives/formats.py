"""
Archives: files of exported event logs, as JSON lines, CSV or Parquet.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from typing import IO, Protocol

import msgspec

from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.archives.columns import COLUMNS, csv_cell, values_of
from nameko_eventlog.store.archives.files import ArchiveFile, OpenFile, Output, Stream
from nameko_eventlog.store.archives.parquet import ParquetArchive
from nameko_eventlog.visible import escape_in_json


FORMATS = ("jsonl", "csv", "parquet")

COMPRESSED = ".gz"
"""The suffix of files that are compressed with gzip."""

_FLUSH_BYTES = 1 << 20

_GZIP_LEVEL = 6  # gzip's own default; Python's, 9, takes twice as long for one per cent


class Archive(Protocol):
    """
    A file of event logs, which contains all rows up to the last `flush`, and no part of another.
    """

    def add(self, row: EventLogRow) -> bool:
        """
        Hold a row until the next `flush`.

        Returns:
            Whether it is time for that.
        """

    def flush(self) -> None:
        """
        Write the rows that are held.

        Raises:
            OSError: It cannot be written.
        """

    def close(self) -> None:
        """
        Complete the file, without rows that are held, and sync it to the disk.

        Raises:
            OSError: It cannot be written.
        """

    def discard(self) -> None:
        """
        Remove the file, unless it had content before.
        """


class LineArchive:
    """
    An archive of lines; compressed, each `flush` writes a gzip member of its own.

    Args:
        output: What to write to.
        encode: Makes a row a line.
        head: What comes before the first row.
        is_compressed: Whether to compress it with gzip.
    """

    def __init__(
        self,
        output: Output,
        encode: Callable[[EventLogRow], bytes],
        head: bytes = b"",
        is_compressed: bool = False,
    ) -> None:
        self._output = output
        self._encode = encode
        self._held = bytearray(head)
        self._is_compressed = is_compressed

    def add(self, row: EventLogRow) -> bool:
        """
        Hold a row until the next `flush`, and tell whether it is time for that.
        """
        self._held += self._encode(row)
        return len(self._held) >= _FLUSH_BYTES

    def flush(self) -> None:
        """
        Write the rows that are held.
        """
        held = bytes(self._held)
        self._output.write(gzip.compress(held, _GZIP_LEVEL) if self._is_compressed else held)
        self._held.clear()

    def close(self) -> None:
        """
        Complete the file, without rows that are held.
        """
        self._output.close()

    def discard(self) -> None:
        """
        Remove the file, unless it had content before.
        """
        self._output.discard()


def json_line(row: EventLogRow) -> bytes:
    """
    Return an event log as a line of JSON in UTF-8, which is safe on a terminal.
    """
    line = {"message_id": row["message_id"], "time": row["time"]}
    if "time_note" in row:
        line["time_note"] = row["time_note"]
    encoded = msgspec.json.encode({**line, "body": row["body"]}).decode()
    return f"{escape_in_json(encoded)}\n".encode()


def csv_line(row: EventLogRow) -> bytes:
    """
    Return an event log as a line of CSV.
    """
    return _csv([csv_cell(value) for value in values_of(row)])


def _csv(cells: list[str]) -> bytes:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().encode()


def format_of(path: str) -> str | None:
    """
    Return the format that a file's name stands for, or None.
    """
    name = path.lower().removesuffix(COMPRESSED)
    if name.endswith(".parquet"):
        return "parquet" if name == path.lower() else None
    return next((one for one in ("jsonl", "csv") if name.endswith(f".{one}")), None)


def open_archive(path: str, format: str, goes_on: bool = False) -> Archive:  # noqa: A002
    """
    Open a file to export to; a new one belongs to its owner alone.

    Args:
        path: The path; ``.gz`` at its end compresses lines.
        format: ``jsonl``, ``csv`` or ``parquet``.
        goes_on: Whether to append to a file that has content.

    Raises:
        FileExistsError: It has content, and *goes_on* is not set, or Parquet is the format.
        OSError: It cannot be opened.
        ConfigurationError: pyarrow is not installed, and Parquet is the format.
    """
    if format == "parquet":
        return ParquetArchive(path)
    file = ArchiveFile(path, goes_on)
    return _lines(file, format, not file.has_content, path.lower().endswith(COMPRESSED))


def stream_archive(stream: IO[bytes], format: str, goes_on: bool = False) -> Archive:  # noqa: A002
    """
    Return an archive that writes to an open stream, such as standard output.

    Args:
        stream: The stream, in whose buffer there is nothing.
        format: ``jsonl`` or ``csv``.
        goes_on: Whether to omit what comes before the first row.
    """
    try:
        output: Output = OpenFile(stream.fileno())
    except io.UnsupportedOperation:
        output = Stream(stream)
    return _lines(output, format, not goes_on, False)


def _lines(output: Output, format: str, is_new: bool, is_compressed: bool) -> LineArchive:  # noqa: A002
    if format == "jsonl":
        return LineArchive(output, json_line, is_compressed=is_compressed)
    head = _csv(list(COLUMNS)) if is_new else b""
    return LineArchive(output, csv_line, head, is_compressed)
