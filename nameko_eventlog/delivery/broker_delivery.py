"""
Delivery for one service instance: the outbox, the relay, and what happens at their edges.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import weakref
from time import monotonic, time
from typing import Protocol

import eventlet
from eventlet.greenthread import GreenThread
from greenlet import GreenletExit

from logging_ext import forwarding
from nameko_eventlog.amqp.message import as_json
from nameko_eventlog.amqp.route import Route
from nameko_eventlog.amqp.settings import PublisherSettings
from nameko_eventlog.config import Config
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.marks import Marker, replay_secret
from nameko_eventlog.delivery.outbox import Ledger, Level, MemoryOutbox, Outbox
from nameko_eventlog.delivery.relay import Relay
from nameko_eventlog.delivery.spool.spooled_outbox import SpooledOutbox
from nameko_eventlog.delivery.waiting import HubThread, may_yield
from nameko_eventlog.exceptions import NotConfirmed


_log = logging.getLogger("nameko_eventlog")
SUMMARY_SECONDS = 60.0
"""How often the counts are logged while something waits, or was undelivered meanwhile."""

WATCH_SECONDS = 1.0
"""How often is looked whether the relay lives: a signal handler that raises may end it."""

HELD_UP_SECONDS = 1.0
"""How often is looked for what waits while something holds up the service's stop."""

ROOM_SECONDS = 2.0
"""For how long a log call yields at the most, so that there is room in the outbox."""

_undelivered = logging.getLogger("nameko_eventlog.undelivered")


class Delivery(Protocol):
    """
    What takes serialised event logs.
    """

    def accept(self, message: OutboxEntry) -> None:
        """
        Take *message*, without waiting; what cannot be kept is undelivered by name.
        """

    def deliver(self, message: OutboxEntry) -> None:
        """
        Take *message* and return when it is safe.

        Raises:
            NotConfirmed: If that is not so in ``confirm_timeout``.
        """

    def start(self) -> None:
        """
        Begin delivering; before, event logs wait.
        """

    def expect_stop(self, seconds: float) -> None:
        """
        Learn that `stop` is to come, when nothing in the service runs any more.

        Args:
            seconds: After how long what a lost process would take with it is undelivered by name,
                if `stop` has not come, and the broker is not well.
        """

    def stop(self, seconds: float) -> None:
        """
        Deliver what is left, for *seconds* at the most; the rest is undelivered by name.
        """

    def stats(self) -> dict[str, int]:
        """
        Return the counts.
        """


class BrokerDelivery:
    """
    Deliver to a broker, through an outbox in memory or on disk.

    Args:
        settings: How to connect and to publish.
        route: Where to publish.
        config: The dispatcher's configuration.
    """

    def __init__(self, settings: PublisherSettings, route: Route, config: Config) -> None:
        self._settings = settings
        self._route = route
        self._config = config
        self._home = HubThread()
        self._ledger = Ledger()
        self._identifiers = UUID7Generator()
        self._marker = Marker(replay_secret(config, settings.connection.uri))
        self._outbox = self._make_outbox()
        self.service = route.service
        self._closed: str | None = None
        self._full_logged: float | None = None  # when it was
        self._watcher: GreenThread | None = None
        self._expecting: GreenThread | None = None
        self._relay = Relay(
            outbox=self._outbox,
            ledger=self._ledger,
            settings=settings,
            route=route,
            identifiers=self._identifiers,
            undeliver=self._undeliver,
            confirm_timeout=config.confirm_timeout,
            unroutable=config.unroutable,
            most_aside=config.buffer_size,
            most_aside_bytes=config.buffer_bytes,
            home=self._home,
        )
        # looked up once: `accept` runs within every log call
        self._put = self._outbox.put
        self._notice = self._relay.notice
        _deliveries.add(self)

    @property
    def is_closed(self) -> bool:
        """
        Whether it has stopped.
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
        """
        Start the relay.
        """
        self._outbox.start()
        self._relay.start()
        if self._watcher is None:
            self._watcher = eventlet.spawn(self._watch)

    def accept(self, message: OutboxEntry) -> None:
        """
        Take *message*, without waiting; what cannot be kept is undelivered by name.
        """
        try:
            level = self._put(message)
        except Exception as exc:  # a signal handler's, maybe, and the message is kept
            if not self._outbox.holds(message):
                self._reject(message, f"it could not be kept: {exc!r}")
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
            finally:  # a timeout of the caller's, or its end, may come out of the waiting
                if self._put(message) is Level.FULL:
                    if self._closed is None:
                        self._log_full()
                    self._reject(message, self._closed or "the outbox is full")
                else:
                    self._notice()
        elif self._closed is None:
            self._notice()
            self._yield_to_relay()
        if self._closed is not None:  # maybe meanwhile, by another OS thread
            self._abort(self._outbox.close(), self._closed)

    def _yield_to_relay(self) -> None:
        """
        Give the relay a turn, if the running code can: one, or, close to full, a few.

        Those end after `ROOM_SECONDS`, whatever the broker does.
        """
        relay = self._relay
        relay.revive()
        if not (relay.is_running and self._home.can_wait() and may_yield()):
            return
        self._home.sleep(0)
        end = monotonic() + ROOM_SECONDS
        while relay.is_healthy and self._outbox.level >= Level.NEARLY_FULL and monotonic() < end:
            self._home.sleep(0.001)

    def deliver(self, message: OutboxEntry) -> None:
        """
        Take *message* and return when it is on disk, or when the broker has confirmed it.

        Raises:
            NotConfirmed: If that is not so in ``confirm_timeout``.
        """
        end = monotonic() + self._config.confirm_timeout
        waiter = message.waiter = self._home.waiter()
        try:
            self._put_in_time(message, end)
        except BaseException:  # a timeout of the caller's among them, before or after it is kept
            if waiter.take_back():
                self._outbox.withdraw(message)
            raise
        self._notice()
        if message.place is not None:
            return
        try:
            if waiter.wait(max(0.0, end - monotonic())):
                return
        except BaseException:  # a timeout of the caller's: nobody waits for it any more
            message.waiter = None
            raise
        if waiter.reason is not None:
            raise self._not_confirmed(message, waiter.sent, waiter.reason)
        reason = f"the broker did not confirm in {self._config.confirm_timeout} s"
        if not waiter.take_back():
            raise self._not_confirmed(message, True, reason)
        if self._outbox.withdraw(message):
            raise self._not_confirmed(message, False, reason)
        # it got onto the disk meanwhile

    def _put_in_time(self, message: OutboxEntry, end: float) -> None:
        while self._closed is not None or self._put(message) is Level.FULL:
            if self._closed is not None or monotonic() >= end:
                raise self._not_confirmed(message, False, self._closed or "the outbox is full")
            self._home.sleep(0.01)

    def _not_confirmed(self, message: OutboxEntry, sent: bool, reason: str) -> NotConfirmed:
        self._identify(message)
        return NotConfirmed(str(message.message_id), sent, reason)

    def expect_stop(self, seconds: float) -> None:
        """
        Learn that `stop` is to come, when nothing in the service runs any more.

        It may never come: a worker hangs, or the broker is away, for which Nameko's consumers
        wait. Then somebody will lose patience, and kill the process. What is on disk is safe from
        that.
        """
        if not self._home.is_here:
            return
        if self._expecting is not None:  # stopped, and then killed
            self._expecting.kill()
        self._expecting = eventlet.spawn(self._stop_in_time, seconds)

    def _stop_in_time(self, seconds: float) -> None:
        eventlet.sleep(seconds)
        while self._closed is None:
            if self._outbox.unpersisted_count and not self._relay.is_healthy:
                self._expecting = None  # it does not kill itself
                self._end(0, "the service is stopping, and the broker does not take it")
            else:
                eventlet.sleep(HELD_UP_SECONDS)

    def stop(self, seconds: float) -> None:
        """
        Publish what is left, for *seconds* at the most; the rest is undelivered by name.
        """
        self._end(seconds, "the service has stopped")

    def _end(self, seconds: float, reason: str) -> None:
        if self._closed is not None:
            self._abort(
                self._outbox.close(), self._closed
            )  # the first time was interrupted, maybe
            return
        for thread in (self._watcher, self._expecting):
            if thread is not None and self._home.is_here:
                thread.kill()
        self._relay.stop(seconds)
        if self._closed is not None:  # killed while it was stopping
            return
        self._closed = reason
        self._abort(self._outbox.close(), self._closed)
        self._say(self.stats())

    def interpreter_ends(self) -> None:
        """
        Stop, as nobody else has done it, for ``flush_timeout`` at the most.
        """
        self.stop(self._config.flush_timeout)

    def forked(self) -> None:
        """
        Leave to the parent what is the parent's: the outbox, and the connection.
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
        """
        Return the counts of this service instance, and of the process's ``not_forwarded``.
        """
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
        except BaseException:  # a signal handler's
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
                self._say(stats)
            undelivered = stats["undelivered"]

    def _say(self, stats: dict[str, int]) -> None:
        with contextlib.suppress(Exception):  # the service's handlers may fail
            _log.info(
                "event logs of %s: %s",
                self.service,
                ", ".join(f"{count} {name}" for name, count in stats.items()),
            )

    def _abort(self, messages: list[OutboxEntry], reason: str) -> None:
        """
        Undeliver what is left, but for what was not sent and whose caller waits to hear so.
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
        Log that the outbox is full, once a minute: each event log has a line of its own.
        """
        now = monotonic()
        if self._full_logged is not None and now < self._full_logged + SUMMARY_SECONDS:
            return
        self._full_logged = now
        keys = "buffer_size, buffer_bytes" if self._config.spool is None else "spool_max_bytes"
        was_suspended = forwarding.suspended.get()
        try:
            forwarding.suspended.set(True)
            with contextlib.suppress(Exception):  # the service's handlers may fail
                _log.warning(
                    "the outbox of %s is full (EVENTLOG_DISPATCHER: %s): what finds no room goes"
                    " to the logger nameko_eventlog.undelivered (logged once a minute)",
                    self.service,
                    keys,
                )
        finally:
            forwarding.suspended.set(was_suspended)

    def _reject(self, message: OutboxEntry, reason: str) -> None:
        """
        Undeliver a message that is not kept.
        """
        self._undeliver(message, reason)
        self._ledger.rejected.increment()

    def _undeliver(self, message: OutboxEntry, reason: str) -> None:
        """
        Put the whole message into the service's ordinary log, before it is counted.
        """
        self._identify(message)
        # what the handlers themselves log about it would be undelivered as well, and so on
        was_suspended = forwarding.suspended.get()
        try:
            forwarding.suspended.set(True)
            try:
                self._say_undelivered(message, reason)
            except Exception:  # a signal handler's, maybe: rather twice than not at all
                self._say_undelivered(message, reason)
        except Exception:
            with contextlib.suppress(Exception):
                _log.exception("a handler failed on an undelivered event log")
        finally:
            forwarding.suspended.set(was_suspended)

    def _say_undelivered(self, message: OutboxEntry, reason: str) -> None:
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


def process_stats() -> dict[str, dict[str, int]]:
    """
    Return the counts of each service that runs in this process, by its name.

    They are those of the injected callable's ``stats()``; several instances of one service are
    added up.

    .. versionadded:: 0.1.0
    """
    found: dict[str, dict[str, int]] = {}
    for delivery in list(_deliveries):
        if delivery.is_closed:
            continue
        stats = delivery.stats()
        known = found.setdefault(delivery.service, {})
        for name, count in stats.items():
            one_for_all = name in ("not_forwarded", "oldest_seconds")
            before = known.get(name, 0)
            known[name] = max(before, count) if one_for_all else before + count
    return found


_deliveries: weakref.WeakSet[BrokerDelivery] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for delivery in list(_deliveries):
        delivery.forked()


os.register_at_fork(after_in_child=_after_fork_in_child)


@atexit.register
def _at_exit() -> None:
    for delivery in list(_deliveries):
        with contextlib.suppress(Exception):  # the others have their turn as well
            delivery.interpreter_ends()
