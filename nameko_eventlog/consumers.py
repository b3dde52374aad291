"""
`event_log_handler`: an entrypoint that is handed event logs, one or many at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping
from time import monotonic
from typing import Any

import eventlet
from eventlet.event import Event
from kombu import Exchange
from nameko.exceptions import ConfigurationError
from nameko.extensions import Entrypoint

from nameko_eventlog import compat, limits
from nameko_eventlog.addresses import masked
from nameko_eventlog.consuming import QueueOptions, ReceivedMessage, options
from nameko_eventlog.consuming.batches import SKIPPED, Batch, retry_delay
from nameko_eventlog.consuming.calls import Calls
from nameko_eventlog.consuming.counts import ConsumerCounts, register, unregister
from nameko_eventlog.consuming.earlier import EarlierCalls
from nameko_eventlog.consuming.queues import lacks_fan_in
from nameko_eventlog.consuming.reasons import shown, told
from nameko_eventlog.consuming.subscription import Pause, Subscription
from nameko_eventlog.exceptions import Unavailable


_log = logging.getLogger("nameko_eventlog")

_LONGEST_NAME = 255 - len(".dead-letters")


MOST_DELIVERIES = 15
"""How often a message of a quorum queue may come; RabbitMQ 4 drops what has come 20 times."""


class EventLogConsumer(Entrypoint):
    """
    Fires with the event logs that reach its queue.

    Args:
        *services: Whose event logs; none for those of all services, which takes a broker that
            binds exchanges to exchanges (RabbitMQ; not ``memory://``).
        event_types: The event types that the method wants; others are acknowledged unseen. None
            for all.
        batch_size: With it the method is handed a list of that many bodies at the most; without
            it, one body.
        batch_seconds: For how long a batch is waited for to fill.
        queue: The queue's name; default: ``eventlog-{service}.{method}``. Instances of the
            service compete for it.
        quorum: Whether it is a quorum queue. Only these count attempts across a crash.
        max_length: How many messages it holds at the most.
        expires: Seconds without a consumer after which the broker deletes it.
        prefetch: How many messages are held here at the most; default: twice the batch, or the
            service's workers.
        max_attempts: How often the method is tried before an event log becomes a dead letter,
            in the queue ``{queue}.dead-letters``.
        handler_timeout: Seconds after which a call is ended, which is a failed attempt; None for
            never. Below RabbitMQ's ``consumer_timeout`` (30 minutes).
        fan_in_exchange: What binds all services' event logs together.
        routing_key: The Nameko event type under which they travel.

    Raises:
        EventLogTypeError: A service is no name.
        EventLogValueError: An option is out of range.

    .. versionadded:: 0.2.0
    """

    hold_seconds = 60.0
    """For how long messages are held while the method is `Unavailable`."""

    max_deliveries: int
    """How often a message of a quorum queue may come before it is handled alone."""

    def __init__(
        self,
        *services: str,
        event_types: Collection[str] | None = None,
        batch_size: int | None = None,
        batch_seconds: float = 1.0,
        queue: str | None = None,
        quorum: bool = False,
        max_length: int | None = None,
        expires: float | None = None,
        prefetch: int | None = None,
        max_attempts: int = 5,
        handler_timeout: float | None = None,
        fan_in_exchange: str = "eventlog",
        routing_key: str = "log_event",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        options.check_names(services, event_types)
        options.check_integers(
            batch_size=batch_size,
            prefetch=prefetch,
            max_length=max_length,
            max_attempts=max_attempts,
        )
        options.check_seconds(
            batch_seconds=batch_seconds, expires=expires, handler_timeout=handler_timeout
        )
        self.services = services
        self.event_types = None if event_types is None else frozenset(event_types)
        self.batch_size = batch_size
        self.batch_seconds = batch_seconds
        self.queue = queue
        self.quorum = quorum
        self.max_length = max_length
        self.expires = expires
        self.prefetch = prefetch
        self.max_attempts = self.max_deliveries = max_attempts
        self.handler_timeout = handler_timeout
        self.fan_in_exchange = fan_in_exchange
        self.routing_key = routing_key
        self._is_started = self._stopping = False
        self._batches: deque[Batch] = deque()  # of this connection
        self._known_connection: int | None = None
        self._earlier = EarlierCalls()
        self._alone_since: float | None = None  # since when others wait for one alone
        self._first_at: float | None = None
        self._held_since: float | None = None
        self.counts = ConsumerCounts()
        self._ended = Event()
        self._stop_wanted = Event()

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: If this broker cannot bring the event logs of all services.
        """
        settings = compat.consumer_settings(self.container)
        self._accept = self.container.accept
        if not self.services and lacks_fan_in(settings.uri):
            raise ConfigurationError(
                f"event_log_handler() of {self.container.service_name}.{self.method_name} names"
                f" no service, and {masked(settings.uri)!r} has no fan-in exchange: name the"
                " services"
            )
        queue = self.queue or f"eventlog-{self.container.service_name}.{self.method_name}"
        if len(queue.encode()) > _LONGEST_NAME:
            raise ConfigurationError(
                f"the queue's name {queue!r} is longer than {_LONGEST_NAME} bytes: pass a shorter"
                f" one to event_log_handler(queue=...)"
            )
        queue_options = QueueOptions(
            name=queue,
            exchanges=self._exchanges(),
            routing_key=self.routing_key,
            quorum=self.quorum,
            max_length=self.max_length,
            expires=self.expires,
        )
        prefetch = self.prefetch or min(
            2 * (self.batch_size or 0) or self.container.max_workers, options.MOST_PREFETCHED
        )
        self._calls = Calls(
            self, self.batch_size is None, self.handler_timeout, lambda: self._subscription.wake()
        )
        self._subscription = Subscription(
            settings, queue_options, prefetch, self._turn, self.counts
        )

    def _exchanges(self) -> tuple[Exchange, ...]:
        if not self.services:
            return (Exchange(self.fan_in_exchange, type="topic", durable=True),)
        return tuple(compat.event_exchange(self.container, name) for name in self.services)

    def start(self) -> None:
        """
        Begin consuming: from here on nothing passes by, if the broker is there.
        """
        self._is_started = True
        register(self)
        self.container.spawn_managed_thread(self._run, identifier="event_log_handler")
        self._subscription.tried.wait()

    def stop(self) -> None:
        """
        Take no more, and return when what runs is done with.
        """
        self._stopping = True
        if not self._stop_wanted.ready():
            self._stop_wanted.send()
        if self._is_started:  # the service may have failed before
            self._subscription.wake()
            self._ended.wait()

    def kill(self) -> None:
        """
        End at once; what is not acknowledged goes back to the queue.
        """
        self._stopping = True
        if self._is_started:
            self._subscription.stop()

    @property
    def label(self) -> str:
        """
        The service and the method, with a dot between them.
        """
        return f"{self.container.service_name}.{self.method_name}"

    def stats(self) -> dict[str, float]:
        """
        Return the counts of this handler, in this service instance.

        .. versionadded:: 0.2.0
        """
        counts, since = self.counts, self._held_since
        return {
            "received": counts.received,
            "handled": counts.handled,
            "skipped": counts.skipped,
            "dead_letters": counts.dead_letters,
            "isolated": counts.isolated,
            "returned": counts.returned,
            "waiting": counts.waiting,
            "running": len(self._calls),
            "retries": counts.retries,
            "held_seconds": 0 if since is None else int(monotonic() - since),
        }

    def probe(self) -> bool:
        """
        Tell whether the method, which was `Unavailable`, would work now.
        """
        return True

    def read(self, message: ReceivedMessage) -> Any:
        """
        Return what the method is handed for *message*, or `SKIPPED`.

        Raises:
            Exception: The message becomes a dead letter.
        """
        body = message.decode(self._accept)
        if not isinstance(body, Mapping):
            raise ValueError(f"the body is no mapping but {shown(body)}")
        if self.event_types is not None and body["event_type"] not in self.event_types:
            return SKIPPED
        return body

    def _run(self) -> None:
        try:
            self._subscription.run(self._wait_until_available)
        finally:
            unregister(self)
            _log.info(
                "event logs for %s: %s",
                self.label,
                ", ".join(f"{count:g} {name}" for name, count in self.stats().items()),
            )
            self._ended.send()

    def _turn(self) -> None:
        """
        Settle what is done, try again what is due, and hand out what is new.
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
        if self._stopping:
            if not self._calls:
                self._give_back()
                self._subscription.stop()
            return
        if connection is None:
            return
        now, since = monotonic(), self._held_since
        held = 0.0 if since is None else now - since
        # what runs is waited for as long again: it may hang, and the others must not wait for it
        is_enough = self.hold_seconds < held <= 2 * self.hold_seconds
        waits_for_one = self._calls.is_alone() and self._may_wait(now)
        for _ in range(len(self._batches)):
            batch = self._batches.popleft()
            if batch.due > now or (is_enough and batch.reason is None):
                self._batches.append(batch)
            elif batch.reason is not None:
                self._bury(batch.messages[0], batch.reason, batch.failures, batch.is_suspect)
            elif waits_for_one or (batch.is_alone and self._calls):
                self._batches.append(batch)
                waits_for_one = waits_for_one or self._may_wait(now)
            else:
                self._begin(batch)
                waits_for_one = waits_for_one or batch.is_alone
        if since is not None and not self._calls.of(connection):
            # what runs may succeed, and would be delivered again; without any batch, the
            # connection was lost, and with it what would have been tried again
            if held > self.hold_seconds or not self._batches:
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
        return now - self._alone_since < self.hold_seconds

    def _gather(self, now: float) -> None:
        """
        Make batches of what is waiting.
        """
        waiting = self._subscription.waiting
        size = self.batch_size or 1
        if not waiting:
            self._first_at = None
            return
        tried_again = sum(batch.weight for batch in self._batches)
        while waiting and self._calls.weight + tried_again < limits.DECODED_BYTES:
            if self._first_at is None:
                self._first_at = now
            if (
                len(waiting) < size
                and now - self._first_at < self.batch_seconds
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

    def _add(self, batch: Batch, message: ReceivedMessage) -> None:
        if self._earlier.was_handled(message):
            self._subscription.acknowledge([message])
            return
        if self._earlier.keep(message, batch.is_alone):
            return
        before = message.attempts_before if self.quorum else 0  # elsewhere anybody's header
        if before >= self._most_deliveries(batch.is_alone) and batch.is_alone:
            reason = f"was handled alone {before} times, and its process or connection ended"
            self._bury(message, reason)
            return
        if before >= self._most_deliveries(batch.is_alone):
            self._bury(message, f"was delivered {before} times", is_suspect=True)
            return
        try:
            value = self.read(message)
            if self.batch_size is None and value is not SKIPPED:
                batch.context = compat.context_data(message.headers)
        except Exception as exc:
            self._bury(message, f"cannot be read: {told(exc)}")
            return
        if value is SKIPPED:
            self._subscription.acknowledge([message], "skipped")
            return
        batch.messages.append(message)
        batch.values.append(value)
        batch.weight += message.decoded_weight

    def _most_deliveries(self, is_alone: bool) -> int:
        most = self.max_attempts if is_alone else self.max_deliveries
        # a connection that this process has lost, or given up, was no crash
        lost = (self._subscription.connection or 1) - 1
        return min(most + lost, MOST_DELIVERIES)

    def _begin(self, batch: Batch) -> None:
        if batch.failures:
            self.counts.retries += 1
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
        if batch.attempts < self.max_attempts:
            self._batches.append(batch)
        elif len(batch.messages) > 1:  # one of them may be to blame, and not the others
            for message, value in zip(batch.messages, batch.values, strict=True):
                self._batches.append(
                    Batch(
                        [message],
                        [value],
                        batch.connection,
                        weight=message.decoded_weight,
                        attempts=self.max_attempts - 1,
                        failures=1,
                    )
                )
        else:
            self._bury(batch.messages[0], f"was not handled: {told(exc)}")

    def _bury(
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
            return
        if not failures:
            _log.warning(
                "%s: the broker refuses a dead letter, which is held and tried again (%s)",
                self.label,
                reason,
            )
        batch = Batch(
            [message], [], connection, failures=failures, reason=reason, is_suspect=is_suspect
        )
        batch.postpone()
        self._batches.append(batch)

    def _unavailable(self, exc: Unavailable) -> None:
        if self._held_since is None:
            self._held_since = monotonic()
            _log.warning(
                "%s is unavailable (%s): its event logs wait",
                self.label,
                exc,
            )

    def _available(self) -> None:
        if self._held_since is not None:
            self._held_since = None
            _log.warning("%s is available again", self.label)

    def _wait_until_available(self) -> None:
        """
        Ask `probe` until it agrees, with a growing pause.
        """
        failures = 0
        while not self._stopping:
            failures += 1
            with eventlet.Timeout(retry_delay(failures), False):
                self._stop_wanted.wait()
                break
            try:
                if self.probe():
                    break
            except Exception:
                _log.debug("the probe of %s has failed", self.method_name, exc_info=True)
        self._held_since = None


event_log_handler = EventLogConsumer.decorator
