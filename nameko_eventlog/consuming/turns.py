"""
What a consumer does whenever its connection was listened to.
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
"""How often a message of a quorum queue may come; RabbitMQ 4 drops what has come 20 times."""

LOG_SECONDS = 60.0
"""How often dead letters are logged at the most."""

_LARGE = 1 << 20  # the weight of messages that take a noticeable time to decode


class Handler(Protocol):
    """
    The options of `EventLogConsumer` that its turns look at, and what reads a message.
    """

    batch_size: int | None
    batch_seconds: float
    quorum: bool
    max_attempts: int
    max_deliveries: int
    hold_seconds: float

    @property
    def label(self) -> str:
        """
        The service and the method, with a dot between them.
        """

    def read(self, message: ReceivedMessage) -> Any:
        """
        Return what the method is handed for *message*, or `SKIPPED`.
        """


class Turns:
    """
    Makes batches of what was received, hands them out, and settles them.

    Args:
        handler: Its options.
        subscription: Where messages come from.
        calls: What calls the method.
        counts: Retries are added to it.
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
        self._alone_since: float | None = None  # since when others wait for one alone
        self._first_at: float | None = None
        self._dead_letter_logged: float | None = None  # when the last line was
        self._dead_letters_unlogged = 0
        self.held_since: float | None = None
        """Since when the method is `Unavailable`."""

    def take(self, stopping: bool) -> None:
        """
        Settle what is done, try again what is due, and hand out what is new.

        Args:
            stopping: Whether nothing new is begun, and the subscription ends with the last call.

        Raises:
            Pause: The method is unavailable: the broker has back what is held.
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
        # what runs is waited for as long again: it may hang, and the others must not wait for it
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
            # what runs may succeed, and would be delivered again; without any batch, the
            # connection was lost, and with it what would have been tried again
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
        Drop what came over the connection that is lost; what runs goes on.
        """
        self._known_connection = connection
        self._calls.drop_waiting()
        self._batches.clear()
        self._earlier.connection_lost(self._calls)

    def _give_back(self) -> None:
        """
        Put what is handled alone back into its queue, which would count its return as an attempt.
        """
        if self._subscription.connection is not None:
            for batch in self._batches:
                if batch.is_alone and batch.reason is None:
                    self._subscription.isolate(batch.messages[0])
            self._batches.clear()

    def _handle_isolated(self, now: float) -> bool:
        """
        Begin with an event log that is handled alone, if there is one.

        Returns:
            Whether all others wait.
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
        Tell whether others wait for one that is handled alone: not for ever, as a call may hang.
        """
        if self._alone_since is None:
            self._alone_since = now
        return now - self._alone_since < self._handler.hold_seconds

    def _gather(self, now: float) -> None:
        """
        Make batches of what is waiting.
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
                eventlet.sleep(0)  # decoding it has kept others waiting

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
        Tell whether a message that was delivered before is not to be handled here and now.
        """
        if self._earlier.was_handled(message):
            self._subscription.acknowledge([message])
            return True
        if self._earlier.keep(message, is_alone):
            return True
        if not self._handler.quorum:  # there it is anybody's header
            return False
        before = message.attempts_before
        most = self._handler.max_attempts if is_alone else self._handler.max_deliveries
        # a connection that this process has lost, or given up, was no crash
        lost = (self._subscription.connection or 1) - 1
        if before < min(most + lost, MOST_DELIVERIES):
            return False
        if is_alone:
            reason = f"was handled alone {before} times, and its process or connection ended"
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
        elif len(batch.messages) > 1:  # one of them may be to blame, and not the others
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
        Move *message* to another queue; as long as the broker refuses it, it is held.

        Args:
            message: Which.
            reason: Why.
            failures: How often that was refused before.
            is_suspect: Whether it is handled alone, and no dead letter.
        """
        connection = self._subscription.connection
        if is_suspect:
            is_moved = self._subscription.isolate(message)
        else:
            is_moved = self._subscription.bury(message, reason)
        if is_moved:
            if not is_suspect:
                self._log_dead_letter(message, reason)
            return
        if not failures:
            _log.warning(
                "%s: the broker refuses a dead letter, which is held and tried again (%s)",
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
        Log that *message* was moved: one line a minute, as senders decide how many there are.
        """
        now = monotonic()
        self._dead_letters_unlogged += 1
        if self._dead_letter_logged is not None and now < self._dead_letter_logged + LOG_SECONDS:
            return
        count, self._dead_letters_unlogged = self._dead_letters_unlogged, 0
        self._dead_letter_logged = now
        _log.warning(
            "%s: dead letters moved to the queue %s: %d; the last one, message id %s, %s"
            " (logged once a minute)",
            self._handler.label,
            self._subscription.dead_letters,
            count,
            describe_value(message.properties.get("message_id")),
            visible(reason),
        )

    def _unavailable(self, exc: Unavailable) -> None:
        if self.held_since is None:
            self.held_since = monotonic()
            _log.warning(
                "%s is unavailable (%s): its event logs wait",
                self._handler.label,
                exc,
            )

    def _available(self) -> None:
        if self.held_since is not None:
            self.held_since = None
            _log.warning("%s is available again", self._handler.label)
