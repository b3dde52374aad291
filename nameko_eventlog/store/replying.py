"""
Sending replies to RPC requests.
"""

from __future__ import annotations

from contextlib import suppress
from time import monotonic
from typing import Any

import eventlet
from eventlet.semaphore import Semaphore
from kombu import Exchange, Producer
from kombu.exceptions import OperationalError

from nameko_eventlog.amqp.connections import CONNECT_TIMEOUT, make_connection
from nameko_eventlog.amqp.settings import ConnectionSettings


REPLY_SECONDS = 30.0
"""How long to keep trying to send a reply."""

CONFIRM_SECONDS = 10.0
"""How long each attempt waits for the broker's confirm."""

_PAUSE = 0.2  # seconds between two attempts, after the second


class Replies:
    """
    Sends replies over a separate connection: a reply that the broker rejects affects nothing else.

    Args:
        settings: How to connect.
        exchange: Where to publish replies.
    """

    def __init__(self, settings: ConnectionSettings, exchange: Exchange) -> None:
        self._exchange = exchange.name
        self._client = make_connection(settings, confirm_publish=True)
        self._lost = (*self._client.connection_errors, OperationalError, OSError)
        self._channel: Any = None
        self._turn = Semaphore()

    def send(self, body: bytes, **properties: Any) -> None:
        """
        Send a reply, and return when the broker has confirmed it.

        Args:
            body: The encoded reply.
            **properties: Arguments of kombu's ``publish``.

        Raises:
            TimeoutError: The broker cannot be reached, or does not answer.
            Exception: The broker rejects the reply, or it cannot be sent at all.
        """
        attempts, until = 0, monotonic() + REPLY_SECONDS
        while True:
            attempts += 1
            try:
                with eventlet.Timeout(until - monotonic(), _too_late()), self._turn:
                    self._publish(body, properties)
                return
            except self._lost as exc:
                if monotonic() >= until:
                    raise TimeoutError(f"the reply could not be sent: {exc!r}") from exc
            if attempts > 1:
                eventlet.sleep(min(_PAUSE, max(0.0, until - monotonic())))

    def close(self) -> None:
        """
        Close the connection.
        """
        self._channel = None
        with suppress(*self._lost, eventlet.Timeout), eventlet.Timeout(1):
            self._client.close()

    def _publish(self, body: bytes, properties: dict[str, Any]) -> None:
        try:
            with eventlet.Timeout(CONFIRM_SECONDS, _too_late()):
                if self._channel is None:
                    self._client.ensure_connection(
                        max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT
                    )
                    self._channel = self._client.channel()
                Producer(self._channel).publish(body, exchange=self._exchange, **properties)
        except BaseException:  # the failed reply must leave nothing on the connection
            self.close()
            raise


def _too_late() -> TimeoutError:
    return TimeoutError("the broker does not answer")
