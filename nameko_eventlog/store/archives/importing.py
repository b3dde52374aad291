"""
Importing archives: each row is checked like a received message, and written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nameko_eventlog import limits
from nameko_eventlog.amqp.decoding import JSON, weight_of
from nameko_eventlog.describing import describe_value, shortened
from nameko_eventlog.exceptions import EventLogValueError
from nameko_eventlog.store.archives.sources import ArchivedRow
from nameko_eventlog.store.dating import EARLIEST_MS, NOTES
from nameko_eventlog.store.rows import (
    Unstorable,
    columns_of,
    decode_stored,
    escape_unstorable,
    storable_id,
)
from nameko_eventlog.store.times import format_time, now_ms
from nameko_eventlog.store.writing import EventLogWriter


_REASON = 500  # characters


class BadRow(EventLogValueError):
    """
    A row of an archive cannot be stored; the text says where it is, and why.

    .. versionadded:: 0.1.0
    """


@dataclass(frozen=True, slots=True)
class Counts:
    """
    What an import has done so far.

    Args:
        stored: How many event logs are new in the store.
        known: How many were there already.
        bad: How many rows were skipped, because they cannot be stored.
    """

    stored: int = 0
    known: int = 0
    bad: int = 0

    @property
    def read(self) -> int:
        """
        The sum.
        """
        return self.stored + self.known + self.bad


class Import:
    """
    Imports archives into a database, in transactions of bounded size.

    If it is interrupted, what was committed stays, and another import of the same archives goes
    on: an event log is stored once, however often it is imported.

    Args:
        uri: The database's address. Its tables are created or migrated, if needed.
        on_bad: Called with the error for each row that cannot be stored. The default raises it.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.

    .. versionadded:: 0.1.0
    """

    def __init__(self, uri: str, on_bad: Callable[[BadRow], None] | None = None) -> None:
        self._writer = EventLogWriter(uri, ["json"])
        self._on_bad = on_bad
        self.counts = Counts()
        """What has been committed."""

    def __enter__(self) -> Import:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """
        Close the connection.
        """
        self._writer.close()

    def read(self, source: Iterable[tuple[str, ArchivedRow | Unstorable]]) -> Iterator[Counts]:
        """
        Import an archive.

        Yields:
            After each transaction, what has been done so far.

        Raises:
            BadRow: A row cannot be stored. Those before it are.
            DatabaseError: The database cannot be used.
            OSError: The archive cannot be read.
        """
        self._writer.prepare()
        rows: list[dict[str, Any]] = []
        places: list[str] = []
        weight = 0
        for place, found in source:
            try:
                if isinstance(found, Unstorable):
                    raise found
                row = make_imported_row(found, now_ms())
            except Unstorable as exc:
                if self._on_bad is None:
                    self._write(rows, places)
                self._refuse(place, str(exc))
                continue
            rows.append(row)
            places.append(place)
            weight += weight_of(_as_bytes(found.body), JSON)
            if weight >= limits.TRANSACTION_BYTES or len(rows) >= limits.IMPORT_ROWS:
                self._write(rows, places)
                rows, places, weight = [], [], 0
                yield self.counts
        self._write(rows, places)
        yield self.counts

    def _write(self, rows: list[dict[str, Any]], places: list[str]) -> None:
        if not rows:
            return
        stored, refused = self._writer.write_rows(rows)
        counts = self.counts
        known = counts.known + len(rows) - stored - len(refused)
        self.counts = Counts(counts.stored + stored, known, counts.bad)
        for index, reason in refused:
            self._refuse(places[index], reason)

    def _refuse(self, place: str, reason: str) -> None:
        bad = BadRow(f"{place}: {shortened(reason, _REASON)}")
        if self._on_bad is None:
            raise bad
        counts = self.counts
        self.counts = Counts(counts.stored, counts.known, counts.bad + 1)
        self._on_bad(bad)


def make_imported_row(found: ArchivedRow, now: int) -> dict[str, Any]:
    """
    Make a row for the table of event logs, with the archive's time.

    Args:
        found: The archive's row.
        now: The time, in milliseconds since 1970.

    Raises:
        Unstorable: The store could not have made such a row.
    """
    if type(found.message_id) is not str or not found.message_id:
        raise Unstorable(f"message_id must be a non-empty string, not {_shown(found.message_id)}")
    try:
        if found.time_note is not None and found.time_note not in NOTES:
            raise Unstorable(
                f"time_note must be one of {', '.join(NOTES)}, not {_shown(found.time_note)}"
            )
        return {
            "message_id": storable_id(found.message_id),
            "time_ms": _check_time(found.time_ms, now),
            "time_note": found.time_note,
            **columns_of(decode_stored(_as_bytes(found.body))),
        }
    except Unstorable as exc:
        raise Unstorable(f"{exc} (message_id {_shown(found.message_id)})") from exc


def _check_time(time_ms: Any, now: int) -> int:
    if type(time_ms) is not int:
        raise Unstorable(f"time must be a time, not {_shown(time_ms)}")
    if EARLIEST_MS <= time_ms <= now + limits.AHEAD_SECONDS * 1000:
        return time_ms
    try:
        shown = format_time(time_ms)
    except OverflowError:
        shown = str(time_ms)
    if time_ms < EARLIEST_MS:
        raise Unstorable(f"the time {shown} is before the year 2000")
    raise Unstorable(f"the time {shown} is in the future: is this machine's clock right?")


def _as_bytes(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    if not isinstance(body, str):
        raise Unstorable(f"the body must be a JSON object, not {_shown(body)}")
    return body.encode()


def _shown(value: Any) -> str:
    return escape_unstorable(describe_value(value))
