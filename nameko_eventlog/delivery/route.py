"""
Where event logs are published, and what is declared for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kombu import Connection, Exchange

from nameko_eventlog.addresses import masked_text


_log = logging.getLogger("nameko_eventlog")

# command invalid, not implemented: what a broker without RabbitMQ's extensions hangs up with
_UNKNOWN_METHOD = frozenset({503, 540})


@dataclass(frozen=True)
class Route:
    """
    Where a service's event logs are published.

    Args:
        service: The service's name.
        exchange: The exchange of its Nameko events.
        routing_key: The Nameko event type.
        declare: What is declared beside the exchange.
        fan_in_exchange: The exchange to bind it to, or None.
    """

    service: str
    exchange: Exchange
    routing_key: str
    declare: tuple[Any, ...]
    fan_in_exchange: str | None


class Declarations:
    """
    Declare what belongs to a route, on every new connection: somebody may have deleted it.

    What a broker refuses to declare may be there all the same, by an operator's hand, and a
    fan-in is a convenience: neither keeps event logs from being published. Each refusal is
    noted once.

    Args:
        route: The route.
        client: Knows the transport's errors.
    """

    def __init__(self, route: Route, client: Connection) -> None:
        self._route = route
        self._channel_errors: tuple[type[BaseException], ...] = client.channel_errors
        self._connection_errors: tuple[type[BaseException], ...] = client.connection_errors
        self._noted: set[str] = set()
        self._impossible: set[str] = set()

    def make(self, channel: Any, reopen: Callable[[], Any]) -> None:
        """
        Declare it all.

        Args:
            channel: The channel to do so on.
            reopen: Returns another one, when a refusal has closed the last.
        """
        actions: list[tuple[str, Callable[[Any], object]]] = [
            (f"declare {entity!r}", _declaring(entity))
            for entity in (self._route.exchange, *self._route.declare)
        ]
        if self._route.fan_in_exchange is not None:
            actions.append(("bind the fan-in exchange", self._bind_fan_in))
        for what, action in actions:
            if what in self._impossible:
                continue
            try:
                action(channel)
            except NotImplementedError as exc:
                self._impossible.add(what)  # known of memory:// and filesystem://
                self._note(logging.DEBUG, what, exc)
            except self._channel_errors as exc:
                self._note(logging.WARNING, what, exc)
                channel = reopen()
            except self._connection_errors as exc:
                if reply_code(exc) in _UNKNOWN_METHOD:
                    self._impossible.add(what)
                    self._note(logging.WARNING, what, exc)
                raise

    def _bind_fan_in(self, channel: Any) -> None:
        fan_in = Exchange(self._route.fan_in_exchange, type="topic", durable=True)
        fan_in(channel).declare()
        channel.exchange_bind(
            destination=fan_in.name,
            source=self._route.exchange.name,
            routing_key=self._route.routing_key,
        )

    def _note(self, level: int, what: str, exc: BaseException) -> None:
        if what in self._noted:
            return
        self._noted.add(what)
        _log.log(
            level,
            "could not %s for the event logs of %s: %s (said once)",
            what,
            self._route.service,
            masked_text(str(exc)) or type(exc).__name__,
        )


def _declaring(entity: Any) -> Callable[[Any], object]:
    return lambda channel: entity(channel).declare()


def reply_code(exc: BaseException) -> int:
    """
    Return the reply code with which the broker closed a channel or a connection, or 0.
    """
    for name in ("reply_code", "code"):
        code = getattr(exc, name, None)
        if isinstance(code, int):
            return code
    return 0
