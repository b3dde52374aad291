"""
Render any values as text, whatever their own code raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def safe_repr(value: object) -> str:
    """
    Return ``repr(value)``, or, if that raises, a text that says so.
    """
    try:
        return repr(value)
    except Exception as exc:
        return f"<{type(value).__name__} object whose repr raised {type(exc).__name__}>"


def safe_text(value: object) -> str:
    """
    Return ``str(value)``, or, if that raises, the repr.
    """
    try:
        return str(value)
    except Exception:
        return safe_repr(value)


def as_dict(value: Any) -> dict[Any, Any] | None:
    """
    Return *value* as a new dict, or None if it is not a mapping or cannot be read.
    """
    try:
        return dict(value) if isinstance(value, Mapping) else None
    except Exception:
        return None


class _Text:
    """
    Wraps an argument so that its ``str`` and ``repr`` do not raise.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return safe_text(self._value)

    def __repr__(self) -> str:
        return safe_repr(self._value)


def render(template: str, arguments: Any) -> str:
    """
    Return ``template % arguments``, or, if that raises, the closest text that can be rendered.
    """
    try:
        return str(template % arguments)
    except Exception:
        shown = _printable(arguments)
    try:
        return str(template % shown)
    except Exception:
        return f"{template} {safe_repr(shown)}"


def _printable(arguments: Any) -> Any:
    if isinstance(arguments, tuple):
        return tuple(map(_one_printable, arguments))
    mapping = as_dict(arguments)
    if mapping is None:
        return arguments
    return {key: _one_printable(value) for key, value in mapping.items()}


def _one_printable(value: Any) -> Any:
    return value if type(value) in (int, float, str) else _Text(value)
