"""
One consumer's connection: deliveries in, acknowledgements and dead letters out.

One green thread does everything with the connection. It does not wait for handlers, which run in
other threads, so that heartbeats are sent while they work.
"""

from __future__ import annotations

import logging
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
from kombu.exceptions import OperationalError

from nameko_eventlog import limits
from nameko_eventlog.addresses import masked, masked_text
from nameko_eventlog.amqp.connections import CONNECT_TIMEOUT, make_connection
from nameko_eventlog.amqp.deliveries import consume, takes_frames
from nameko_eventlog.amqp.frame_reading import Reader, open_reader
from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.amqp.settings import ConnectionSettings
from nameko_eventlog.backoff import backoff
from nameko_eventlog.consuming.counts import ConsumerCounts, Outcome
from nameko_eventlog.consuming.dead_letters import make_dead_letter
from nameko_eventlog.consuming.isolation import isolated, restored
from nameko_eventlog.consuming.moving import CONFIRM_SECONDS, Mover
from nameko_eventlog.consuming.queues import QueueOptions
from nameko_eventlog.consuming.settling import Settling


_log = logging.getLogger("nameko_eventlog")

PATIENCE = 0.05
"""Seconds to wait for the connection before each turn."""

FRAMES_AT_ONCE = 300
"""How many frames, three to a message, are read before each turn."""

_PORTION = 30  # frames of up to 128 KiB that are read between two checks of the size held

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 30.0
"""Seconds between attempts to reach the broker."""

DECLARE_SECONDS = 10.0
"""How often exchanges, queues and bindings are declared again, in case they were deleted."""

_ADVICE = {
    404: ": it was deleted",
    406: ": it exists with other options; delete it when it is empty, or choose another name",
}


class Pause(Exception):
    """
    Raised by ``on_turn`` to return all deliveries to the broker, and pause.
    """


class Subscription:
    """
    A connection that consumes one queue.

    Args:
        settings: How to connect.
        options: The queue.
        prefetch: How many unacknowledged messages the broker may deliver.
        on_turn: Called after each read of the connection; it takes messages from `waiting`, and
            calls `acknowledge`, `dead_letter` and `isolate`. It is also called after `wake`, with
            or without a connection.
        counts: Where messages are counted.
    """

    def __init__(
        self,
        settings: ConnectionSettings,
        options: QueueOptions,
        prefetch: int,
        on_turn: Callable[[], None],
        counts: ConsumerCounts | None = None,
    ) -> None:
        self._counts = ConsumerCounts() if counts is None else counts
        self._options = options
        self._prefetch = prefetch
        self._on_turn = on_turn
        self._client = make_connection(
            settings,
            heartbeat=settings.heartbeat,
            confirm_publish=True,  # of a dead letter, before the original is acknowledged
        )
        self._errors = (
            *self._client.connection_errors,
            *self._client.channel_errors,
            OperationalError,  # raised by kombu when it cannot connect
            OSError,
        )
        self._channel: Any = None
        self._mover: Any = None  # of the channel
        self._reader: Reader | None = None
        self._listener: Any = None  # the green thread that waits for the socket
        self._resting: Event | None = None  # waited for instead of the socket
        self._unsettled = Settling()
        self._stopping = False
        self._failures = 0  # to connect, in a row
        self._is_lost = False
        self._connected_at: float | None = None
        self._beat_at = 0.0
        self._declaring: Any = None  # the channel for repeated declarations
        self._declared_at = 0.0
        self._is_declared = False  # whether the first declarations have succeeded
        self._is_refused = False
        self.tried = Event()
        """Sent after the first attempt to connect, whether or not it succeeded."""
        self.waiting: deque[ReceivedMessage] = deque()
        """Messages that have arrived and not been taken."""
        self.connection: int | None = None
        """The number of the connection: messages from an earlier one are redelivered."""
        self._connections = 0
        self.may_have_isolated = False
        """Whether the queue of messages that are handled alone may have some."""

    def run(self, pause: Callable[[], None]) -> None:
        """
        Consume until `stop`.

        Args:
            pause: Called after a `Pause`, without a connection; consuming resumes when it returns.
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
        End `run` after the current turn.
        """
        self._stopping = True

    def wake(self) -> None:
        """
        Have ``on_turn`` called soon, because there is something to settle.
        """
        if self._listener is not None:
            get_hub().schedule_call_global(0, self._interrupt)
        elif self._resting is not None and not self._resting.ready():
            self._resting.send()

    @property
    def dead_letters(self) -> str:
        """
        The name of the queue of dead letters.
        """
        return self._options.dead_letters

    def acknowledge(self, messages: list[ReceivedMessage], outcome: Outcome = "handled") -> None:
        """
        Acknowledge *messages*, if they are from this connection.

        Args:
            messages: The messages.
            outcome: The count to which they are added.

        Raises:
            Exception: The connection is lost.
        """
        before = len(self._unsettled)
        settled = self._unsettled.settle(one.delivery_tag for one in messages)
        self._counts.add(outcome, before - len(self._unsettled))
        for tag, all_before in settled:
            self._channel.basic_ack(tag, multiple=all_before)

    def dead_letter(self, message: ReceivedMessage, reason: str) -> bool:
        """
        Publish *message* to the queue of dead letters, then acknowledge it.

        Returns:
            Whether that succeeded: the broker may refuse the dead letter.

        Raises:
            Exception: The connection is lost, and the message will be redelivered.
        """
        letter = make_dead_letter(message, reason)
        if not self._mover.move(message, letter, self._options.dead_letters):
            return False
        self.acknowledge([message], "dead_letters")
        return True

    def isolate(self, message: ReceivedMessage) -> bool:
        """
        Publish *message* to the queue of messages that are handled alone, then acknowledge it.

        Returns:
            Whether that succeeded: the broker may refuse it, and only quorum queues have one.

        Raises:
            Exception: The connection is lost, and the message will be redelivered.
        """
        alone = self._options.alone
        if alone is None or not self._mover.move(message, isolated(message), alone):
            return False
        self.may_have_isolated = True
        self.acknowledge([message], "isolated")
        return True

    def take_isolated(self) -> ReceivedMessage | None:
        """
        Return the next message to be handled alone, or None.

        Raises:
            Exception: The connection is lost.
        """
        late = ConnectionError(f"the broker did not answer within {CONFIRM_SECONDS:g} s")
        with eventlet.Timeout(CONFIRM_SECONDS, late):
            found = self._channel.basic_get(self._options.alone, no_ack=False)
        if found is None:
            self.may_have_isolated = False
            return None
        message = restored(ReceivedMessage.read(found))
        self._counts.received += 1
        self._unsettled.add(message.delivery_tag, message.weight)
        return message

    @property
    def is_full(self) -> bool:
        """
        Whether so much is held that reading must stop.
        """
        return self._unsettled.size >= limits.HELD_BYTES

    def _consume(self) -> None:
        self._client.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT)
        self._channel = channel = self._client.channel()
        self._mover = Mover(channel, self._options, self._errors)
        self._connections += 1
        self.connection = self._connections
        self._connected_at = monotonic()
        connection = self._client.connection
        is_amqp = takes_frames(connection)
        self._unsettled = Settling(is_singly=not is_amqp)
        self.waiting.clear()
        self._is_declared = False
        self._options.declare(channel)
        self._declared_at = monotonic()
        self.may_have_isolated = is_amqp and self._options.alone is not None
        channel.basic_qos(0, self._prefetch, False)
        consume(
            channel,
            self._options.name,
            self._received,
            f"eventlog-{uuid4()}",
            on_refusal=self._declaration_refused,
        )
        if is_amqp:
            self._reader = open_reader(connection)
        self._is_declared = True
        self._restored()
        while not self._stopping:
            self._listen()
            self._on_turn()
            if is_amqp and monotonic() - self._declared_at > DECLARE_SECONDS:
                self._declare_again()
            eventlet.sleep(0)

    def _declare_again(self) -> None:
        """
        Repeat the declarations, without waiting, on a channel that the broker may close.
        """
        self._declared_at = monotonic()
        if self._options.alone is not None and not self._unsettled:
            self.may_have_isolated = True  # left by another instance
        if self._declaring is None:
            self._declaring = self._client.channel()
        self._options.declare(self._declaring, nowait=True)

    def _declaration_refused(self, exc: Exception) -> None:
        # py-amqp has reopened the channel
        if not self._is_refused:
            self._is_refused = True
            _log.warning(
                "cannot repeat the declarations of queue %s (%s%s); consuming continues",
                self._options.name,
                masked_text(str(exc)),
                _ADVICE.get(getattr(exc, "code", 0), ""),
            )

    def _received(self, received: ReceivedMessage) -> None:
        self._counts.received += 1
        self._unsettled.add(received.delivery_tag, received.weight)
        self.waiting.append(received)

    def _listen(self) -> None:
        is_time = monotonic() - self._beat_at > (self._client.heartbeat or LAST_BACKOFF) / 4
        try:
            if is_time or not self.is_full:
                self._read()
            else:
                self._rest(PATIENCE)
        except TimeoutError:
            pass
        except self._errors:
            raise
        except Exception as exc:  # a message must not crash the service
            raise ConnectionError(f"cannot read what the broker sent: {exc!r}") from exc
        if is_time:
            self._beat_at = monotonic()
            if self._client.heartbeat:
                self._client.heartbeat_check()

    def _read(self) -> None:
        if self._reader is None:  # a transport of kombu's other than AMQP
            self._client.drain_events(timeout=PATIENCE)
            until = monotonic() + PATIENCE
            while monotonic() < until:  # while there is something to read at once
                self._client.drain_events(timeout=0.001)
        elif self.is_full:  # a little, to see the broker's heartbeats
            self._reader.read(1)
        elif not self._read_frames(self._reader):
            self._wait_for_more()
            self._read_frames(self._reader)

    def _read_frames(self, reader: Reader) -> int:
        number = 0
        while number < FRAMES_AT_ONCE and not self.is_full:
            read = reader.read(_PORTION)
            number += read
            if read < _PORTION:
                break
        return number

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
        # in the hub: if the socket has woken the listener in the meantime, there is none
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.throw(TimeoutError)

    def _lost(self, exc: BaseException) -> None:
        self._close()
        # reset the backoff only after a connection that lasted
        if self._connected_at is not None and monotonic() - self._connected_at > LAST_BACKOFF:
            self._failures = 0
        self._connected_at = None
        if not self._is_lost:
            self._is_lost = True
            _log.warning(
                "cannot consume queue %s at broker %s (%s%s); trying again",
                self._options.name,
                masked(self._client.as_uri(include_password=False)),
                masked_text(str(exc)),
                # after the declarations, 406 is the broker's consumer_timeout
                "" if self._is_declared else _ADVICE.get(getattr(exc, "code", 0), ""),
            )
        self._has_tried()
        self._failures += 1
        until = monotonic() + backoff(self._failures, FIRST_BACKOFF, LAST_BACKOFF)
        while not self._stopping and (left := until - monotonic()) > 0:
            self._on_turn()
            if not self._stopping:
                self._rest(left)

    def _rest(self, seconds: float) -> None:
        self._resting = Event()
        with eventlet.Timeout(seconds, False):
            self._resting.wait()
        self._resting = None

    def _has_tried(self) -> None:
        if not self.tried.ready():
            self.tried.send()

    def _restored(self) -> None:
        self._has_tried()
        if self._is_lost:
            self._is_lost = False
            _log.warning(
                "consuming queue %s at broker %s again",
                self._options.name,
                masked(self._client.as_uri(include_password=False)),
            )

    def _close(self) -> None:
        self.connection = None
        self._declaring = None
        self.waiting.clear()
        self._counts.returned += len(self._unsettled)
        self._unsettled = Settling()
        self._reader = None
        with suppress(*self._errors, eventlet.Timeout), eventlet.Timeout(1):
            self._client.close()
