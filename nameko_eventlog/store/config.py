"""
``EVENTLOG_STORE``: from a mapping to one frozen value, or a `ConfigurationError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nameko.exceptions import ConfigurationError

from nameko_eventlog import checking
from nameko_eventlog.addresses import masked_value
from nameko_eventlog.amqp.route import ROUTING_KEY
from nameko_eventlog.consuming.options import MOST_PREFETCHED
from nameko_eventlog.store.databases import is_clickhouse, parse_uri
from nameko_eventlog.store.rules import Rule, days, parse_rules


CONFIG_KEY = "EVENTLOG_STORE"

CLICKHOUSE_BATCH = 10_000
"""The default of ``batch_size`` for ClickHouse, which merges what each batch has written."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """
    The configuration of the store; the reference in the docs says what each key means.
    """

    uri: str = "sqlite:///eventlog.db"
    services: tuple[str, ...] = ()
    batch_size: int = 500
    batch_seconds: float = 1
    retention_days: float | None = None
    retention: tuple[Rule, ...] | None = None
    quorum: bool = False
    max_length: int | None = None
    fan_in_exchange: str = "eventlog"
    event_type: str = ROUTING_KEY

    @property
    def rules(self) -> tuple[Rule, ...]:
        """
        The rules of retention, also those that ``retention_days`` stands for.
        """
        if self.retention_days is not None:
            return (Rule(self.retention_days),)
        return () if self.retention is None else self.retention


def _database(value: Any) -> str:
    uri = checking.text(value)
    parse_uri(uri)
    return uri


def _integer_to(most: int) -> checking.Check:
    def check(value: Any) -> int:
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"an integer from 1 to {most}")
        return value

    return check


_CHECKS: dict[str, checking.Check] = {
    "uri": _database,
    "services": checking.names,
    "batch_size": _integer_to(MOST_PREFETCHED),
    "batch_seconds": checking.seconds(minimum_excluded=True),
    "retention_days": days,
    "retention": parse_rules(f"{CONFIG_KEY}.retention"),
    "quorum": checking.boolean,
    "max_length": _integer_to(2**63 - 1),
    "fan_in_exchange": checking.routing_key,
    "event_type": checking.routing_key,
}


def parse_store_config(config: Mapping[str, Any]) -> StoreConfig:
    """
    Read the store's configuration.

    Args:
        config: The whole configuration, as in ``config.yaml``.

    Raises:
        ConfigurationError: If a key is unknown or a value is invalid. The text has a line for each
            mistake, which names the key, shows the value and says what was expected.
    """
    values = checking.parse_section(config, CONFIG_KEY, _CHECKS)
    if "retention_days" in values and "retention" in values:
        shown = masked_value("retention_days", values["retention_days"])
        raise ConfigurationError(
            f"{CONFIG_KEY}.retention_days must not be {shown} beside {CONFIG_KEY}.retention: add"
            f" the rule {{days: {shown}}} at the end of retention instead"
        )
    if is_clickhouse(str(values.get("uri", ""))):
        values = {"batch_size": CLICKHOUSE_BATCH, **values}
    return StoreConfig(**values)
