"""
Event types and the worker context: of which kind they are, and how long they may be.

The store keeps them in columns with an index. What is sent fits there, always.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from logging_ext.event import CONTEXT_FIELDS
from logging_ext.rendering import safe_text


MAX_NAME = 500
"""The longest event type, name, or call id, in characters as the store writes them."""

_ESCAPED = re.compile("[\x00\ud800-\udfff]")
_ESCAPE = 5
"""NUL and lone surrogates, which no database takes, are written with five characters more."""

SURELY_SHORT = MAX_NAME // (1 + _ESCAPE)
"""What has no more characters than that fits, whatever they are."""

_CUT = "…"
_TAIL = 100
"""What stays of a long name's end: a call id's is what makes it unique."""

_CONTEXT_NAMES = frozenset(CONTEXT_FIELDS)


def is_short(text: str) -> bool:
    """
    Tell whether *text* fits into `MAX_NAME`.
    """
    length = len(text)
    if length <= SURELY_SHORT:
        return True
    return length <= MAX_NAME and _written(text) <= MAX_NAME


def short_event_type(text: str) -> str:
    """
    Return an event type that fits: *text*, or its beginning.
    """
    return text if is_short(text) else _beginning(text, MAX_NAME - 1) + _CUT


def short_name(text: str) -> str:
    """
    Return a name or a call id that fits: *text*, or its beginning and its end.
    """
    if is_short(text):
        return text
    end = _beginning(text[: -_TAIL - 1 : -1], _TAIL)[::-1]
    return _beginning(text, MAX_NAME - 1 - _TAIL) + _CUT + end


def _written(text: str) -> int:
    return len(text) + _ESCAPE * len(_ESCAPED.findall(text))


def _beginning(text: str, most: int) -> str:
    text = text[:most]
    while _written(text) > most:
        text = text[: -max(1, (_written(text) - most) // (1 + _ESCAPE))]
    return text


def bounded_context(context: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a worker context that fits: texts or None, and a list of texts.
    """
    bounded: dict[str, Any] = {
        name: value if value is None else _text(value)
        for name, value in context.items()
        if name != "call_stack"
    }
    # Nameko takes it from a message's headers as it is
    bounded["call_stack"] = list(map(_text, context["call_stack"]))
    return bounded


def _text(value: Any) -> str:
    return short_name(value if type(value) is str else safe_text(value))


def wrong_context(metadata: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """
    Iterate over the attributes of the worker context that *metadata* cannot stand for.

    Yields:
        The name, and what its value must be.
    """
    for name in CONTEXT_FIELDS:
        if name in metadata:
            value = metadata[name]
            if name == "call_stack":
                if value is not None and not (
                    isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
                ):
                    yield name, "a list of call ids"
            elif name == "service_name":
                if not isinstance(value, str) or not value:
                    yield name, "a non-empty string"
            elif value is not None and not isinstance(value, str):
                yield name, "a string or None"


def settle_context(
    metadata: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """
    Make metadata that stands for the worker context of the kind and the length that this has.

    Returns:
        Metadata and event data: what is of another kind is data.
    """
    if _CONTEXT_NAMES.isdisjoint(metadata):
        return metadata, data
    metadata = dict(metadata)
    for name, _ in list(wrong_context(metadata)):
        value = metadata.pop(name)
        data = data if name in data else {**data, name: value}
    for name in _CONTEXT_NAMES & metadata.keys():
        value = metadata[name]
        if name == "call_stack":
            metadata[name] = value if value is None else list(map(_text, value))
        elif value is not None:
            metadata[name] = _text(value)
    return metadata, data
