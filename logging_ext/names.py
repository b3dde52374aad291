"""
The types and maximum lengths of event types and of the worker context.

The store keeps them in indexed columns. Everything that is sent fits into these columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from logging_ext.event import CONTEXT_FIELDS
from logging_ext.rendering import safe_text


MAX_NAME = 500
"""The longest event type, name or call id, in characters as the store writes them."""

_ESCAPED = re.compile("[\x00\ud800-\udfff]")
_ESCAPE = 5
"""The store escapes NUL and lone surrogates, with five more characters for each."""

SURELY_SHORT = MAX_NAME // (1 + _ESCAPE)
"""A text of at most so many characters fits, whatever they are."""

_CUT = "…"
_TAIL = 100
"""How much of a long name's end is kept: the end of a call id makes it unique."""

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
    Return *text* cut to the length of an event type.
    """
    return text if is_short(text) else _beginning(text, MAX_NAME - 1) + _CUT


def short_name(text: str) -> str:
    """
    Return *text* cut to the length of a name or a call id. The middle is left out.
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
    Return *context* with all values as strings of bounded length, or None.
    """
    bounded: dict[str, Any] = {
        name: value if value is None else _text(value)
        for name, value in context.items()
        if name != "call_stack"
    }
    # Nameko takes it from a message's headers unchecked
    bounded["call_stack"] = list(map(_text, context["call_stack"]))
    return bounded


def _text(value: Any) -> str:
    return short_name(value if type(value) is str else safe_text(value))


def wrong_context(metadata: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """
    Iterate over the keys of *metadata* that cannot replace an attribute of the worker context.

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
    Make metadata that replaces the worker context conform to its types and lengths.

    Returns:
        Metadata and event data. Values of other types are moved to the event data.
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
