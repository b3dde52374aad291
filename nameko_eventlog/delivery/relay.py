"""
The green thread that publishes the outbox and waits for the broker's confirms.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import eventlet
from eventlet.event import Event
from eventlet.greenthread import GreenThread
from greenlet import GreenletExit

from logging_ext import forwarding
from nameko_eventlog.addresses import masked_text
from nameko_eventlog.amqp.broker import Broker, BrokerTimeout, blames_message
from nameko_eventlog.amqp.route import Route
from nameko_eventlog.amqp.settings import PublisherSettings
from nameko_eventlog.backoff import backoff
from nameko_eventlog.delivery.changes import Changes
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.in_flight import FIRST_BACKOFF, LAST_BACKOFF, InFlight
from nameko_eventlog.delivery.interrupt import interrupt
from nameko_eventlog.delivery.outbox import Ledger, Outbox, claimed
from nameko_eventlog.delivery.waiting import HubThread, Notifier


BATCH = 100
"""Messages written before others get their turn."""

ACKS = 50
"""Methods read from the broker before others get their turn."""

LOOK = 0.1
"""Seconds between looks into the outbox, since an OS thread cannot wake the relay."""

PATIENCE = 1.0
"""Seconds without a confirm after which the broker does not count as well any more."""

LONGEST_PATIENCE = 600.0
"""
Seconds that the broker gets for confirming at the most, when ``confirm_timeout`` is too short.
"""

PROBE = 1.0
"""Seconds between two messages that tell whether a queue takes event logs."""

DECLARE = 10.0
"""Seconds after which what event logs are published to is declared again."""

OVERDUE = 1.0
"""Seconds after which the relay is woken that a lost timer has not woken."""


class Relay:
    """
    Publish what is in the outbox, first in, first out, and settle what is confirmed.

    Args:
        outbox: What to publish.
        ledger: Where to count what becomes of it.
        settings: How to connect and to publish.
        route: Where to publish.
        identifiers: Makes the message ids.
        undeliver: Called with a message that cannot be delivered, and why.
        confirm_timeout: Seconds that the broker has for confirming.
        unroutable: What to do when no queue takes the event logs: ``ignore``, ``warn`` or
            ``hold``.
        most_aside: How many refused messages may wait aside before no new ones are published.
        most_aside_bytes: How many bytes of bodies.
        home: The OS thread that it runs in.
    """

    notice: Callable[[], None]
    """Learn that the outbox has something; from another OS thread this takes a look's time."""

    def __init__(
        self,
        outbox: Outbox,
        ledger: Ledger,
        settings: PublisherSettings,
        route: Route,
        identifiers: UUID7Generator,
        undeliver: Callable[[OutboxEntry, str], None],
        confirm_timeout: float,
        unroutable: str,
        most_aside: int,
        most_aside_bytes: int,
        home: HubThread,
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._broker = Broker(settings, route, self._answered, self._returned)
        self._identifiers = identifiers
        self._undeliver = undeliver
        self._confirm_timeout = confirm_timeout
        self._warn_unroutable = unroutable == "warn"
        self._hold_unroutable = unroutable == "hold"
        self._home = home
        self._bell = Notifier(home)
        self.notice = self._bell.ring
        self._flight = InFlight(most_aside, most_aside_bytes)
        self._confirmed: list[OutboxEntry] = []  # and not yet settled
        self._thread: GreenThread | None = None
        self._stopping = False
        self._abandoned = False
        self._finished = Event()
        self._failures = 0  # sessions that ended with nothing confirmed, in a row
        self._changes = Changes(
            route.service, lambda: self._broker.address, lambda: self._outbox.waiting
        )
        self.connections = 0  # how many there have been
        self._confirmed_at = 0.0  # when something last was, or could be
        self._well_at = 0.0
        self._probe: int | None = None
        self._probed_at = 0.0
        self._probe_returned = False
        self._returned_ids: set[str] = set()
        self._refused_at = 0.0
        self._declared_at = 0.0
        self._patience = confirm_timeout  # with the broker
        self._longest_wait = 0.0  # for a confirm, while that is longer than confirm_timeout
        self._long_wait_at = 0.0

    # -- for others

    def start(self) -> None:
        """
        Begin publishing.
        """
        if self._thread is None:
            interrupt.acquire(self)
            self._well_at = monotonic()  # connecting takes a moment
            self._thread = eventlet.spawn(self._run)

    def revive(self) -> None:
        """
        Begin again if the green thread has ended, or sleeps on: a signal handler raised there.
        """
        thread = self._thread
        if thread is None or self._finished.ready() or self._abandoned or not self._home.is_here:
            return
        if thread.dead:
            self._thread = eventlet.spawn(self._run)
        else:
            self._bell.wake_overdue(OVERDUE)

    @property
    def is_running(self) -> bool:
        """
        Whether a turn is of use to the relay.
        """
        return self._thread is not None and not self._abandoned

    @property
    def _is_held(self) -> bool:
        return self._hold_unroutable and self._changes.is_unroutable

    @property
    def is_healthy(self) -> bool:
        """
        Whether the broker is well, so that waiting for a moment makes room in the outbox.
        """
        return (
            not self._changes.is_blocked
            and not self._is_held
            and monotonic() - self._well_at < PATIENCE
        )

    def stop(self, seconds: float) -> None:
        """
        Publish what is left, for *seconds* at the most, and end.

        From another OS thread than the relay's, nothing more is published: nobody there can
        wait for it.
        """
        self._stopping = True
        self._bell.ring()
        if self._thread is not None and self._home.is_here:
            self._flight.retry_soon()
            end = monotonic() + seconds
            while not self._finished.ready():
                left = end - monotonic()
                self._finished.wait(timeout=max(0.0, min(left, OVERDUE)))
                if left <= 0:
                    break
                self.revive()
            self._thread.kill()
            interrupt.release(self)

    @property
    def blocked_seconds(self) -> float:
        """
        For how long an alarm of the broker's has kept it from publishing.
        """
        return self._broker.blocked_seconds

    @property
    def refused(self) -> int:
        """
        How many the broker has refused, and has not taken since.
        """
        return self._flight.refused

    def abandon(self) -> None:
        """
        Publish no more, in a forked child: the connection is the parent's.
        """
        self._abandoned = True
        interrupt.release(self)
        self._broker.abandon()

    # -- the green thread

    def _run(self) -> None:
        goes_on = False
        try:
            forwarding.suspended.set(True)  # in this green thread's own context
            while not self._is_done():
                try:
                    try:
                        self._session()
                    except self._broker.errors as exc:
                        self._lose(exc)
                except Exception as exc:
                    self._fail(exc)
                if not self._is_done():
                    self._pause()
        except GreenletExit:
            pass
        except BaseException:
            # what a signal handler raises comes out of whichever green thread happens to run;
            # the outbox is still to be delivered
            goes_on = True
            self._thread = eventlet.spawn(self._run)
            raise
        finally:
            self._broker.close(orderly=False)
            if not goes_on and not self._finished.ready():
                self._finished.send(None)

    def _is_done(self) -> bool:
        return self._abandoned or (self._stopping and not self._outbox.waiting)

    def _pause(self) -> None:
        self._failures += 1
        end = monotonic() + backoff(self._failures, FIRST_BACKOFF, LAST_BACKOFF)
        while (left := end - monotonic()) > 0 and not self._is_done():
            eventlet.sleep(min(left, LOOK))
            if self._stopping:  # there is little time left
                break

    def _session(self) -> None:
        """
        Connect, and publish until there is nothing left to do.
        """
        # whatever has ended the last one, and wherever: the outbox knows what was taken
        self._settle()
        kept = claimed(list(self._outbox.taken), self._outbox, self._ledger.withdrawn)
        self._flight.restore(kept, monotonic())
        self._broker.open()
        self.connections += 1
        if self._is_done():
            return
        self._confirmed_at = self._declared_at = heartbeat_at = monotonic()
        self._long_wait_at = self._confirmed_at  # connecting says nothing of confirms
        self._changes.is_blocked = False
        self._probe = None
        self._probe_returned = False
        self._returned_ids.clear()
        self._longest_wait = 0.0
        while not self._is_done():
            self._changes.blocked(self._broker.blocked_since is not None)
            sent = not self._changes.is_blocked and self._publish()
            # half of what is on its way: who waited for it goes on while the broker is busy
            # with the other half
            limit = min(ACKS, self._flight.sent // 2 + 1)
            try:
                read = self._broker.read(limit)
            finally:
                self._settle()
            now = monotonic()
            if now - heartbeat_at >= 1:
                self._broker.check_heartbeat()
                heartbeat_at = now
                self._declare(now)
                self._check_refusals(now)
            self._check_confirms(now)
            if self._changes.is_lost and not self._outbox.waiting:
                self._changes.found()
            if read == limit or ((sent or read) and self._has_more_to_send(now)):
                eventlet.sleep(0)
            else:
                self._bell.wait(LOOK, self._broker.socket)
        self._broker.close(orderly=True)

    def _has_more_to_send(self, now: float) -> bool:
        flight = self._flight
        if self._changes.is_blocked or flight.is_full or self._is_held:
            return False
        waiting = self._outbox.waiting - flight.sent - flight.aside
        return (waiting > 0 and not flight.is_aside_full) or flight.may_retry(now)

    def _publish(self) -> bool:
        """
        Write the next batch, and tell whether there was one.
        """
        now, limit = monotonic(), BATCH
        if self._is_held:
            if self._flight.sent or now - self._probed_at < PROBE:
                return False
            # those that were returned, in their order, before the rest
            self._flight.restore(list(self._outbox.taken), now)
            self._probed_at = now
            self._declare(now, at_once=True)
            limit = 1
        batch = self._flight.next(limit, now, self._outbox.take)
        if not batch:
            return False
        try:
            with (
                eventlet.Timeout(self._patience, BrokerTimeout("writing timed out")),
                self._broker.batch(),
            ):
                for message in batch:
                    if self._flight.is_full:
                        break
                    self._send(message)
        except BrokerTimeout:
            self._wait_longer()
            raise
        self._settle()
        return True

    def _send(self, message: OutboxEntry) -> None:
        """
        Send *message*, the first of the next.
        """
        if message.message_id is None:
            message.message_id = self._identifiers.make(message.timestamp)
        if message.was_sent:
            self._ledger.republished.increment()
        message.was_sent = self._broker.confirms
        now = monotonic()
        is_probe = self._warn_unroutable and self._probe is None and now - self._probed_at >= PROBE
        tag = self._broker.next_tag
        self._flight.send(tag, now)
        try:
            self._broker.publish(message, is_probe or self._hold_unroutable)
        except self._broker.transient_errors:
            raise
        except Exception as exc:
            # a signal handler's says nothing against the message, which can be encoded
            message.failures += 1
            blamed = message.failures > 2 or self._broker.is_above_a_frame(message)
            if not (blamed and self._broker.is_open):
                raise
            self._flight.confirm(tag)
            self._give_up(message, f"it cannot be encoded: {exc!r}", sent=False)
            return
        if not self._broker.confirms:
            self._answered(tag, False, True)
        elif is_probe:
            self._probe = tag
            self._probed_at = now

    def _declare(self, now: float, at_once: bool = False) -> None:
        """
        Declare what event logs are published to, if it is time: somebody may have deleted it.
        """
        if not self._changes.is_blocked and (at_once or now - self._declared_at >= DECLARE):
            self._declared_at = now
            self._broker.declare()

    def _check_confirms(self, now: float) -> None:
        sent_at = self._flight.sent_at
        if self._flight.refused:  # what is sent again and again makes no room
            self._well_at = self._confirmed_at
        elif sent_at is None:
            self._well_at = now
        else:
            self._well_at = max(sent_at, self._confirmed_at)
        if sent_at is None or self._changes.is_blocked:
            return
        # the clock of the oldest; what others are confirmed meanwhile does not wind it up
        waited = now - max(sent_at, self._broker.unblocked_at)
        if waited > self._confirm_timeout:
            self._longest_wait = max(self._longest_wait, waited)
            self._long_wait_at = now
            if waited > self._patience:
                timeout = BrokerTimeout(f"no confirm in {self._patience} s")
                self._wait_longer()
                raise timeout
        elif self._patience > self._confirm_timeout:
            self._wait_shorter(now)

    def _wait_longer(self) -> None:
        """
        Give the broker more time on the next connection: its confirms may all take so long.

        Publishing again each time before they come would never end.
        """
        most = max(LONGEST_PATIENCE, self._confirm_timeout)
        self._patience = min(self._patience * 2, most)

    def _wait_shorter(self, now: float) -> None:
        """
        Go back to ``confirm_timeout`` when confirms have come in time for long enough.
        """
        if now - self._long_wait_at > 10 * self._patience:
            self._patience = self._confirm_timeout
            self._longest_wait = 0.0
            self._changes.quick()

    def _check_refusals(self, now: float) -> None:
        flight = self._flight
        self._changes.aside(flight.is_aside_full, flight.refused)
        if not flight.refused and now - self._refused_at > LAST_BACKOFF:
            self._changes.taking()

    # -- what the broker says

    def _answered(self, tag: int, multiple: bool, taken: bool) -> None:
        """
        Learn what became of a message, or of all up to it.
        """
        if self._probe is not None and (tag == self._probe or (multiple and tag > self._probe)):
            self._probe = None
            if self._changes.routed(not self._probe_returned, is_held=False):
                self._declare(monotonic(), at_once=True)
            self._probe_returned = False
        messages = self._flight.confirm(tag, multiple, taken)
        if taken:
            self._confirmed += messages
        else:
            self._refuse(messages, monotonic())

    def _settle(self) -> None:
        """
        Settle what was confirmed, all that was read at once.
        """
        messages = self._confirmed
        if not messages:
            return
        self._confirmed_at = monotonic()
        self._failures = 0
        if self._hold_unroutable:
            messages = self._routed(messages)
        for message in messages:
            if message.waiter is not None:  # before it is settled: rather twice than not at all
                message.waiter.confirm()
        self._outbox.settle_all(messages, self._ledger.confirmed)
        self._confirmed = []
        self._changes.found()
        if self._longest_wait:
            self._changes.slow(self._longest_wait, self._patience, self._confirm_timeout)

    def _routed(self, messages: list[OutboxEntry]) -> list[OutboxEntry]:
        """
        Return those that a queue has taken; the others wait to be sent again.
        """
        routed = messages
        if self._returned_ids:
            routed = [one for one in messages if one.message_id not in self._returned_ids]
            returned = [one for one in messages if one.message_id in self._returned_ids]
            self._flight.send_again(returned)
            self._returned_ids.difference_update(one.message_id or "" for one in returned)
        if messages:
            self._changes.routed(len(routed) == len(messages), is_held=True)
        return routed

    def _refuse(self, messages: list[OutboxEntry], now: float) -> None:
        """
        Keep what the broker refuses aside, and say so if it does that again.
        """
        self._refused_at = now
        is_again = any(message.refusals for message in messages)
        for message in messages:
            self._flight.refuse(message, now)
            self._returned_ids.discard(message.message_id or "")
        if is_again:
            self._changes.refusing(self._flight.refused)

    def _returned(self, message_id: str) -> None:
        self._probe_returned = True
        if self._hold_unroutable:
            self._returned_ids.add(message_id)

    def _lose(self, exc: BaseException) -> None:
        """
        Get ready for the next connection, after this one, or the attempt at it, was lost.
        """
        self._broker.close(orderly=False)
        blamed = blames_message(exc)
        lost = self._flight.lose(alone=blamed)
        if blamed and len(lost) == 1:
            lost[0].failures += 1
        for message in lost:
            if message.failures >= 2 or self._broker.is_above_a_frame(message):
                self._give_up(
                    message, f"the broker does not take it: {masked_text(str(exc))}", sent=True
                )
        self._changes.lost(exc)

    def _fail(self, exc: Exception) -> None:
        """
        Get ready to start again after an error of our own.
        """
        self._broker.close(orderly=False)
        self._flight.lose(alone=False)
        self._changes.failed(exc)

    def _give_up(self, message: OutboxEntry, reason: str, sent: bool) -> None:
        self._undeliver(message, reason)  # rather twice than not at all
        self._outbox.settle(message, self._ledger.undelivered)
        if message.waiter is not None:
            message.waiter.fail(reason, sent)
