"""
Delivery for one service instance: its outbox, its relay, and their start and end.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from time import monotonic, time
from typing import Protocol

import eventlet
from eventlet.greenthread import GreenThread
from greenlet import GreenletExit

from logging_ext import forwarding
from nameko_eventlog.amqp.broker import Broker
from nameko_eventlog.amqp.message import as_json
from nameko_eventlog.amqp.route import Route
from nameko_eventlog.amqp.settings import PublisherSettings
from nameko_eventlog.config import Config
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.marks import Marker, replay_secret
from nameko_eventlog.delivery.outbox import Ledger, Level, MemoryOutbox, Outbox
from nameko_eventlog.delivery.process import deliveries
from nameko_eventlog.delivery.relay import Relay
from nameko_eventlog.delivery.spool.spooled_outbox import SpooledOutbox
from nameko_eventlog.delivery.target import MakeTarget
from nameko_eventlog.delivery.waiting import HubThread, may_yield
from nameko_eventlog.exceptions import NotConfirmed


_log = logging.getLogger("nameko_eventlog")
SUMMARY_SECONDS = 60.0
"""How often the counts are logged while event logs wait, or after some were undelivered."""

WATCH_SECONDS = 1.0
"""How often the relay is checked: a signal handler that raises may end it."""

HELD_UP_SECONDS = 1.0
"""How often the outbox is checked while something delays the service's stop."""

ROOM_SECONDS = 2.0
"""The most seconds that a log call yields to the relay to make room in the outbox."""

UNDELIVERED_ATTEMPTS = 4
"""How often logging an undelivered event log is tried: a signal handler may interrupt it."""

_undelivered = logging.getLogger("nameko_eventlog.undelivered")


class Delivery(Protocol):
    """
    Delivers serialised event logs.
    """

    def accept(self, message: OutboxEntry) -> None:
        """
        Accept the message of a log call; if there is no room, log it as undelivered.

        It never raises an ``Exception``, and never waits for a confirm. With a spool it writes to
        a file. In a green thread it may yield to the relay: once after a hundred messages without
        a turn, once for each message while the outbox is more than half full, and for up to two
        seconds while it is nine tenths full and the broker confirms.
        """

    def deliver(self, message: OutboxEntry) -> None:
        """
        Accept *message*, and return when it is safe: written to the spool, or confirmed.

        Raises:
            NotConfirmed: It was not safe within ``confirm_timeout``.
        """

    def start(self) -> None:
        """
        Begin to deliver. Event logs accepted earlier wait until then.
        """

    def expect_stop(self, seconds: float) -> None:
        """
        Prepare for `stop`, which the container calls after all workers have ended.

        Args:
            seconds: If `stop` was not called after so many seconds, and the broker does not
                confirm, the event logs that would be lost with the process are logged
                individually as undelivered.
        """

    def stop(self, seconds: float) -> None:
        """
        Deliver the rest, within *seconds*; log the remaining ones as undelivered.
        """

    def stats(self) -> dict[str, int]:
        """
        Return the counts of this service instance, and ``not_forwarded`` of the process.
        """


class BrokerDelivery:
    """
    Deliver to a broker, through an outbox in memory or on disk.

    `Delivery` describes the methods.

    Args:
        settings: How to connect and to publish.
        route: Where to publish.
        config: The dispatcher's configuration.
        make_target: Makes what the relay publishes to, if that is not a broker.
    """

    def __init__(
        self,
        settings: PublisherSettings,
        route: Route,
        config: Config,
        make_target: MakeTarget | None = None,
    ) -> None:
        self._settings = settings
        self._route = route
        self._config = config
        self._hub_thread = HubThread()
        self._ledger = Ledger()
        self._identifiers = UUID7Generator()
        self._marker = Marker(replay_secret(config, settings.connection.uri))
        self._outbox = self._make_outbox()
        self.service = route.service
        self._closed: str | None = None
        self._full_logged: float | None = None  # when the warning was last logged
        self._watcher: GreenThread | None = None
        self._expecting: GreenThread | None = None
        self._relay = Relay(
            outbox=self._outbox,
            ledger=self._ledger,
            make_target=make_target or functools.partial(Broker, settings, route),
            service=route.service,
            identifiers=self._identifiers,
            undeliver=self._undeliver,
            confirm_timeout=config.confirm_timeout,
            unroutable=config.unroutable,
            most_aside=config.buffer_size,
            most_aside_bytes=config.buffer_bytes,
            hub_thread=self._hub_thread,
        )
        # looked up once, because every log call uses them
        self._put = self._outbox.put
        self._notice = self._relay.notice
        deliveries.add(self)

    @property
    def is_closed(self) -> bool:
        """
        Whether delivery has stopped.
        """
        return self._closed is not None

    def _make_outbox(self) -> Outbox:
        config = self._config
        if config.spool is None:
            return MemoryOutbox(config.buffer_size, config.buffer_bytes, self._ledger)
        return SpooledOutbox(
            config.spool,
            self._route.service,
            config.buffer_size,
            config.buffer_bytes,
            config.spool_max_bytes,
            self._identify,
            self._ledger,
        )

    def _identify(self, message: OutboxEntry) -> None:
        if message.message_id is None:
            message.message_id = self._identifiers.make(message.timestamp)

    def start(self) -> None:
        self._outbox.start()
        self._relay.start()
        if self._watcher is None:
            self._watcher = eventlet.spawn(self._watch)

    def accept(self, message: OutboxEntry) -> None:
        try:
            level = self._put(message)
        except Exception as exc:  # a signal handler may have raised after the message was stored
            if not self._outbox.holds(message):
                self._reject(message, f"the outbox could not store it: {exc!r}")
            return
        if level or self._closed is not None:
            self._accept_when_congested(message, level)
        else:
            self._notice()

    def _accept_when_congested(self, message: OutboxEntry, level: Level) -> None:
        if level is Level.FULL:
            try:
                if self._closed is None:
                    self._yield_to_relay()
            finally:  # the caller's timeout, or a kill, may be raised while it yields
                if self._put(message) is Level.FULL:
                    if self._closed is None:
                        self._log_full()
                    self._reject(message, self._closed or "the outbox is full")
                else:
                    self._notice()
        elif self._closed is None:
            self._notice()
            self._yield_to_relay()
        if self._closed is not None:  # another OS thread may have closed it meanwhile
            self._abort(self._outbox.close(), self._closed)

    def _yield_to_relay(self) -> None:
        """
        Yield to the relay, if the running code can.

        It yields once or, if the outbox is nearly full, until it has room, but no longer than
        `ROOM_SECONDS`.
        """
        relay = self._relay
        relay.revive()
        if not (relay.is_running and self._hub_thread.can_wait() and may_yield()):
            return
        self._hub_thread.sleep(0)
        end = monotonic() + ROOM_SECONDS
        while relay.is_healthy and self._outbox.level >= Level.NEARLY_FULL and monotonic() < end:
            self._hub_thread.sleep(0.001)

    def deliver(self, message: OutboxEntry) -> None:
        end = monotonic() + self._config.confirm_timeout
        waiter = message.waiter = self._hub_thread.waiter()
        try:
            self._put_in_time(message, end)
        except BaseException:  # such as the caller's timeout, before or after it was stored
            if waiter.take_back():
                self._outbox.withdraw(message)
            raise
        self._notice()
        if message.place is not None:
            return
        try:
            if waiter.wait(max(0.0, end - monotonic())):
                return
        except BaseException:  # such as the caller's timeout: it does not wait any more
            message.waiter = None
            raise
        if waiter.reason is not None:
            raise self._not_confirmed(message, waiter.sent, waiter.reason)
        reason = f"the broker did not confirm within {self._config.confirm_timeout} s"
        if not waiter.take_back():
            raise self._not_confirmed(message, True, reason)
        if self._outbox.withdraw(message):
            raise self._not_confirmed(message, False, reason)
        # it was written to the spool meanwhile

    def _put_in_time(self, message: OutboxEntry, end: float) -> None:
        while self._closed is not None or self._put(message) is Level.FULL:
            if self._closed is not None or monotonic() >= end:
                raise self._not_confirmed(message, False, self._closed or "the outbox is full")
            self._hub_thread.sleep(0.01)

    def _not_confirmed(self, message: OutboxEntry, sent: bool, reason: str) -> NotConfirmed:
        self._identify(message)
        return NotConfirmed(str(message.message_id), sent, reason)

    def expect_stop(self, seconds: float) -> None:
        # `stop` may never be called: a worker hangs, or Nameko's consumers wait for the broker.
        # Then somebody will kill the process. The spool survives that, memory does not.
        if not self._hub_thread.is_here:
            return
        if self._expecting is not None:  # the container was stopped, and then killed
            self._expecting.kill()
        self._expecting = eventlet.spawn(self._stop_in_time, seconds)

    def _stop_in_time(self, seconds: float) -> None:
        eventlet.sleep(seconds)
        while self._closed is None:
            if self._outbox.unpersisted_count and not self._relay.is_healthy:
                self._expecting = None  # it does not kill itself
                self._end(0, "the service is stopping, and the broker does not confirm")
            else:
                eventlet.sleep(HELD_UP_SECONDS)

    def stop(self, seconds: float) -> None:
        self._end(seconds, "the service has stopped")

    def _end(self, seconds: float, reason: str) -> None:
        if self._closed is not None:
            self._abort(self._outbox.close(), self._closed)  # if the first call was interrupted
            return
        for thread in (self._watcher, self._expecting):
            if thread is not None and self._hub_thread.is_here:
                thread.kill()
        self._relay.stop(seconds)
        if self._closed is not None:  # killed while stopping
            return
        self._closed = reason
        self._abort(self._outbox.close(), self._closed)
        self._log_counts(self.stats())

    def interpreter_ends(self) -> None:
        """
        Stop within ``flush_timeout``, because nothing else has stopped it.
        """
        self.stop(self._config.flush_timeout)

    def forked(self) -> None:
        """
        In a forked child, leave the outbox and the connection to the parent.
        """
        if self._closed is None:
            self._closed = "a forked child has no relay"
        self._ledger = Ledger()
        self._outbox.abandon()
        self._outbox = MemoryOutbox(
            self._config.buffer_size, self._config.buffer_bytes, self._ledger
        )
        self._put = self._outbox.put
        self._identifiers.reseed()
        self._relay.abandon()

    def stats(self) -> dict[str, int]:
        self._relay.revive()
        oldest = self._outbox.oldest
        return {
            **self._ledger.stats(),
            "refused": self._relay.refused,
            "not_forwarded": forwarding.not_forwarded.value,
            "oldest_seconds": 0 if oldest is None else max(0, int(time() - oldest.timestamp)),
            "reconnects": max(0, self._relay.connections - 1),
            "blocked_seconds": int(self._relay.blocked_seconds),
            "unpersisted_count": self._outbox.unpersisted_count,
            "stalled_seconds": int(self._outbox.stalled_seconds),
        }

    def _watch(self) -> None:
        try:
            self._look_and_summarize()
        except GreenletExit:
            pass
        except BaseException:  # raised by a signal handler
            self._watcher = eventlet.spawn(self._watch)
            raise

    def _look_and_summarize(self) -> None:
        undelivered = 0
        while self._closed is None:
            due = monotonic() + SUMMARY_SECONDS
            while self._closed is None and (left := due - monotonic()) > 0:
                eventlet.sleep(min(left, WATCH_SECONDS))
                self._relay.revive()
            stats = self.stats()
            if stats["waiting"] or stats["undelivered"] > undelivered:
                self._log_counts(stats)
            undelivered = stats["undelivered"]

    def _log_counts(self, stats: dict[str, int]) -> None:
        with contextlib.suppress(Exception):  # the service's handlers may raise
            _log.info(
                "event logs of %s: %s",
                self.service,
                ", ".join(f"{count} {name}" for name, count in stats.items()),
            )

    def _abort(self, messages: list[OutboxEntry], reason: str) -> None:
        """
        Log *messages* as undelivered, except unsent ones whose callers get `NotConfirmed`.
        """
        for message in messages:
            waiter = message.waiter
            if waiter is not None and not message.was_sent:
                self._outbox.settle(message, self._ledger.withdrawn)
                waiter.fail(reason, False)
                continue
            self._undeliver(message, reason)
            self._outbox.settle(message, self._ledger.undelivered)
            if waiter is not None:
                waiter.fail(reason, True)

    def _log_full(self) -> None:
        """
        Log that the outbox is full, once a minute. Each event log is logged individually as well.
        """
        now = monotonic()
        if self._full_logged is not None and now < self._full_logged + SUMMARY_SECONDS:
            return
        self._full_logged = now
        keys = "buffer_size, buffer_bytes" if self._config.spool is None else "spool_max_bytes"
        was_suspended = forwarding.suspended.get()
        try:
            forwarding.suspended.set(True)
            with contextlib.suppress(Exception):  # the service's handlers may raise
                _log.warning(
                    "outbox full (service %s; EVENTLOG_DISPATCHER: %s); event logs without room"
                    " are logged to nameko_eventlog.undelivered (logged once a minute)",
                    self.service,
                    keys,
                )
        finally:
            forwarding.suspended.set(was_suspended)

    def _reject(self, message: OutboxEntry, reason: str) -> None:
        """
        Log a message that is not stored as undelivered, and count it.
        """
        self._undeliver(message, reason)
        self._ledger.rejected.increment()

    def _undeliver(self, message: OutboxEntry, reason: str) -> None:
        """
        Log the whole message as undelivered. The caller counts it after that.
        """
        # records that the handlers log meanwhile could be undelivered too, and so on
        was_suspended = forwarding.suspended.get()
        try:
            for attempt in range(1, UNDELIVERED_ATTEMPTS + 1):
                try:
                    forwarding.suspended.set(True)
                    self._identify(message)
                    self._log_undelivered(message, reason)
                except Exception:  # maybe raised by a signal handler: better twice than never
                    if attempt == UNDELIVERED_ATTEMPTS:
                        raise
                else:
                    return
        except Exception:
            with contextlib.suppress(Exception):
                _log.exception("a log handler raised on an undelivered event log")
        finally:
            forwarding.suspended.set(was_suspended)

    def _log_undelivered(self, message: OutboxEntry, reason: str) -> None:
        _undelivered.error("%s", self._as_json(message, reason), extra={"reason": reason})

    def _as_json(self, message: OutboxEntry, reason: str) -> str:
        route = self._route
        return as_json(
            message,
            self._settings,
            route.service,
            route.exchange.name,
            route.routing_key,
            reason,
            self._marker.mark,
        )
