"""
One consumer's connection: deliveries in, acknowledgements and dead letters out.

One green thread does all that is done with the connection; handlers run elsewhere, and are not
waited for, so that heartbeats go out while they work.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any
from uuid import uuid4

import eventlet
from eventlet.event import Event
from eventlet.hubs import get_hub, trampoline
from greenlet import getcurrent
from kombu import Connection, Producer
from nameko.utils import sanitize_url

from nameko_eventlog.compat import Settings
from nameko_eventlog.consuming.deliveries import DeliveryAssembler
from nameko_eventlog.consuming.queues import QueueOptions
from nameko_eventlog.consuming.received import ReceivedMessage
from nameko_eventlog.consuming.settling import Settling
from nameko_eventlog.frames import Reader, open_reader


_log = logging.getLogger("nameko_eventlog")

CONNECT_TIMEOUT = 5.0
"""Seconds for connecting."""

PATIENCE = 0.05
"""Seconds for which the connection is listened to before the rest has its turn."""

FRAMES_AT_ONCE = 300
"""How many frames are read, three to a message, before the rest has its turn."""

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 30.0
"""Seconds between attempts to reach the broker."""


class Pause(Exception):
    """
    Raised by ``on_turn``: give the broker back what it has delivered, for now.
    """


class Subscription:
    """
    A connection that consumes one queue.

    Args:
        settings: How to connect.
        options: The queue.
        prefetch: How many messages the broker hands out before some are acknowledged.
        on_turn: Called after each time the connection was listened to; it takes from `waiting`
            and answers by `acknowledge` and `bury`.
    """

    def __init__(
        self,
        settings: Settings,
        options: QueueOptions,
        prefetch: int,
        on_turn: Callable[[], None],
    ) -> None:
        self._options = options
        self._prefetch = prefetch
        self._on_turn = on_turn
        self._client = Connection(
            settings.uri,
            ssl=settings.ssl,
            login_method=settings.login_method,
            heartbeat=settings.heartbeat,
            connect_timeout=CONNECT_TIMEOUT,
            # a dead letter is confirmed before its original is acknowledged
            transport_options={**settings.transport_options, "confirm_publish": True},
        )
        self._errors = (
            *self._client.connection_errors,
            *self._client.channel_errors,
            OSError,
        )
        self._channel: Any = None
        self._reader: Reader | None = None
        self._listener: Any = None  # the green thread that waits for the socket
        self._unsettled = Settling()
        self._stopping = False
        self._backoff = FIRST_BACKOFF
        self._is_lost = False
        self._beat_at = 0.0
        self.tried = Event()
        """Sent when the broker was reached for the first time, or was not."""
        self.waiting: deque[ReceivedMessage] = deque()
        """What has arrived and nobody has taken."""
        self.connections = 0
        """How many there have been: what an earlier one has delivered is delivered again."""

    def run(self, pause: Callable[[], None]) -> None:
        """
        Consume until `stop`.

        Args:
            pause: Called after a `Pause`, without a connection; consuming goes on when it
                returns.
        """
        try:
            while not self._stopping:
                try:
                    self._consume()
                except Pause:
                    self._close()
                    pause()
                except self._errors as exc:
                    self._lost(exc)
                finally:
                    self._close()
        finally:
            self._has_tried()

    def stop(self) -> None:
        """
        End `run`, after its turn.
        """
        self._stopping = True

    def wake(self) -> None:
        """
        Let ``on_turn`` be called soon: there is something to settle.
        """
        if self._listener is not None:
            get_hub().schedule_call_global(0, self._interrupt)

    def acknowledge(self, messages: list[ReceivedMessage]) -> None:
        """
        Let the broker forget *messages*, if they are of this connection.

        Raises:
            Exception: The connection is lost.
        """
        for tag, all_before in self._unsettled.settle(one.delivery_tag for one in messages):
            self._channel.basic_ack(tag, multiple=all_before)

    def bury(self, message: ReceivedMessage, reason: str) -> None:
        """
        Put *message* into the queue of dead letters, and then acknowledge it.

        Raises:
            Exception: The connection is lost, and the message will be delivered again.
        """
        Producer(self._channel).publish(
            message.body,
            routing_key=self._options.dead_letters,
            exchange="",
            content_type=message.content_type or "application/octet-stream",
            content_encoding=message.content_encoding or "binary",
            headers={
                **message.headers,
                "x-eventlog-reason": reason,
                "x-eventlog-exchange": message.exchange,
                "x-eventlog-routing-key": message.routing_key,
            },
            delivery_mode=2,
            **{
                name: value
                for name, value in message.properties.items()
                if name in ("message_id", "timestamp", "type", "app_id", "correlation_id")
            },
        )
        self.acknowledge([message])

    def _consume(self) -> None:
        self._client.ensure_connection(max_retries=1, timeout=CONNECT_TIMEOUT)
        self._channel = channel = self._client.channel()
        self.connections += 1
        self._unsettled = Settling()
        self.waiting.clear()
        self._options.declare(channel)
        channel.basic_qos(0, self._prefetch, False)
        channel.basic_consume(
            queue=self._options.name,
            no_ack=False,
            callback=lambda message: self._received(ReceivedMessage.read(message)),
            consumer_tag=f"eventlog-{uuid4()}",
        )
        if hasattr(self._client.connection, "on_inbound_frame"):
            assembler = DeliveryAssembler(
                self._client.connection, channel.channel_id, self._received
            )
            self._reader = open_reader(self._client.connection, assembler.handle)
        self._restored()
        while not self._stopping:
            self._listen()
            self._on_turn()
            eventlet.sleep(0)

    def _received(self, received: ReceivedMessage) -> None:
        self._unsettled.add(received.delivery_tag)
        self.waiting.append(received)

    def _listen(self) -> None:
        try:
            self._read()
        except TimeoutError:
            pass
        except self._errors:
            raise
        except Exception as exc:  # of what somebody has sent, which ends no service
            raise ConnectionError(f"what the broker sent cannot be read: {exc!r}") from exc
        if self._client.heartbeat and monotonic() - self._beat_at > self._client.heartbeat / 4:
            self._beat_at = monotonic()
            self._client.heartbeat_check()

    def _read(self) -> None:
        if self._reader is None:  # one of kombu's transports that is not AMQP's
            self._client.drain_events(timeout=PATIENCE)
            until = monotonic() + PATIENCE
            while monotonic() < until:  # as long as there is something to read at once
                self._client.drain_events(timeout=0.001)
        elif not self._reader.read(FRAMES_AT_ONCE):
            self._wait_for_more()
            self._reader.read(FRAMES_AT_ONCE)

    def _wait_for_more(self) -> None:
        self._listener = getcurrent()
        try:
            trampoline(
                self._client.connection.sock,
                read=True,
                timeout=PATIENCE,
                timeout_exc=TimeoutError,
            )
        finally:
            self._listener = None

    def _interrupt(self) -> None:
        # in the hub: who was woken by the socket meanwhile is no listener any more
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.throw(TimeoutError)

    def _lost(self, exc: BaseException) -> None:
        if not self._is_lost:
            self._is_lost = True
            _log.warning(
                "the queue %s at %s is lost to its consumer (%s); it is tried again",
                self._options.name,
                sanitize_url(self._client.as_uri(include_password=False)),
                exc,
            )
        self._has_tried()
        eventlet.sleep(self._backoff * random.uniform(0.5, 1))
        self._backoff = min(self._backoff * 2, LAST_BACKOFF)

    def _has_tried(self) -> None:
        if not self.tried.ready():
            self.tried.send()

    def _restored(self) -> None:
        self._has_tried()
        self._backoff = FIRST_BACKOFF
        if self._is_lost:
            self._is_lost = False
            _log.warning("the queue %s is back for its consumer", self._options.name)

    def _close(self) -> None:
        self.waiting.clear()
        self._unsettled = Settling()
        self._reader = None
        with suppress(*self._errors, eventlet.Timeout), eventlet.Timeout(1):
            self._client.close()
