"""
Exporting event logs to an archive, so that an interrupted export can go on.
"""

from __future__ import annotations

import base64
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import msgspec

from nameko_eventlog.store.answers import EventLogRow
from nameko_eventlog.store.archives.formats import Archive
from nameko_eventlog.store.dating import EARLIEST_MS
from nameko_eventlog.store.parameters import MAX_LIMIT, Filters, InvalidQuery
from nameko_eventlog.store.queries import EventLogQuery
from nameko_eventlog.store.times import format_time


_END = "9999-12-31T23:59:59.999+00:00"
_LONGEST = 20_000  # characters of a cursor
_EXPECTED = "pass the cursor of an interrupted export, unchanged"


@dataclass(frozen=True, slots=True)
class _Cursor:
    """
    Where an export ended, and its time range.

    Args:
        digest: Of the filters.
        since: Where the time range begins.
        until: Where it ends.
        page: The cursor of the page in which the export ended; None for the first page.
        time: The time of the last event log that was written.
        message_id: The id of that event log.
    """

    digest: str
    since: str | None
    until: str
    page: str | None
    time: str
    message_id: str

    def encode(self) -> str:
        """
        Return the cursor as text.
        """
        parts = (
            self.digest, self.since, self.until, self.page, self.time, self.message_id,
        )  # fmt: skip
        return base64.urlsafe_b64encode(msgspec.json.encode(parts)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> _Cursor:
        """
        Read a cursor from text.

        Raises:
            InvalidQuery: It is not a cursor of an export.
        """
        try:
            if len(text) > _LONGEST:
                raise ValueError
            parts = msgspec.json.decode(
                base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True),
                type=tuple[str, str | None, str, str | None, str, str],
            )
        except Exception:
            raise InvalidQuery("cursor", text, _EXPECTED) from None
        return cls(*parts)


class Export:
    """
    Exports the event logs that match, the oldest first, with complete bodies.

    Event logs that arrive meanwhile are exported too, if their times are later than those of the
    event logs that were exported so far.

    Args:
        query: Where they are read.
        cursor: The `cursor` of an interrupted export, to go on after it. The time range is that of
            the interrupted export.
        **filters: Those of ``query.query``. Without ``since`` and ``until``, event logs of
            all times are exported, whatever the other filters are.

    Raises:
        InvalidQuery: A parameter is invalid.

    .. versionadded:: 0.1.0
    """

    def __init__(self, query: EventLogQuery, *, cursor: str | None = None, **filters: Any) -> None:
        self._query = query
        self._start = None if cursor is None else _Cursor.decode(cursor)
        if self._start is not None:
            filters |= {"since": self._start.since, "until": self._start.until}
        parsed = Filters.parse(**filters)
        since, until = parsed.since, parsed.until
        if since is None and (parsed.needs_range or parsed.patterns):
            since = EARLIEST_MS  # or the query would search the last 24 hours
        self.filters = {
            **filters,
            "since": None if since is None else format_time(since),
            "until": _END if until is None else format_time(until),
        }
        """The filters, with the time range."""
        self._digest = Filters.parse(**self.filters).digest
        if self._start is not None and self._start.digest != self._digest:
            raise InvalidQuery(
                "cursor", cursor, "it belongs to another export: pass the same filters"
            )
        self._saved = (0, cursor)

    @property
    def written(self) -> int:
        """
        How many event logs this export has written.
        """
        return self._saved[0]

    @property
    def cursor(self) -> str | None:
        """
        The cursor with which another export goes on after them, or None before the first.
        """
        return self._saved[1]

    def write_to(self, archive: Archive) -> Iterator[int]:
        """
        Write the event logs to *archive*; close it afterwards, also after an exception.

        Yields:
            After each flush of *archive*, how many event logs were written with it.

        Raises:
            DatabaseError: The database cannot be used.
            OSError: The archive cannot be written.
        """
        held = 0
        place: tuple[str | None, EventLogRow] | None = None
        for place in self._rows():
            held += 1
            if archive.add(place[1]):
                self._save(archive, *place, held)
                yield held
                held = 0
        if place is None:
            archive.flush()  # what comes before the first row
        elif held:
            self._save(archive, *place, held)
            yield held

    def _save(self, archive: Archive, page: str | None, last: EventLogRow, number: int) -> None:
        since, until = self.filters["since"], self.filters["until"]
        cursor = _Cursor(self._digest, since, until, page, last["time"], last["message_id"])
        saved = (self.written + number, cursor.encode())
        with _uninterrupted():
            archive.flush()
            self._saved = saved

    def _rows(self) -> Iterator[tuple[str | None, EventLogRow]]:
        """
        Yield rows with the cursor of their page.
        """
        page = None if self._start is None else self._start.page
        is_behind = None if self._start is None else self._skipper(self._start)
        while True:
            found = self._query.query(order="oldest", limit=MAX_LIMIT, cursor=page, **self.filters)
            for row in found["event_logs"]:
                if is_behind is not None and is_behind(row):
                    continue
                whole: EventLogRow | None = row
                if "omitted_bytes" in row:
                    whole = self._query.get(row["message_id"])
                if whole is not None:  # else it was deleted in the meantime
                    yield page, whole
            page = found["cursor"]
            if page is None:
                return

    def _skipper(self, start: _Cursor) -> Callable[[EventLogRow], bool]:
        """
        Return a function that tells of one row after the other whether it was written before.
        """
        is_there = self._query.get(start.message_id, most_bytes=0) is not None
        is_behind = True

        def is_written(row: EventLogRow) -> bool:
            nonlocal is_behind
            if is_behind and row["message_id"] == start.message_id:
                is_behind = False
                return True
            # if it was deleted, others of its millisecond may be written twice: none is omitted
            if row["time"] > start.time or (row["time"] == start.time and not is_there):
                is_behind = False
            return is_behind

        return is_written


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """
    Let Ctrl-C take effect after the ``with`` block. A second one takes effect at once.

    It changes nothing outside the main thread, or in a program with its own handler.
    """
    is_waiting = False

    def wait(number: int, frame: FrameType | None) -> None:
        nonlocal is_waiting
        if is_waiting:
            raise KeyboardInterrupt
        is_waiting = True

    default = signal.default_int_handler
    try:
        if signal.getsignal(signal.SIGINT) is default:
            signal.signal(signal.SIGINT, wait)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is wait:
            signal.signal(signal.SIGINT, default)
    if is_waiting:
        raise KeyboardInterrupt
