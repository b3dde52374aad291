"""
Writing batches of messages, each in one transaction, or in several if it is very large.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from kombu.serialization import registry

from nameko_eventlog import limits
from nameko_eventlog.consuming import ReceivedMessage
from nameko_eventlog.consuming.counts import StoreCounts
from nameko_eventlog.describing import describe_value
from nameko_eventlog.store.backends import RowRefused, Writer, backend_of
from nameko_eventlog.store.rows import Unstorable, escape_unstorable, make_plain, make_row
from nameko_eventlog.store.times import now_ms


@dataclass(slots=True)
class _Portion:
    """
    The rows and rejects of one transaction.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    messages: list[ReceivedMessage] = field(default_factory=list)
    """Those of the rows."""

    rejected: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0

    def add(self, message: ReceivedMessage, accept: Collection[str], now: int) -> None:
        """
        Make *message* a row, or a reject.
        """
        try:
            row = make_row(message, accept, now)
        except Unstorable as exc:
            self.rejected.append(make_reject(message, str(exc), now))
            self.size += len(message.body)
            return
        self.rows.append(row)
        self.messages.append(message)
        self.size += max(len(message.body), message.decoded_weight)


class EventLogWriter:
    """
    Writes to one database, whose tables it creates or migrates before the first row.

    Args:
        uri: The database's address.
        accept: The content types that may be decoded, or the names of kombu's serializers.
        counts: Where rows and duplicates are counted.

    Raises:
        DatabaseError: If *uri* is not the address of a supported database.
    """

    def __init__(
        self, uri: str, accept: Collection[str], counts: StoreCounts | None = None
    ) -> None:
        self._counts = StoreCounts() if counts is None else counts
        self._writer: Writer = backend_of(uri).Writer(uri)
        self._accept = content_types(accept)

    @property
    def problem(self) -> str | None:
        """
        What keeps the database from preparing for the next days, or None.
        """
        return self._writer.problem

    def prepare(self) -> None:
        """
        Create or migrate the tables, if needed, and prepare for the next days.

        Raises:
            DatabaseError: If the database cannot be used.
        """
        self._writer.prepare()

    def write(self, messages: Sequence[ReceivedMessage]) -> list[str]:
        """
        Write *messages*, each as a row or as a reject.

        Returns:
            The reasons for the rejects.

        Raises:
            DatabaseError: If the database cannot be used now; some messages may be written.
        """
        self.prepare()
        reasons: list[str] = []
        while messages:
            number, some = self.write_first(messages)
            reasons += some
            messages = messages[number:]
        return reasons

    def write_first(self, messages: Sequence[ReceivedMessage]) -> tuple[int, list[str]]:
        """
        Write the first of *messages*, as many as one transaction takes.

        Returns:
            How many, and the reasons for the rejects among them.

        Raises:
            DatabaseError: If the database cannot be used now; some messages may be written.
        """
        self.prepare()
        now = now_ms()
        portion = _Portion()
        number = 0
        for message in messages:
            portion.add(message, self._accept, now)
            number += 1
            if portion.size >= limits.TRANSACTION_BYTES:
                break
        return number, self._write(portion, now)

    def try_write(self, messages: Sequence[ReceivedMessage]) -> None:
        """
        Write *messages*, and roll back.

        Raises:
            DatabaseError: If the database does not accept them now.
        """
        self.prepare()
        now = now_ms()
        portion = _Portion()
        for message in messages:
            portion.add(message, self._accept, now)
            if portion.size >= limits.TRANSACTION_BYTES:
                break
        self._writer.try_insert(portion.rows, portion.rejected)

    def write_rows(self, rows: Sequence[dict[str, Any]]) -> tuple[int, list[tuple[int, str]]]:
        """
        Write rows that `make_row` could have made, in one transaction.

        If the database refuses one of them, each is written in its own transaction.

        Returns:
            How many are new; and the index of each that the database refuses, with the reason.

        Raises:
            DatabaseError: If the database cannot be used now; some rows may be written.
        """
        self.prepare()
        try:
            return self._writer.insert(rows, []), []
        except RowRefused:
            pass
        number = 0
        refused = []
        for index, row in enumerate(rows):
            try:
                number += self._writer.insert([row], [])
            except RowRefused as exc:
                refused.append((index, str(exc)))
        return number, refused

    def close(self) -> None:
        """
        Close the connection.
        """
        self._writer.close()

    def _write(self, portion: _Portion, now: int) -> list[str]:
        rows, rejected = portion.rows, portion.rejected
        try:
            inserted = self._writer.insert(rows, rejected)
            self._count(inserted, len(rows))
        except RowRefused:
            rejected = self._write_singly(portion, now)
        return [reject["reason"] for reject in rejected]

    def _write_singly(self, portion: _Portion, now: int) -> list[dict[str, Any]]:
        rejected = list(portion.rejected)
        for row, message in zip(portion.rows, portion.messages, strict=True):
            try:
                self._count(self._writer.insert([row], []), 1)
            except RowRefused as exc:
                rejected.append(make_reject(message, str(exc), now))
        self._writer.insert([], rejected)
        return rejected

    def _count(self, inserted: int, number: int) -> None:
        self._counts.rows += inserted
        self._counts.duplicates += number - inserted


def has_id(message: ReceivedMessage) -> bool:
    """
    Tell whether *message* has an id, which identifies it however often it is delivered.
    """
    return message.properties.get("message_id") not in (None, "")


def content_types(accept: Collection[str]) -> frozenset[str]:
    """
    Return *accept*, and the content types of the kombu serializers that it names.
    """
    names = registry.name_to_type
    return frozenset(accept) | {names[name] for name in accept if name in names}


def make_reject(message: ReceivedMessage, reason: str, now: int) -> dict[str, Any]:
    """
    Make a row of the table of rejects: the complete message.
    """
    message_id = message.properties.get("message_id")
    described: dict[str, Any] = {
        "unreadable": escape_unstorable(describe_value(message.properties))
    }
    with suppress(Exception):  # nested too deeply, for example
        described = make_plain(
            {
                **message.properties,
                "content_type": message.content_type,
                "content_encoding": message.content_encoding,
                "headers": message.headers,
            }
        )
    digest = hashlib.sha256(message.body)
    identity = message_id if has_id(message) else message.nonce
    for part in (identity, message.exchange, message.routing_key, message.content_type):
        text = repr(part) if isinstance(part, (str, bytes)) else describe_value(part)
        digest.update(b"\0" + text.encode(errors="backslashreplace"))
    return {
        "rejected_ms": now,
        "reason": escape_unstorable(reason[:1000]),
        "digest": digest.hexdigest(),
        "message_id": None if message_id is None else escape_unstorable(_as_text(message_id)),
        "exchange": escape_unstorable(message.exchange),
        "routing_key": escape_unstorable(message.routing_key),
        "properties": described,
        "body": message.body,
    }


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else describe_value(value)
