"""
Check sections of a service's ``config.yaml``: their keys and the values of each.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeGuard

from nameko.exceptions import ConfigurationError

from nameko_eventlog import addresses
from nameko_eventlog.addresses import masked_value


_FOREVER = 1_000_000_000  # seconds (30 years): with more, eventlet's timers overflow

Check = Callable[[Any], Any]
"""
Returns the value to use, or raises a `ValueError` that says what was expected. For a value with
keys of its own it may raise a `ConfigurationError`, whose text is complete.
"""


class Unshown(ValueError):
    """
    Raised for an invalid secret: the message says what was expected, and the value is not shown.
    """


def parse_section(
    config: Mapping[str, Any],
    name: str,
    checks: Mapping[str, Check],
    null_is_a_value: Collection[str] = (),
) -> dict[str, Any]:
    """
    Read a section.

    Args:
        config: The whole configuration.
        name: The section's name.
        checks: A check for each key.
        null_is_a_value: Keys for which null does not mean the default.

    Returns:
        The values of the keys that are set.

    Raises:
        ConfigurationError: A key is unknown or a value invalid. The message has a line for each,
            with the key, the value and what was expected. Or the section is missing, and another
            section has almost the same name.
    """
    section = config.get(name)
    if section is None:
        if name not in config:
            _refuse_misspelt(config, name)
        return {}
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{name} must be a mapping, not {masked_value(name, section)}")
    values: dict[str, Any] = {}
    faults: list[str] = []
    for key, value in section.items():
        check = checks.get(key) if isinstance(key, str) else None
        if check is None:
            faults.append(_unknown_key(name, key, list(checks)))
            continue
        if value is None:
            if key in null_is_a_value:
                values[key] = None
            continue
        try:
            values[key] = check(value)
        except Unshown as exc:
            faults.append(f"{name}.{key} must be {exc}")
        except ValueError as exc:
            faults.append(f"{name}.{key} must be {exc}, not {masked_value(key, value)}")
        except ConfigurationError as exc:
            faults.append(str(exc))
    if faults:
        raise ConfigurationError("\n".join(faults))
    return values


def _refuse_misspelt(config: Mapping[str, Any], name: str) -> None:
    """
    Raise if a section's name is almost *name*: the service would run with defaults, unredacted.
    """
    for key in config:
        # a key as different as EVENTLOG_STORE_URI may be the service's own
        if difflib.get_close_matches(str(key)[:100].upper(), [name], cutoff=0.9):
            raise ConfigurationError(
                f"unknown section {masked_value(None, key)}; did you mean {name!r}?"
            )


def _unknown_key(name: str, key: Any, known: list[str]) -> str:
    message = f"{name} has no key {masked_value(None, key)}"
    nearest = difflib.get_close_matches(str(key).lower(), known, n=1, cutoff=0.5)
    if nearest:
        return f"{message}; did you mean {nearest[0]!r}?"
    return f"{message}; valid keys are {', '.join(known)}"


def boolean(value: Any) -> bool:
    """
    Check for true or false.
    """
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def names(value: Any) -> tuple[str, ...]:
    """
    Check for a list of non-empty strings.
    """
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise ValueError("a list of names")
    return tuple(value)


def choices(*allowed: str) -> Callable[[Any], tuple[str, ...]]:
    """
    Make a check for a list of any of *allowed*.
    """

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, (list, tuple)) or not all(name in allowed for name in value):
            raise ValueError(f"a list of any of {', '.join(allowed)}")
        return tuple(value)

    return check


def choice(*allowed: str) -> Callable[[Any], str]:
    """
    Make a check for one of *allowed*.
    """

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return check


def routing_key(value: Any) -> str:
    """
    Check for a valid AMQP routing key or exchange name.
    """
    if not isinstance(value, str) or not value or len(value.encode(errors="replace")) > 255:
        raise ValueError("a non-empty string of at most 255 bytes (it is an AMQP routing key)")
    return value


def broker_address(value: Any) -> str:
    """
    Check for the address of a broker, or a list of addresses.
    """
    return addresses.broker_address(value)


def text(value: Any) -> str:
    """
    Check for a non-empty string.
    """
    if not isinstance(value, str) or not value:
        raise ValueError("a non-empty string")
    return value


def secret(value: Any) -> str:
    """
    Check for a string of 16 characters or more. Other values are not shown.
    """
    if not isinstance(value, str) or len(value) < 16:
        raise Unshown("a string of 16 characters or more")
    return value


def positive_integer(value: Any) -> int:
    """
    Check for an integer above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("an integer above 0")
    return value


def is_seconds(value: Any) -> TypeGuard[float]:
    """
    Tell whether *value* is a number of seconds, 0 or more, that is valid for a timer.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0 <= value < _FOREVER


def seconds(minimum_excluded: bool) -> Callable[[Any], float]:
    """
    Make a check for a number of seconds.

    Args:
        minimum_excluded: Whether 0 is invalid.
    """

    def check(value: Any) -> float:
        if is_seconds(value) and (value > 0 or not minimum_excluded):
            return value
        least = "above 0" if minimum_excluded else "0 or more"
        raise ValueError(f"a number of seconds, {least} and less than {_FOREVER}")

    return check
