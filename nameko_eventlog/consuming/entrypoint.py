"""
`event_log_handler`: an entrypoint that receives event logs, one at a time or in batches.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from time import monotonic
from typing import Any

import eventlet
from eventlet.event import Event
from kombu import Exchange
from nameko.exceptions import ConfigurationError
from nameko.extensions import Entrypoint

from nameko_eventlog import compat
from nameko_eventlog.addresses import masked
from nameko_eventlog.amqp.route import ROUTING_KEY
from nameko_eventlog.consuming import QueueOptions, ReceivedMessage, options
from nameko_eventlog.consuming.batches import SKIPPED, retry_delay
from nameko_eventlog.consuming.calls import Calls
from nameko_eventlog.consuming.counts import ConsumerCounts, register, unregister
from nameko_eventlog.consuming.queues import lacks_fan_in
from nameko_eventlog.consuming.subscription import Subscription
from nameko_eventlog.consuming.turns import Turns
from nameko_eventlog.describing import describe_value


_log = logging.getLogger("nameko_eventlog")

_LONGEST_NAME = 255 - len(".dead-letters")


class EventLogConsumer(Entrypoint):
    """
    Fires with the event logs that reach its queue.

    Args:
        *services: The services whose event logs to consume; without any, those of all services,
            which needs a broker that binds exchanges to exchanges (RabbitMQ; not ``memory://``).
        event_types: The event types that the method wants; others are acknowledged without a
            call. None for all.
        batch_size: The maximum number of bodies in the list that the method gets; None to call it
            with one body.
        batch_seconds: How long to wait for a batch to fill.
        queue: The queue's name; default: ``eventlog-{service}.{method}``. Instances of the
            service compete for it.
        quorum: Whether it is a quorum queue. Only quorum queues count attempts across a crash.
        max_length: How many messages the queue holds, at most.
        expires: Seconds without a consumer after which the broker deletes the queue.
        prefetch: How many unacknowledged messages to hold, at most; default: twice the batch size,
            or the service's number of workers.
        max_attempts: How often to try the method before an event log becomes a dead letter, in the
            queue ``{queue}.dead-letters``.
        handler_timeout: The time limit of a call in seconds, after which it is killed and has
            failed; None for none. Keep it below RabbitMQ's ``consumer_timeout`` (30 minutes).
        fan_in_exchange: The exchange that brings the event logs of all services together.
        routing_key: The Nameko event type under which event logs travel.

    Raises:
        EventLogTypeError: A service is not a name.
        EventLogValueError: An option is out of range.

    .. versionadded:: 0.1.0
    """

    hold_seconds = 60.0
    """How long messages are held while the method is `Unavailable`."""

    max_deliveries: int
    """How often a message of a quorum queue may be delivered before it is handled alone."""

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
        routing_key: str = ROUTING_KEY,
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
        self.counts = ConsumerCounts()
        self._ended = Event()
        self._stop_wanted = Event()

    def setup(self) -> None:
        """
        Read the configuration.

        Raises:
            ConfigurationError: If all services are to be consumed and this broker cannot do that,
                or the queue's name is too long.
        """
        settings = compat.consumer_settings(self.container)
        self._accept = self.container.accept
        if not self.services and lacks_fan_in(settings.uri):
            raise ConfigurationError(
                f"event_log_handler() of {self.label} names no services, and"
                f" {masked(settings.uri)!r} has no fan-in exchange: name the services"
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
        self._turns = Turns(self, self._subscription, self._calls, self.counts)

    def _exchanges(self) -> tuple[Exchange, ...]:
        if not self.services:
            return (Exchange(self.fan_in_exchange, type="topic", durable=True),)
        return tuple(compat.event_exchange(self.container, name) for name in self.services)

    def start(self) -> None:
        """
        Begin consuming; if the broker is reachable, the queue is bound when this returns.
        """
        self._is_started = True
        register(self)
        self.container.spawn_managed_thread(self._run, identifier="event_log_handler")
        self._subscription.tried.wait()

    def stop(self) -> None:
        """
        Take no more event logs, and return when the running calls are settled.
        """
        self._stopping = True
        if not self._stop_wanted.ready():
            self._stop_wanted.send()
        if self._is_started:  # the service may have failed before
            self._subscription.wake()
            self._ended.wait()

    def kill(self) -> None:
        """
        End at once; unacknowledged messages go back to the queue.
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

        .. versionadded:: 0.1.0
        """
        counts, since = self.counts, self._turns.held_since
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
        Tell whether the method, which was `Unavailable`, might work now.
        """
        return True

    def read(self, message: ReceivedMessage) -> Any:
        """
        Return the method's argument for *message*, or `SKIPPED`.

        Raises:
            Exception: The message becomes a dead letter.
        """
        body = message.decode(self._accept)
        if not isinstance(body, Mapping):
            raise ValueError(f"the body must be a mapping, not {describe_value(body)}")
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
        self._turns.take(self._stopping)

    def _wait_until_available(self) -> None:
        """
        Call `probe` until it returns True, with growing pauses.
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
                _log.debug("%s: the probe failed", self.label, exc_info=True)
        self._turns.held_since = None


event_log_handler = EventLogConsumer.decorator
