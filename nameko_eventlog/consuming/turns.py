"""
What a consumer does in each turn, between two reads of its connection.
"""

from __future__ import annotations

import logging
from collections import deque
from time import monotonic
from typing import Any, Protocol

import eventlet

from nameko_eventlog import limits
from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.consuming.batches import SKIPPED, Batch
from nameko_eventlog.consuming.calls import Calls
from nameko_eventlog.consuming.context_data import context_data
from nameko_eventlog.consuming.counts import ConsumerCounts
from nameko_eventlog.consuming.earlier import EarlierCalls
from nameko_eventlog.consuming.subscription import Pause, Subscription
from nameko_eventlog.describing import describe_error, describe_value
from nameko_eventlog.exceptions import Unavailable
from nameko_eventlog.visible import visible


_log = logging.getLogger("nameko_eventlog")

MOST_DELIVERIES = 15
"""How many deliveries a message of a quorum queue gets; RabbitMQ 4 drops it after 20."""

LOG_SECONDS = 60.0
"""How often dead letters are logged, at most."""

_LARGE = 1 << 20  # the weight of a batch that takes a noticeable time to decode


class Handler(Protocol):
    """
    The part of `EventLogConsumer` that `Turns` uses.
    """

    batch_size: int | None
    batch_seconds: float
    quorum: bool
    max_attempts: int
    max_deliveries: int
    hold_seconds: float

    @property
    def label(self) -> str: ...

    def read(self, message: ReceivedMessage) -> Any: ...


class Turns:
    """
    Makes batches of the received messages, starts calls with them, and settles them.

    Args:
        handler: The consumer.
        subscription: Where messages come from.
        calls: The calls of the method.
        counts: Where retries are counted.
    """

    def __init__(
        self,
        handler: Handler,
        subscription: Subscription,
        calls: Calls,
        counts: ConsumerCounts,
    ) -> None:
        self._handler = handler
        self._subscription = subscription
        self._calls = calls
        self._counts = counts
        self._batches: deque[Batch] = deque()  # of this connection
        self._known_connection: int | None = None
        self._earlier = EarlierCalls()
        self._alone_since: float | None = None  # since when one has kept others waiting
        self._first_at: float | None = None
        self._dead_letter_logged: float | None = None  # when the last line was
        self._dead_letters_unlogged = 0
        self.held_since: float | None = None
        """Since when the method has been `Unavailable`, or None."""

    def take(self, stopping: bool) -> None:
        """
        Settle ended calls, retry what is due, and start calls with new messages.

        Args:
            stopping: Whether to start nothing new, and to end the subscription with the last call.

        Raises:
            Pause: The method is unavailable: all messages return to the broker.
            Exception: The connection is lost.
        """
        connection = self._subscription.connection
        if connection != self._known_connection:
            self._connection_changed(connection)
        while self._calls.ended:
            attempt = self._calls.ended.popleft()
            self._calls.forget(attempt)
            batch: Batch | None = attempt.batch
            if attempt.batch.connection != connection:
                batch = self._earlier.ended(attempt, connection)
            if batch is not None:
                self._settle(batch, attempt.exc)
        if stopping:
            if not self._calls:
                self._give_back()
                self._subscription.stop()
            return
        if connection is None:
            return
        now, since = monotonic(), self.held_since
        held = 0.0 if since is None else now - since
        # running calls get the same time again; the others must not wait longer for one that hangs
        is_enough = self._handler.hold_seconds < held <= 2 * self._handler.hold_seconds
        waits_for_one = self._calls.is_alone() and self._may_wait(now)
        for _ in range(len(self._batches)):
            batch = self._batches.popleft()
            if batch.due > now or (is_enough and batch.reason is None):
                self._batches.append(batch)
            elif batch.reason is not None:
                self._dead_letter(
                    batch.messages[0], batch.reason, batch.failures, batch.is_suspect
                )
            elif waits_for_one or (batch.is_alone and self._calls):
                self._batches.append(batch)
                waits_for_one = waits_for_one or self._may_wait(now)
            else:
                self._begin(batch)
                waits_for_one = waits_for_one or batch.is_alone
        if since is not None and not self._calls.of(connection):
            # not while a call runs: it may succeed, and its batch would be redelivered. Without
            # batches the connection was lost, and there is nothing to retry
            if held > self._handler.hold_seconds or not self._batches:
                self._give_back()
                raise Pause
        elif (
            (since is None or not self._batches)
            and not waits_for_one
            and not self._handle_isolated(now)
        ):
            self._gather(now)

    def _connection_changed(self, connection: int | None) -> None:
        """
        Drop the messages of the lost connection; running calls go on.
        """
        self._known_connection = connection
        self._calls.drop_waiting()
        self._batches.clear()
        self._earlier.connection_lost(self._calls)

    def _give_back(self) -> None:
        """
        Move messages that are handled alone back into their queue: a return to the broker would
        count as an attempt.
        """
        if self._subscription.connection is not None:
            for batch in self._batches:
                if batch.is_alone and batch.reason is None:
                    self._subscription.isolate(batch.messages[0])
            self._batches.clear()

    def _handle_isolated(self, now: float) -> bool:
        """
        Start a call with the next event log that is handled alone, if there is one.

        Returns:
            Whether all other event logs must wait.
        """
        if not self._subscription.may_have_isolated:
            return False
        if self._calls:
            return self._may_wait(now)
        message = self._subscription.take_isolated()
        if message is None:
            return False
        batch = Batch([], [], self._subscription.connection, is_alone=True)
        self._add(batch, message)
        if batch.messages:
            self._begin(batch)
        return True

    def _may_wait(self, now: float) -> bool:
        """
        Tell whether others still wait for one that is handled alone: a call that hangs must not
        block them forever.
        """
        if self._alone_since is None:
            self._alone_since = now
        return now - self._alone_since < self._handler.hold_seconds

    def _gather(self, now: float) -> None:
        """
        Make batches of the waiting messages.
        """
        waiting = self._subscription.waiting
        size = self._handler.batch_size or 1
        if not waiting:
            self._first_at = None
            return
        tried_again = sum(batch.weight for batch in self._batches)
        while waiting and self._calls.weight + tried_again < limits.DECODED_BYTES:
            if self._first_at is None:
                self._first_at = now
            if (
                len(waiting) < size
                and now - self._first_at < self._handler.batch_seconds
                and not self._subscription.is_full
            ):
                return
            self._first_at = None
            batch = Batch([], [], self._subscription.connection)
            most, held = limits.HELD_BYTES // 4, 0
            for _ in range(min(size, len(waiting))):
                held += waiting[0].weight
                self._add(batch, waiting.popleft())
                if held >= most or batch.weight >= limits.DECODED_BYTES // 4:
                    break
            if batch.messages:
                self._begin(batch)
            if batch.weight >= _LARGE:
                eventlet.sleep(0)  # decoding it has blocked other green threads

    def _add(self, batch: Batch, message: ReceivedMessage) -> None:
        if message.redelivered and self._is_elsewhere(message, batch.is_alone):
            return
        try:
            value = self._handler.read(message)
            if self._handler.batch_size is None and value is not SKIPPED:
                batch.context = context_data(message.headers)
        except Exception as exc:
            self._dead_letter(message, f"cannot be read: {describe_error(exc)}")
            return
        if value is SKIPPED:
            self._subscription.acknowledge([message], "skipped")
            return
        batch.messages.append(message)
        batch.values.append(value)
        batch.weight += message.decoded_weight

    def _is_elsewhere(self, message: ReceivedMessage, is_alone: bool) -> bool:
        """
        Settle a redelivered message that must not be handled now.

        Returns:
            Whether that was done.
        """
        if self._earlier.was_handled(message):
            self._subscription.acknowledge([message])
            return True
        if self._earlier.keep(message, is_alone):
            return True
        if not self._handler.quorum:  # on other queues the header may come from the sender
            return False
        before = message.attempts_before
        most = self._handler.max_attempts if is_alone else self._handler.max_deliveries
        # connections that this process has lost or closed were no crashes
        lost = (self._subscription.connection or 1) - 1
        if before < min(most + lost, MOST_DELIVERIES):
            return False
        if is_alone:
            reason = f"was handled alone {before} times, and the process or connection ended"
            self._dead_letter(message, reason)
        else:
            self._dead_letter(message, f"was delivered {before} times", is_suspect=True)
        return True

    def _begin(self, batch: Batch) -> None:
        if batch.failures:
            self._counts.retries += 1
        if batch.is_alone:
            self._alone_since = None
        self._calls.begin(batch)

    def _settle(self, batch: Batch, exc: BaseException | None) -> None:
        if exc is None:
            self._available()
            self._subscription.acknowledge(batch.messages)
            return
        batch.postpone()
        if isinstance(exc, Unavailable):
            self._unavailable(exc)
            self._batches.append(batch)
            return
        batch.attempts += 1
        if batch.attempts < self._handler.max_attempts:
            self._batches.append(batch)
        elif len(batch.messages) > 1:  # perhaps only one message is at fault
            for message, value in zip(batch.messages, batch.values, strict=True):
                self._batches.append(
                    Batch(
                        [message],
                        [value],
                        batch.connection,
                        weight=message.decoded_weight,
                        attempts=self._handler.max_attempts - 1,
                        failures=1,
                    )
                )
        else:
            self._dead_letter(batch.messages[0], f"was not handled: {describe_error(exc)}")

    def _dead_letter(
        self,
        message: ReceivedMessage,
        reason: str,
        failures: int = 0,
        is_suspect: bool = False,
    ) -> None:
        """
        Move *message* to another queue, or hold it while the broker refuses that.

        Args:
            message: The message.
            reason: Why it is moved.
            failures: How often the broker has refused it.
            is_suspect: Whether it is to be handled alone, and is not a dead letter.
        """
        connection = self._subscription.connection
        if is_suspect:
            is_moved = self._subscription.isolate(message)
        else:
            is_moved = self._subscription.dead_letter(message, reason)
        if is_moved:
            if not is_suspect:
                self._log_dead_letter(message, reason)
            return
        if not failures:
            _log.warning(
                "%s: the broker refused a dead letter (%s); holding it and trying again",
                self._handler.label,
                reason,
            )
        batch = Batch(
            [message], [], connection, failures=failures, reason=reason, is_suspect=is_suspect
        )
        batch.postpone()
        self._batches.append(batch)

    def _log_dead_letter(self, message: ReceivedMessage, reason: str) -> None:
        """
        Log that *message* was moved, once a minute, because senders decide how many there are.
        """
        now = monotonic()
        self._dead_letters_unlogged += 1
        if self._dead_letter_logged is not None and now < self._dead_letter_logged + LOG_SECONDS:
            return
        count, self._dead_letters_unlogged = self._dead_letters_unlogged, 0
        self._dead_letter_logged = now
        _log.warning(
            "%s: moved %d dead letters to queue %s; the last one, message id %s, %s"
            " (logged once a minute)",
            self._handler.label,
            count,
            self._subscription.dead_letters,
            describe_value(message.properties.get("message_id")),
            visible(reason),
        )

    def _unavailable(self, exc: Unavailable) -> None:
        if self.held_since is None:
            self.held_since = monotonic()
            _log.warning(
                "%s: unavailable (%s); event logs wait",
                self._handler.label,
                exc,
            )

    def _available(self) -> None:
        if self.held_since is not None:
            self.held_since = None
            _log.warning("%s: available again", self._handler.label)
