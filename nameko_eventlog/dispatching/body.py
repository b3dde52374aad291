"""
Build bodies from event logs and the worker context, and encode them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from time import time
from typing import Any

import msgspec

from logging_ext.event import CONTEXT_FIELDS, EventLog, SharedMetadata
from logging_ext.events import EMPTY
from logging_ext.names import (
    MAX_NAME,
    is_short,
    settle_context,
    short_event_type,
    wrong_context,
)
from logging_ext.rendering import safe_text
from nameko_eventlog import limits
from nameko_eventlog.dispatching.serialization import (
    Cleaner,
    Serializer,
    short_repr,
)
from nameko_eventlog.exceptions import EventLogTypeError, EventLogValueError, OversizedEvent
from nameko_eventlog.plain_json import encode_plain, is_plain


_TOP = frozenset({"timestamp", "event_type", "data"})
_MOST_EVENT_TYPES = 1_000
_NOT_METADATA_ONLY = _TOP | frozenset(CONTEXT_FIELDS)


PLAIN_TYPE = "application/json"
PLAIN_ENCODING = "utf-8"
"""Content type and content encoding of the payloads that `BodyEncoder.encode_plain` returns."""


class Body(msgspec.Struct, frozen=True, gc=False):
    """
    An encoded body.
    """

    payload: bytes
    content_type: str
    content_encoding: str
    timestamp: float
    event_type: str


class Head:
    """
    The beginning of a worker's bodies as JSON: the context, the metadata, and the time.

    It is cached, because consecutive event logs mostly share it.

    Args:
        context: The five context attributes.
    """

    __slots__ = ("context", "kept", "plain_context")

    def __init__(self, context: Mapping[str, Any]) -> None:
        self.context = context
        try:
            self.plain_context: bytes | None = encode_plain(context)[:-1]
        except Exception:  # lone surrogates: the slow path for all event logs
            self.plain_context = None
        # the metadata, the first and the last second of validity, and their JSON: one attribute,
        # so that threads see matching values
        self.kept: tuple[SharedMetadata | None, float, float, bytes] = (None, 0.0, 0.0, b"")


class BodyEncoder:
    """
    Build and encode bodies for one dispatcher.

    Args:
        serializer: The serializer.
        redact: Keys whose values are redacted; case does not matter.
        max_event_bytes: The largest body, in bytes.
        timespec: ``seconds``, ``milliseconds`` or ``microseconds``.
    """

    def __init__(
        self,
        serializer: Serializer,
        redact: tuple[str, ...],
        max_event_bytes: int,
        timespec: str,
    ) -> None:
        self._serializer = serializer
        self._redact = frozenset(key.lower() for key in redact)
        # every serializer needs at least two bytes for an element
        most = max(1000, min(max_event_bytes, limits.BODY_VALUES) // 2)
        self._cleaner = Cleaner(serializer, self._redact, most)
        self._checker = Cleaner(serializer, self._redact, most, thorough=True)
        self._mender = Cleaner(serializer, frozenset(), 3 * most, thorough=True)
        self._max_event_bytes = max_event_bytes
        self._most_plain = min(max_event_bytes, limits.BODY_VALUES)  # above, values are counted
        self._timespec = timespec
        self._formatted: tuple[int, str] = (-1, "")
        self._middles: dict[str, bytes] = {}  # by event type

    def encode(self, head: Head, event: EventLog) -> Body:
        """
        Encode a log line's event log. Values that cannot be sent are replaced by their repr.

        Args:
            head: The worker's head; its cache is updated.
            event: The event log.
        """
        timestamp = time() if event.timestamp is None else event.timestamp
        payload = self.encode_plain(head, event, timestamp)
        if payload is not None:
            return Body(payload, PLAIN_TYPE, PLAIN_ENCODING, timestamp, event.event_type)
        return self._encode_any(head.context, event)

    def encode_plain(self, head: Head, event: EventLog, timestamp: float) -> bytes | None:
        """
        Encode a log line's event log if it consists of plain JSON types.

        Args:
            head: The worker's head; its cache is updated.
            event: The event log.
            timestamp: Its time.

        Returns:
            The payload, with `PLAIN_TYPE` and `PLAIN_ENCODING`, or None.
        """
        metadata = event.metadata
        data = event.event_data
        try:
            middle = self._middles.get(event.event_type) or self._learn(event.event_type)
            if not middle:
                return None
            known, begin, end, json = head.kept
            if metadata is not known or not begin <= timestamp < end:
                json = self._renew(head, metadata, timestamp)
                if not json:
                    return None
            if not event.is_flat or self._redact:
                if data is None:
                    data = {}
                if type(data) is not dict or not is_plain(data, self._redact):
                    return None
            payload = b"".join((json, middle, encode_plain(data), b"}"))
        except Exception:  # lone surrogates, integers above 64 bits, an event type that is no text
            return None
        return payload if len(payload) <= self._most_plain else None

    def _learn(self, event_type: str) -> bytes:
        """
        Encode the part between the head and the data, and cache it by event type.

        Most event types are literals in the service's code.

        Returns:
            JSON, or empty bytes if the event log needs the slow path.
        """
        if not event_type or not is_short(event_type):
            return b""
        middle = encode_plain(event_type) + b',"data":'
        if len(self._middles) >= _MOST_EVENT_TYPES:  # generated at run time
            self._middles.clear()
        self._middles[event_type] = middle
        return middle

    def _renew(self, head: Head, metadata: Mapping[str, Any] | None, timestamp: float) -> bytes:
        """
        Encode the head for *metadata* and *timestamp*.

        Returns:
            JSON, or empty bytes if the event log needs the slow path.
        """
        if head.plain_context is None or not self._serializer.has_fast_path:
            return b""
        written = self._format(timestamp)
        middle = b""
        if metadata:
            if not isinstance(metadata, dict) or not _NOT_METADATA_ONLY.isdisjoint(metadata):
                return b""
            if not is_plain(metadata, self._redact):
                return b""
            middle = b"," + encode_plain(metadata)[1:-1]
        json = b'%b%b,"timestamp":"%b","event_type":' % (
            head.plain_context,
            middle,
            written.encode(),
        )
        if type(metadata) is SharedMetadata and self._timespec == "seconds":
            begin = math.floor(timestamp)
            head.kept = (metadata, begin, begin + 1, json)
        return json

    def _encode_any(self, context: Mapping[str, Any], event: EventLog) -> Body:
        timestamp = time() if event.timestamp is None else event.timestamp
        try:
            written = self._format(timestamp)
        except Exception:  # the record was not made by logging.LogRecord
            timestamp = time()
            written = self._format(timestamp)
        whole = event.event_type if type(event.event_type) is str else safe_text(event.event_type)
        event_type = short_event_type(whole)
        metadata = event.metadata or {}
        if event_type != whole:
            metadata = {"message": whole, **metadata}
        metadata, data = settle_context(metadata, event.event_data or {})
        event_type = event_type or EMPTY
        packed = self._packed(context, event_type, data, metadata, written)
        return Body(*packed, timestamp, event_type)

    def _packed(
        self,
        context: Mapping[str, Any],
        event_type: str,
        event_data: Mapping[str, Any],
        given: Mapping[str, Any],
        written: str,
    ) -> tuple[bytes, str, str]:
        metadata: Mapping[str, Any] = {}
        try:
            metadata = self._cleaner.clean("metadata", given)
            data: Mapping[str, Any] = self._cleaner.clean("event_data", event_data)
            metadata, data = settle_context(metadata, data)  # redaction may have changed it
            body = self._body(context, event_type, data, metadata, written)
            return self._checked(self._pack(body))
        except OversizedEvent as exc:
            data = {"oversized": str(exc)}
        try:
            body = self._body(context, event_type, data, metadata, written)
            return self._checked(self._pack(body))
        except OversizedEvent:
            metadata = {
                name: value if len(str(value)) <= 1000 else "[oversized: cut]"
                for name, value in metadata.items()
            }
        metadata, data = settle_context(metadata, data)
        try:
            return self._checked(
                self._pack(self._body(context, event_type, data, metadata, written))
            )
        except OversizedEvent:
            return self._pack(self._body(context, event_type, data, {}, written))

    def encode_manual(self, head: Head, event_type: Any, event_data: Any, metadata: Any) -> Body:
        """
        Encode a manual dispatch.

        Args:
            head: The worker's head; its cache is updated.
            event_type: The event type.
            event_data: The event data.
            metadata: The metadata.

        Raises:
            EventLogTypeError: An argument, or a value in it, has the wrong type.
            EventLogValueError: A value cannot be dispatched.
            OversizedEvent: The body exceeds ``max_event_bytes``, or what consumers accept.
        """
        if not isinstance(event_type, str):
            raise EventLogTypeError(f"event_type must be a string, not {short_repr(event_type)}")
        if not event_type:
            raise EventLogValueError("event_type must not be empty; say what happened")
        event_type = str.__str__(event_type)
        if not is_short(event_type):
            raise EventLogValueError(
                f"event_type has {len(event_type)} characters, at most {MAX_NAME} are allowed (NUL"
                " and lone surrogates count six times); pass a short name, and the text in"
                f" event_data: {short_repr(event_type)}"
            )
        given: dict[str, Mapping[Any, Any]] = {}
        for name, value in (("event_data", event_data), ("metadata", metadata)):
            if value is not None and not isinstance(value, Mapping):
                raise EventLogTypeError(
                    f"{name} must be a mapping or None, not {short_repr(value)}"
                )
            given[name] = {} if value is None else value
        timestamp = time()
        payload = self.encode_plain(head, EventLog(event_type, event_data, metadata), timestamp)
        if payload is not None:
            return Body(payload, PLAIN_TYPE, PLAIN_ENCODING, timestamp, event_type)
        checked = {name: self._cleaner.check(name, value) for name, value in given.items()}
        for name, expected in wrong_context(given["metadata"]):
            raise EventLogTypeError(
                f"metadata.{name} replaces the worker's {name} and must be {expected}, not"
                f" {short_repr(given['metadata'][name])}"
            )
        attributes, data = settle_context(checked["metadata"], checked["event_data"])
        body = self._body(head.context, event_type, data, attributes, self._format(timestamp))
        try:
            packed = self._serializer.encode(body)
        except Exception as exc:
            for name, value in given.items():
                self._checker.check(name, value)
            self._checker.check("event_log", {**head.context, "event_type": event_type})
            raise EventLogTypeError(f"the event log cannot be encoded: {exc!r}") from exc
        return Body(*self._checked(packed), timestamp, event_type)

    def _checked(self, packed: tuple[bytes, str, str]) -> tuple[bytes, str, str]:
        """
        Return *packed* if it is not too large.

        Raises:
            OversizedEvent: It exceeds ``max_event_bytes``, or what consumers accept.
        """
        size = len(packed[0])
        if size > self._max_event_bytes:
            raise OversizedEvent(
                f"the event log has {size} bytes, more than max_event_bytes"
                f" ({self._max_event_bytes}); pass less event_data or metadata"
            )
        if size > limits.BODY_VALUES:
            values = limits.count_values(packed[0], packed[1])
            if values > limits.BODY_VALUES:
                raise OversizedEvent(
                    f"the event log has up to {values} values, more than consumers accept"
                    f" ({limits.BODY_VALUES}); pass less event_data or metadata"
                )
        return packed

    def _body(
        self,
        context: Mapping[str, Any],
        event_type: str,
        data: Mapping[str, Any],
        metadata: Mapping[str, Any],
        written: str,
    ) -> dict[str, Any]:
        return {
            **context,
            **metadata,
            "timestamp": written,
            "event_type": event_type,
            "data": data,
        }

    def _pack(self, body: dict[str, Any]) -> tuple[bytes, str, str]:
        try:
            return self._serializer.encode(body)
        except Exception:  # a string or an integer that this serializer cannot encode
            return self._serializer.encode(self._mender.clean("the event log", body))

    def _format(self, timestamp: float) -> str:
        if self._timespec != "seconds":
            return datetime.fromtimestamp(timestamp, timezone.utc).isoformat(
                timespec=self._timespec
            )
        second = math.floor(timestamp)
        known, text = self._formatted  # one attribute, so that threads see a matching pair
        if second != known:
            text = datetime.fromtimestamp(second, timezone.utc).isoformat()
            self._formatted = (second, text)
        return text
