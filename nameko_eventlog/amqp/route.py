"""
Where event logs are published, and the declarations that this needs.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kombu import Connection, Exchange

from nameko_eventlog.addresses import masked_text


_log = logging.getLogger("nameko_eventlog")

ROUTING_KEY = "log_event"
"""The default routing key of event logs: the type of the Nameko event that carries them."""

# command invalid, not implemented: a broker without RabbitMQ's extensions closes with these
_UNKNOWN_METHOD = frozenset({503, 540})

# AMQP's classes exchange and queue
_DECLARING = frozenset({40, 50})


@dataclass(frozen=True)
class Route:
    """
    Where a service's event logs are published.

    Args:
        service: The service's name.
        exchange: The exchange of its Nameko events.
        routing_key: The Nameko event type.
        declare: Entities to declare in addition to the exchange.
        fan_in_exchange: The exchange to bind it to, or None.
    """

    service: str
    exchange: Exchange
    routing_key: str
    declare: tuple[Any, ...]
    fan_in_exchange: str | None


class Declarations:
    """
    Declare the exchanges and bindings of a route.

    This is done on every new connection, and repeated at intervals, because an exchange or a
    binding may have been deleted. A refusal does not stop publishing: an operator may have
    declared the exchange, and the fan-in is optional. Each refusal is logged once.

    Args:
        route: The route.
        client: The connection, which knows the transport's errors.
    """

    def __init__(self, route: Route, client: Connection) -> None:
        self._route = route
        self._channel_errors: tuple[type[BaseException], ...] = client.channel_errors
        self._connection_errors: tuple[type[BaseException], ...] = client.connection_errors
        self._logged: set[str] = set()
        self._impossible: set[str] = set()
        self._repeated: list[Callable[[Any], object]] = []

    def make(self, channel: Any, reopen: Callable[[], Any]) -> None:
        """
        Declare everything.

        Args:
            channel: The channel to use.
            reopen: Returns a new channel after a refusal has closed the previous one.
        """
        actions: list[tuple[str, Callable[..., object]]] = [
            (f"declare {entity!r}", functools.partial(_declare, entity))
            for entity in (self._route.exchange, *self._route.declare)
        ]
        if self._route.fan_in_exchange is not None:
            actions.append(("bind the fan-in exchange", self._bind_fan_in))
        self._repeated = []
        for what, action in actions:
            if what in self._impossible:
                continue
            try:
                action(channel, False)
                self._repeated.append(functools.partial(action, nowait=True))
            except NotImplementedError as exc:
                self._impossible.add(what)  # memory:// and filesystem:// raise this
                self._log_refusal(logging.DEBUG, what, exc)
            except self._channel_errors as exc:
                self._log_refusal(logging.WARNING, what, exc)
                channel = reopen()
            except self._connection_errors as exc:
                if reply_code(exc) in _UNKNOWN_METHOD:
                    self._impossible.add(what)
                    self._log_refusal(logging.WARNING, what, exc)
                raise

    def repeat(self, channel: Any) -> None:
        """
        Repeat the declarations that succeeded on this connection, without waiting for answers.

        Args:
            channel: A channel for nothing else, because a refusal closes it.
        """
        for action in self._repeated:
            action(channel)

    def is_refusal(self, exc: BaseException) -> bool:
        """
        Tell whether the broker closed a channel because of a declaration, not of a message.
        """
        method = getattr(exc, "method_sig", None)
        return isinstance(method, tuple) and method[0] in _DECLARING

    def log_refusal(self, exc: BaseException) -> None:
        """
        Log that the broker refused a repeated declaration.
        """
        self._log_refusal(logging.WARNING, "declare exchanges again", exc)

    def _bind_fan_in(self, channel: Any, nowait: bool) -> None:
        fan_in = Exchange(self._route.fan_in_exchange, type="topic", durable=True)
        fan_in(channel).declare(nowait=nowait)
        channel.exchange_bind(
            destination=fan_in.name,
            source=self._route.exchange.name,
            routing_key=self._route.routing_key,
            nowait=nowait,
        )

    def _log_refusal(self, level: int, what: str, exc: BaseException) -> None:
        if what in self._logged:
            return
        self._logged.add(what)
        _log.log(
            level,
            "could not %s (service %s): %s; publishing continues without it (logged once)",
            what,
            self._route.service,
            masked_text(str(exc)) or type(exc).__name__,
        )


def _declare(entity: Any, channel: Any, nowait: bool) -> None:
    entity(channel).declare(nowait=nowait)


def reply_code(exc: BaseException) -> int:
    """
    Return the reply code with which the broker closed a channel or a connection, or 0.
    """
    for name in ("reply_code", "code"):
        code = getattr(exc, name, None)
        if isinstance(code, int):
            return code
    return 0
