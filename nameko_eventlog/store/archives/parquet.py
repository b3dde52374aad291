"""
Archives in Parquet, which pyarrow reads and writes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from nameko_eventlog.extras import extra
from nameko_eventlog.store import json_text
from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.archives.columns import COLUMNS, values_of
from nameko_eventlog.store.archives.files import ArchiveFile
from nameko_eventlog.store.times import parse_time


GROUP_BYTES = 16 << 20
"""The most characters in a row group, unless a single row has more."""

GROUP_ROWS = 50_000
"""The most rows in a row group."""

_READ_ROWS = 1_000  # at a time

_NEEDED = ("message_id", "time", "body")
_READ = ("message_id", "time", "time_note", "body")
_FEW_VALUES = ["time_note", "service_name", "event_type", "entrypoint_name", "level"]

# what may be added to a row group's text: lengths, levels, page headers; and the file's footer
_ROW_BYTES = 128
_FIXED_BYTES = 1 << 16
_FOOTER_BYTES = 1 << 14  # for each row group


class ParquetArchive:
    """
    An archive in Parquet: each `flush` writes a row group.

    Before it writes one, it reserves room for it and for the footer, so that the file remains
    readable if the disk is full.

    Args:
        path: The path.

    Raises:
        FileExistsError: It has content: pyarrow cannot append.
        OSError: It cannot be opened.
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, path: str) -> None:
        self._pa, self._parquet = _pyarrow()
        text = self._pa.string()
        types = {"time": self._pa.timestamp("ms", tz="UTC")}
        self._schema = self._pa.schema(
            [
                self._pa.field(name, types.get(name, text), name not in ("message_id", "body"))
                for name in COLUMNS
            ]
        )
        self._file = ArchiveFile(path)
        self._writer = self._parquet.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            use_dictionary=_FEW_VALUES,
            write_statistics=[name for name in COLUMNS if name != "body"],
        )
        self._groups = 0
        self._is_whole = True
        self._clear()

    def add(self, row: EventLogRow) -> bool:
        """
        Hold a row until the next `flush`, and tell whether it is time for that.
        """
        message_id, time, *names, body = values_of(row)
        values = [message_id, parse_time(time), *names, json_text.encode(body)]
        for column, value in zip(self._held, values, strict=True):
            column.append(value)
            self._size += len(value) if type(value) is str else 0
        return self._size >= GROUP_BYTES or len(self._held[0]) >= GROUP_ROWS

    def flush(self) -> None:
        """
        Write the rows that are held as a row group.
        """
        self._groups += 1
        table = self._pa.Table.from_arrays(
            [
                self._pa.array(column, one.type)
                for column, one in zip(self._held, self._schema, strict=True)
            ],
            schema=self._schema,
        )
        room = _FIXED_BYTES + _FOOTER_BYTES * self._groups + _ROW_BYTES * table.num_rows
        self._file.reserve(table.nbytes + room)
        self._is_whole = False
        self._writer.write_table(table)
        self._is_whole = True
        self._clear()

    def close(self) -> None:
        """
        Write the footer, without which the file cannot be read.

        Raises:
            OSError: It cannot be written, or a row group is incomplete.
        """
        if not self._is_whole:
            raise OSError(errno.EIO, "a row group is incomplete")
        self._writer.close()
        self._file.close()

    def discard(self) -> None:
        """
        Remove the file.
        """
        with suppress(Exception):
            self._writer.close()
        self._writer.is_open = False  # or it would try again when it is collected
        self._file.discard()

    def _clear(self) -> None:
        self._held: list[list[Any]] = [[] for _ in COLUMNS]
        self._size = 0


class ParquetRows:
    """
    Reads an archive in Parquet row by row.

    Args:
        path: The path.

    Raises:
        ValueError: It is not such an archive.
        OSError: It cannot be read.
        MissingExtra: pyarrow is not installed.
    """

    def __init__(self, path: str) -> None:
        self._pa, parquet = _pyarrow()
        self._size = os.path.getsize(path)
        self._read = 0
        self._file = parquet.ParquetFile(path, pre_buffer=False)
        schema = self._file.schema_arrow
        missing = [name for name in _NEEDED if name not in schema.names]
        if missing:
            raise ValueError(f"it has no column {missing[0]!r}")
        time = schema.field("time").type
        if not self._pa.types.is_timestamp(time):
            raise ValueError(f"its column 'time' must have timestamps, not {time}")
        self._milliseconds = self._pa.timestamp("ms", time.tz)

    @property
    def position(self) -> float:
        """
        How far it has been read, in bytes.
        """
        rows: int = self._file.metadata.num_rows
        return self._size * self._read / max(rows, 1)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """
        Yield the values of ``message_id``, ``time`` in milliseconds, ``time_note`` and ``body``.

        Raises:
            ValueError: The file is damaged.
            OSError: It cannot be read.
        """
        names = [name for name in _READ if name in self._file.schema_arrow.names]
        with self._file:
            for group in range(self._file.num_row_groups):
                for some in self._file.iter_batches(_READ_ROWS, row_groups=[group], columns=names):
                    columns = {name: some.column(name) for name in names}
                    time = columns["time"].cast(self._milliseconds, safe=False)
                    columns["time"] = time.cast(self._pa.int64())
                    for at in range(some.num_rows):
                        self._read += 1
                        values = {name: column[at].as_py() for name, column in columns.items()}
                        yield tuple(values.get(name) for name in _READ)


def _pyarrow() -> tuple[Any, Any]:
    with extra():
        import pyarrow
        import pyarrow.parquet
    return pyarrow, pyarrow.parquet
