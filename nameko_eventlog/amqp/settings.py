"""
Settings for connecting to a broker and for publishing event logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ConnectionSettings:
    """
    How to connect to a broker.

    Args:
        uri: Its address, or several separated by semicolons, which are tried in turn.
        ssl: TLS options as kombu takes them, True, or None.
        login_method: SASL mechanism, or None for kombu's default.
        heartbeat: Seconds between heartbeats; 0 for none.
        transport_options: Options of kombu's transport.
    """

    uri: str
    ssl: Any = None
    login_method: str | None = None
    heartbeat: float = 60
    transport_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PublisherSettings:
    """
    How to publish event logs.

    Args:
        connection: How to connect to the broker.
        serializer: The name of kombu's serializer.
        headers: Headers of every message.
        expiration: Seconds after which a queue may drop a message, or None.
        priority: 0 to 255, or None.
        compression: The name of one of kombu's compressions, or None.
    """

    connection: ConnectionSettings
    serializer: str = "json"
    headers: Mapping[str, Any] = field(default_factory=dict)
    expiration: float | None = None
    priority: int | None = None
    compression: str | None = None
