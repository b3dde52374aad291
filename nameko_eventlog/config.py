"""
The configuration section ``EVENTLOG_DISPATCHER``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nameko_eventlog import checking


CONFIG_KEY = "EVENTLOG_DISPATCHER"
CAPTURE_STAGES = ("fired", "completed", "failed")
TIMESPECS = ("seconds", "milliseconds", "microseconds")
UNROUTABLE = ("warn", "hold", "ignore")


@dataclass(frozen=True, slots=True)
class Config:
    """
    The configuration of one dispatcher. The reference in the docs describes each key.
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
    replay_key: str | None = None
    confirm_timeout: float = 10
    flush_timeout: float = 10
    unroutable: str = "warn"
    fan_in_exchange: str | None = "eventlog"


_CHECKS: dict[str, checking.Check] = {
    "auto_capture": checking.boolean,
    "entrypoints_to_exclude": checking.names,
    "event_type": checking.routing_key,
    "capture_stages": checking.choices(*CAPTURE_STAGES),
    "capture_types": checking.names,
    "capture_arguments": checking.boolean,
    "redact": checking.names,
    "max_event_bytes": checking.positive_integer,
    "timespec": checking.choice(*TIMESPECS),
    "uri": checking.broker_address,
    "buffer_size": checking.positive_integer,
    "buffer_bytes": checking.positive_integer,
    "spool": checking.text,
    "spool_max_bytes": checking.positive_integer,
    "replay_key": checking.secret,
    "confirm_timeout": checking.seconds(minimum_excluded=True),
    "flush_timeout": checking.seconds(minimum_excluded=False),
    "unroutable": checking.choice(*UNROUTABLE),
    "fan_in_exchange": checking.routing_key,
}

_NULL_IS_A_VALUE = frozenset({"fan_in_exchange"})


def parse_config(config: Mapping[str, Any]) -> Config:
    """
    Read a service's configuration.

    Args:
        config: The whole configuration, as in ``config.yaml``.

    Raises:
        ConfigurationError: A key is unknown or a value invalid. The message has a line for each,
            with the key, the value and what was expected.
    """
    return Config(**checking.parse_section(config, CONFIG_KEY, _CHECKS, _NULL_IS_A_VALUE))
