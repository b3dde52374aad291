"""
Turn any values into values that a serializer can encode and every consumer can decode.

kombu's serializers define the format. For bodies of plain JSON types msgspec makes the same JSON
as kombu's encoder, in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from math import isfinite
from typing import Any
from uuid import UUID

import kombu.serialization
from kombu.utils.json import dumps as kombu_json_dumps
from nameko.exceptions import ConfigurationError

from logging_ext.rendering import safe_repr
from nameko_eventlog.describing import shortened
from nameko_eventlog.dispatching.redaction import REDACTED, is_named
from nameko_eventlog.exceptions import EventLogTypeError, EventLogValueError, OversizedEvent
from nameko_eventlog.plain_json import CUT, MAX_DEPTH, looks_tagged


CYCLE = "[contains itself: cut]"

_SCALARS = frozenset({str, int, bool, type(None)})


# kombu's JSON encodes these as tagged values, and decodes them to the same type
_KNOWN_TO_KOMBU_JSON = frozenset({datetime, date, time, Decimal, UUID, bytes})

_UNKNOWN = object()

Path = tuple[str | int, ...]


class Serializer:
    """
    One of kombu's serializers, with a test of what it can encode.

    Args:
        name: Its name in kombu's registry.

    Raises:
        ConfigurationError: There is no such serializer, or it cannot encode mappings.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        try:
            payload, content_type, _ = self.encode({})
            encoder = kombu.serialization.registry._encoders[name].encoder
        except Exception as exc:
            raise ConfigurationError(
                f"the serializer {name!r} cannot encode event logs: {exc}; choose a serializer"
                " that kombu knows, or register yours under SERIALIZERS"
            ) from exc
        self._is_json = content_type == "application/json"
        self.has_fast_path = name == "json" and payload == b"{}" and encoder is kombu_json_dumps
        self.has_tags = self.tried({"__type__": "nameko_eventlog", "__value__": 1}) is _UNKNOWN

    def encode(self, body: Mapping[str, Any]) -> tuple[bytes, str, str]:
        """
        Encode *body*.

        Returns:
            The payload, its content type and its content encoding.

        Raises:
            Exception: kombu's encoder raised it.
        """
        content_type, content_encoding, payload = kombu.serialization.dumps(
            body, serializer=self.name
        )
        if isinstance(payload, str):
            payload = payload.encode("utf-8")
        return payload, content_type, content_encoding

    def tried(self, value: object) -> Any:
        """
        Encode and decode *value*.

        Returns:
            The value that a consumer would get; `_UNKNOWN` if *value* cannot be encoded or
            decoded, or if the decoded value contains NaN or an infinity.
        """
        # not with a time zone: a tzinfo may be of any class, and raise
        known = self._is_json and type(value) in _KNOWN_TO_KOMBU_JSON
        if known and getattr(value, "tzinfo", None) is None:
            return value
        try:
            payload, content_type, content_encoding = self.encode({"value": value})
            decoded = kombu.serialization.loads(
                payload, content_type, content_encoding, accept={content_type}
            )["value"]
            return _UNKNOWN if _has_non_finite(decoded) else decoded
        except Exception:
            return _UNKNOWN


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_non_finite, value.values()))
    if isinstance(value, list):
        return any(map(_has_non_finite, value))
    return False


class _Walk:
    """
    The shared state of one walk through a value.

    Args:
        budget: How many values the walk may visit.
        on_problem: Called with the kind of problem, the path and the value; returns the
            replacement.
    """

    __slots__ = ("budget", "known", "on_problem")

    def __init__(self, budget: int, on_problem: Callable[[str, Path, Any], Any]) -> None:
        self.budget = budget
        self.on_problem = on_problem
        # by id and depth: the cleaned container, how many values it took, and the container
        # itself, so that its id is not reused. A container that occurs often is walked once.
        self.known: dict[tuple[int, int], tuple[Any, int, Any]] | None = {}


class Cleaner:
    """
    Copy values into a form that a serializer can encode, with secrets redacted.

    Args:
        serializer: The serializer.
        redact: Keys, in lower case, whose values become `REDACTED`.
        max_nodes: The most values; with more, the whole counts as oversized.
        thorough: Whether to test every string and integer as well: some serializers cannot
            encode lone surrogates or more than 64 bits.
    """

    def __init__(
        self,
        serializer: Serializer,
        redact: frozenset[str],
        max_nodes: int,
        thorough: bool = False,
    ) -> None:
        self._serializer = serializer
        self._redact = redact
        self._max_nodes = max_nodes
        self._thorough = thorough

    def clean(self, name: str, value: Mapping[Any, Any]) -> dict[str, Any]:
        """
        Return a copy of *value* in which values that cannot be sent are replaced by their repr.

        Args:
            name: The name of *value*, for messages.
            value: The value.

        Raises:
            OversizedEvent: It has too many values.
        """
        cleaned = self._walk(value, (name,), (), _Walk(self._max_nodes, _replace))
        return cleaned if type(cleaned) is dict else {"value": cleaned}

    def check(self, name: str, value: Mapping[Any, Any]) -> dict[str, Any]:
        """
        Return a copy of *value*, after checking that all of it can be sent.

        Args:
            name: The argument's name, for messages.
            value: The argument.

        Raises:
            EventLogTypeError: A key is not a string, or a value cannot be serialised.
            EventLogValueError: A value is NaN or infinite, contains itself, or is nested too deep.
            OversizedEvent: It has too many values.
        """
        checked: dict[str, Any] = self._walk(value, (name,), (), _Walk(self._max_nodes, _refuse))
        return checked

    def _walk(
        self,
        value: Any,
        path: Path,
        inside: tuple[int, ...],
        walk: _Walk,
    ) -> Any:
        self._spend(walk, 1, path)
        if type(value) in _SCALARS and not self._thorough:
            return value
        if type(value) is float and isfinite(value):
            return value
        try:  # ``__class__`` of a proxy may raise
            is_number = isinstance(value, float)
            is_mapping = isinstance(value, Mapping)
            is_sequence = isinstance(value, (list, tuple))
        except Exception:
            return walk.on_problem("type", path, value)
        if is_number and not isfinite(value):
            return walk.on_problem("number", path, value)
        if not is_mapping and not is_sequence:
            return self._leaf(value, path, inside, walk)
        if id(value) in inside:
            walk.known = None  # from now on the result depends on the path to a container
            return walk.on_problem("cycle", path, value)
        if len(inside) == MAX_DEPTH:
            return walk.on_problem("depth", path, value)
        place = (id(value), len(inside))
        if walk.known is not None and place in walk.known:
            cleaned, cost, _ = walk.known[place]
            self._spend(walk, cost, path)
            return cleaned
        before = walk.budget
        inside = (*inside, id(value))
        try:
            elements = list(islice(value.items() if is_mapping else value, before + 1))
            if is_mapping:
                elements = [(key, element) for key, element in elements]
        except Exception:
            return walk.on_problem("type", path, value)
        if is_mapping:
            cleaned = self._mapping(elements, value, path, inside, walk)
        else:
            cleaned = [
                self._walk(element, (*path, index), inside, walk)
                for index, element in enumerate(elements)
            ]
        if walk.known is not None:
            walk.known[place] = cleaned, before - walk.budget, value
        return cleaned

    def _spend(self, walk: _Walk, values: int, path: Path) -> None:
        walk.budget -= values
        if walk.budget < 0:
            raise OversizedEvent(
                f"{path[0]} has more than {self._max_nodes} values, which do not fit into"
                " max_event_bytes; pass less"
            )

    def _leaf(
        self,
        value: Any,
        path: Path,
        inside: tuple[int, ...],
        walk: _Walk,
    ) -> Any:
        decoded = self._serializer.tried(value)
        if decoded is _UNKNOWN:
            return walk.on_problem("type", path, value)
        if self._redact and type(decoded) in (dict, list):  # made by a ``__json__`` method
            return self._walk(decoded, path, inside, walk)
        return value

    def _mapping(
        self,
        items: Iterable[tuple[Any, Any]],
        original: Mapping[Any, Any],
        path: Path,
        inside: tuple[int, ...],
        walk: _Walk,
    ) -> Any:
        cleaned: dict[str, Any] = {}
        for key, element in items:
            is_secret = bool(self._redact) and is_named(key, self._redact)
            if not isinstance(key, str):
                key = _unused(walk.on_problem("key", path, key), cleaned, original)
            else:
                key = str.__str__(key)
                if self._thorough and self._serializer.tried(key) is _UNKNOWN:
                    key = _unused(walk.on_problem("key", path, key), cleaned, original)
            if is_secret:
                cleaned[key] = REDACTED
            else:
                cleaned[key] = self._walk(element, (*path, key), inside, walk)
        if self._serializer.has_tags and looks_tagged(cleaned):
            return walk.on_problem("tagged", path, cleaned)
        return cleaned


def short_repr(value: object) -> str:
    """
    Return the repr of *value*, shortened for an error message.
    """
    return shortened(safe_repr(value), 200)


def _unused(key: str, taken: Mapping[str, Any], original: Mapping[Any, Any]) -> str:
    """
    Return *key*, with a number if a key of that name exists.
    """
    candidate, number = key, 2
    while candidate in taken or candidate in original:
        candidate, number = f"{key}#{number}", number + 1
    return candidate


def _replace(problem: str, path: Path, value: Any) -> str:
    """
    Return the replacement for *value* in a log line's event log.
    """
    if problem == "cycle":  # a repr would show values that are redacted elsewhere
        return CYCLE
    if problem == "depth":
        return CUT
    if issubclass(type(value), str):  # has characters that the serializer cannot encode
        return ascii(value)
    return safe_repr(value)


def _refuse(problem: str, path: Path, value: Any) -> str:
    """
    Raise the error of a manual dispatch for *value*.
    """
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(
        "."
    )
    shown = short_repr(value)
    if problem == "key":
        raise EventLogTypeError(
            f"{where} has the key {shown}; keys must be strings that the serializer can encode"
        )
    if problem == "type":
        raise EventLogTypeError(
            f"{where} is {shown}, of type {type(value).__name__}, which the serializer cannot"
            " encode; pass a value that it can encode"
        )
    reasons = {
        "number": f"is {shown}, which JSON cannot represent; pass None or a string",
        "cycle": "contains itself; pass a copy without the cycle",
        "depth": f"is nested more than {MAX_DEPTH} levels deep; flatten it",
        "tagged": "has only the keys '__type__' and '__value__', which kombu's JSON decoder"
        " interprets as a tagged value; rename one of them",
    }
    raise EventLogValueError(f"{where} {reasons[problem]}")
