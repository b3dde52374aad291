"""
``EVENTLOG_DISPATCHER``: from a mapping to one frozen value, or a `ConfigurationError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from nameko.exceptions import ConfigurationError


CONFIG_KEY = "EVENTLOG_DISPATCHER"
CAPTURE_STAGES = ("fired", "completed", "failed")
TIMESPECS = ("seconds", "milliseconds", "microseconds")
UNROUTABLE = ("warn", "ignore")

_FOREVER = 1_000_000_000  # seconds, 30 years: more, and eventlet's timers overflow


@dataclass(frozen=True, slots=True)
class Config:
    """
    The configuration of one dispatcher; the reference in the docs says what each key means.
    """

    auto_capture: bool = False
    entrypoints_to_exclude: tuple[str, ...] = ()
    event_type: str | None = None
    capture_stages: tuple[str, ...] = ("fired",)
    capture_types: tuple[str, ...] | None = None
    capture_arguments: bool = False
    redact: tuple[str, ...] = ()
    max_event_bytes: int = 1_048_576
    timespec: str = "seconds"
    uri: str | None = None
    buffer_size: int = 100_000
    buffer_bytes: int = 67_108_864
    spool: str | None = None
    spool_max_bytes: int = 1_073_741_824
    confirm_timeout: float = 10
    flush_timeout: float = 10
    unroutable: str = "warn"
    fan_in_exchange: str | None = "eventlog"


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise ValueError("a list of names")
    return tuple(value)


def _choices(*allowed: str) -> Callable[[Any], tuple[str, ...]]:
    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(name in allowed for name in value):
            raise ValueError(f"a list of any of {', '.join(allowed)}")
        return tuple(value)

    return check


def _choice(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return check


def _routing_key(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value.encode(errors="replace")) > 255:
        raise ValueError("a non-empty string of at most 255 bytes (it is an AMQP routing key)")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    return value


def _positive_integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("an integer above 0")
    return value


def _seconds(minimum_excluded: bool) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 <= value < _FOREVER
            or (minimum_excluded and value == 0)
        ):
            least = "above 0" if minimum_excluded else "0 or more"
            raise ValueError(f"a number of seconds, {least} and less than {_FOREVER}")
        return value

    return check


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "auto_capture": _boolean,
    "entrypoints_to_exclude": _names,
    "event_type": _routing_key,
    "capture_stages": _choices(*CAPTURE_STAGES),
    "capture_types": _names,
    "capture_arguments": _boolean,
    "redact": _names,
    "max_event_bytes": _positive_integer,
    "timespec": _choice(*TIMESPECS),
    "uri": _text,
    "buffer_size": _positive_integer,
    "buffer_bytes": _positive_integer,
    "spool": _text,
    "spool_max_bytes": _positive_integer,
    "confirm_timeout": _seconds(minimum_excluded=True),
    "flush_timeout": _seconds(minimum_excluded=False),
    "unroutable": _choice(*UNROUTABLE),
    "fan_in_exchange": _routing_key,
}

_NULL_IS_A_VALUE = frozenset({"fan_in_exchange"})


def parse_config(config: Mapping[str, Any]) -> Config:
    """
    Read a service's configuration.

    Args:
        config: The whole of it, as in ``config.yaml``.

    Raises:
        ConfigurationError: If a key is unknown or a value of the wrong kind; it names the
            key, shows the value and says what was expected.
    """
    section = config.get(CONFIG_KEY)
    if section is None:
        return Config()
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{CONFIG_KEY} must be a mapping, not {section!r}")
    values: dict[str, Any] = {}
    for key, value in section.items():
        check = _CHECKS.get(key) if isinstance(key, str) else None
        if check is None:
            raise ConfigurationError(_unknown_key(key))
        if value is None:
            if key in _NULL_IS_A_VALUE:
                values[key] = None
            continue
        try:
            values[key] = check(value)
        except ValueError as exc:
            raise ConfigurationError(f"{CONFIG_KEY}.{key} must be {exc}, not {value!r}") from None
    return Config(**values)


def _unknown_key(key: Any) -> str:
    known = [field.name for field in fields(Config)]
    message = f"{CONFIG_KEY} has no key {key!r}"
    nearest = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.5)
    if nearest:
        return f"{message}; did you mean {nearest[0]!r}?"
    return f"{message}; there are {', '.join(known)}"
