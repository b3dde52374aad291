"""
One consumer's connection: deliveries in, acknowledgements and dead letters out.

One green thread does all that is done with the connection; handlers run elsewhere, and are not
waited for, so that heartbeats go out while they work.
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
from amqp.exceptions import MessageNacked
from eventlet.event import Event
from eventlet.hubs import get_hub, trampoline
from greenlet import getcurrent
from kombu import Producer
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
from nameko_eventlog.consuming.dead_letters import dead_letter, least_dead_letter
from nameko_eventlog.consuming.isolation import REASON, isolated, restored
from nameko_eventlog.consuming.queues import QueueOptions
from nameko_eventlog.consuming.settling import Settling


_log = logging.getLogger("nameko_eventlog")

PATIENCE = 0.05
"""Seconds for which the connection is listened to before the rest has its turn."""

FRAMES_AT_ONCE = 300
"""How many frames are read, three to a message, before the rest has its turn."""

_PORTION = 30  # frames, of 128 KiB at the most, that are read without looking at what is held

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 30.0
"""Seconds between attempts to reach the broker."""

DECLARE_SECONDS = 10.0
"""How often exchanges, queues and bindings are declared again: somebody may have deleted them."""

CONFIRM_SECONDS = 30.0
"""For how long the confirm of a dead letter is waited for."""

_MEND = {
    404: ": somebody has deleted it",
    406: ": there is one with other options; delete it when it is empty, or name another",
}


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
            and answers by `acknowledge` and `bury`. Without a connection it is called as well,
            after `wake`.
        counts: What becomes of the messages is added to it.
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
            confirm_publish=True,  # a dead letter is, before its original is acknowledged
        )
        self._errors = (
            *self._client.connection_errors,
            *self._client.channel_errors,
            OperationalError,  # what kombu makes of them when it cannot connect
            OSError,
        )
        self._channel: Any = None
        self._reader: Reader | None = None
        self._listener: Any = None  # the green thread that waits for the socket
        self._resting: Event | None = None  # what is waited for in place of the socket
        self._unsettled = Settling()
        self._stopping = False
        self._failures = 0  # to connect, in a row
        self._is_lost = False
        self._connected_at: float | None = None
        self._beat_at = 0.0
        self._declaring: Any = None  # the channel for declarations that are repeated
        self._declared_at = 0.0
        self._is_declared = False  # whether a refusal is no longer one of a declaration
        self._is_refused = False
        self._returned = False
        self.tried = Event()
        """Sent when the broker was reached for the first time, or was not."""
        self.waiting: deque[ReceivedMessage] = deque()
        """What has arrived and nobody has taken."""
        self.connection: int | None = None
        """The number of the connection: what an earlier one has delivered is delivered again."""
        self._connections = 0
        self.may_have_isolated = False
        """Whether there may be something in the queue of what is handled alone."""

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
        Let the broker forget *messages*, if they are of this connection.

        Args:
            messages: Which.
            outcome: What they are counted as.

        Raises:
            Exception: The connection is lost.
        """
        before = len(self._unsettled)
        settled = self._unsettled.settle(one.delivery_tag for one in messages)
        self._counts.add(outcome, before - len(self._unsettled))
        for tag, all_before in settled:
            self._channel.basic_ack(tag, multiple=all_before)

    def bury(self, message: ReceivedMessage, reason: str) -> bool:
        """
        Put *message* into the queue of dead letters, and then acknowledge it.

        Returns:
            Whether that was done: the broker may refuse it.

        Raises:
            Exception: The connection is lost, and the message will be delivered again.
        """
        if not self._move(message, dead_letter(message, reason), self._options.dead_letters):
            return False
        self.acknowledge([message], "dead_letters")
        return True

    def isolate(self, message: ReceivedMessage) -> bool:
        """
        Put *message* into the queue of what is handled alone, and then acknowledge it.

        Returns:
            Whether that was done: the broker may refuse it, and other queues have none.

        Raises:
            Exception: The connection is lost, and the message will be delivered again.
        """
        alone = self._options.alone
        if alone is None or not self._move(message, isolated(message), alone):
            return False
        self.may_have_isolated = True
        self.acknowledge([message], "isolated")
        return True

    def take_isolated(self) -> ReceivedMessage | None:
        """
        Take the next message that is handled alone, if there is one.

        Raises:
            Exception: The connection is lost.
        """
        late = ConnectionError(f"the broker has not answered in {CONFIRM_SECONDS:g} s")
        with eventlet.Timeout(CONFIRM_SECONDS, late):
            found = self._channel.basic_get(self._options.alone, no_ack=False)
        if found is None:
            self.may_have_isolated = False
            return None
        message = restored(ReceivedMessage.read(found))
        self._counts.received += 1
        self._unsettled.add(message.delivery_tag, message.weight)
        return message

    def _move(self, message: ReceivedMessage, letter: dict[str, Any], queue: str) -> bool:
        self._returned = False
        too_late = TimeoutError(f"a dead letter was not confirmed in {CONFIRM_SECONDS:g} s")
        try:
            with eventlet.Timeout(CONFIRM_SECONDS, too_late):
                try:
                    self._publish(letter, queue)
                except (*self._errors, MessageNacked):
                    raise
                except Exception:  # of a part of the message that cannot be sent again
                    _log.debug("a dead letter could not be sent whole", exc_info=True)
                    reason = str(letter["headers"][REASON])
                    self._publish(least_dead_letter(message, reason), queue)
        except MessageNacked:
            return False
        if self._returned:
            self._options.declare_dead_letters(self._channel)
            return False
        return True

    def _publish(self, letter: dict[str, Any], queue: str) -> None:
        Producer(self._channel, on_return=self._note_return).publish(
            exchange="",
            routing_key=queue,
            mandatory=True,  # without its queue it would be confirmed, and gone
            **letter,
        )

    @property
    def is_full(self) -> bool:
        """
        Whether so much is held that no more is read for now.
        """
        return self._unsettled.size >= limits.HELD_BYTES

    def _consume(self) -> None:
        self._client.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT)
        self._channel = channel = self._client.channel()
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
        Declare all anew, without waiting for answers, on a channel that the broker may close.
        """
        self._declared_at = monotonic()
        if self._options.alone is not None and not self._unsettled:
            self.may_have_isolated = True  # of an instance that is no more
        if self._declaring is None:
            self._declaring = self._client.channel()
        self._options.declare(self._declaring, nowait=True)

    def _declaration_refused(self, exc: Exception) -> None:
        # py-amqp has opened the channel again
        if not self._is_refused:
            self._is_refused = True
            _log.warning(
                "the queue %s, or what belongs to it, cannot be declared again (%s%s); it is"
                " consumed as it is",
                self._options.name,
                masked_text(str(exc)),
                _MEND.get(getattr(exc, "code", 0), ""),
            )

    def _received(self, received: ReceivedMessage) -> None:
        self._counts.received += 1
        self._unsettled.add(received.delivery_tag, received.weight)
        self.waiting.append(received)

    def _note_return(self, *_: Any) -> None:
        self._returned = True

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
        except Exception as exc:  # of what somebody has sent, which ends no service
            raise ConnectionError(f"what the broker sent cannot be read: {exc!r}") from exc
        if is_time:
            self._beat_at = monotonic()
            if self._client.heartbeat:
                self._client.heartbeat_check()

    def _read(self) -> None:
        if self._reader is None:  # one of kombu's transports that is not AMQP's
            self._client.drain_events(timeout=PATIENCE)
            until = monotonic() + PATIENCE
            while monotonic() < until:  # as long as there is something to read at once
                self._client.drain_events(timeout=0.001)
        elif self.is_full:  # a little, which is the broker's sign of life
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
        # in the hub: who was woken by the socket meanwhile is no listener any more
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.throw(TimeoutError)

    def _lost(self, exc: BaseException) -> None:
        self._close()
        # one that is lost at once each time is no reason to hurry
        if self._connected_at is not None and monotonic() - self._connected_at > LAST_BACKOFF:
            self._failures = 0
        self._connected_at = None
        if not self._is_lost:
            self._is_lost = True
            _log.warning(
                "the queue %s at %s is lost to its consumer (%s%s); it is tried again",
                self._options.name,
                masked(self._client.as_uri(include_password=False)),
                masked_text(str(exc)),
                # later, 406 is the broker's consumer_timeout
                "" if self._is_declared else _MEND.get(getattr(exc, "code", 0), ""),
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
            _log.warning("the queue %s is back for its consumer", self._options.name)

    def _close(self) -> None:
        self.connection = None
        self._declaring = None
        self.waiting.clear()
        self._counts.returned += len(self._unsettled)
        self._unsettled = Settling()
        self._reader = None
        with suppress(*self._errors, eventlet.Timeout), eventlet.Timeout(1):
            self._client.close()
