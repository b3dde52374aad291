"""
Checks of the options of `event_log_handler`.
"""

from __future__ import annotations

from typing import Any

from nameko_eventlog.exceptions import EventLogTypeError, EventLogValueError


MOST_PREFETCHED = 65_535
"""Messages: AMQP's ``prefetch-count`` has sixteen bits (0-9-1, ``basic.qos``)."""

MOST_SECONDS = 4_294_967
"""RabbitMQ's timers have 32 bits of milliseconds: 49 days."""

_MOST = 2**63 - 1


def check_names(services: Any, event_types: Any) -> None:
    """
    Check the names of services and event types.

    Raises:
        EventLogTypeError: A service is not a name, or the event types are not strings.
    """
    for service in services:
        if not isinstance(service, str) or not service:
            raise EventLogTypeError(f"event_log_handler({service!r}): pass the names of services")
    if isinstance(event_types, str) or not all(
        isinstance(event_type, str) for event_type in event_types or ()
    ):
        raise EventLogTypeError(
            f"event_log_handler(event_types={event_types!r}): pass a list of strings"
        )


def check_integers(*, batch_size: Any, prefetch: Any, max_length: Any, max_attempts: Any) -> None:
    """
    Check the options that are counts; None stands for the default or for no limit.

    Raises:
        EventLogValueError: A value is not an integer, or out of range.
    """
    for name, value, least, most in (
        ("batch_size", batch_size, 1, MOST_PREFETCHED),
        ("prefetch", prefetch, batch_size or 1, MOST_PREFETCHED),
        ("max_length", max_length, 1, _MOST),
        ("max_attempts", max_attempts, 1, _MOST),
    ):
        if value is None and name != "max_attempts":
            continue
        if type(value) is not int or not least <= value <= most:
            raise EventLogValueError(
                f"event_log_handler({name}={value!r}): pass an integer from {least} to {most}"
            )


def check_seconds(*, batch_seconds: Any, expires: Any, handler_timeout: Any) -> None:
    """
    Check the options that are times; None stands for no limit.

    Raises:
        EventLogValueError: A value is not a number, or out of range.
    """
    for name, value in (
        ("batch_seconds", batch_seconds),
        ("expires", expires),
        ("handler_timeout", handler_timeout),
    ):
        if value is None and name != "batch_seconds":
            continue
        if not isinstance(value, (int, float)) or not 0 < value <= MOST_SECONDS:
            raise EventLogValueError(
                f"event_log_handler({name}={value!r}): pass a number of seconds above 0,"
                f" up to {MOST_SECONDS}"
            )
