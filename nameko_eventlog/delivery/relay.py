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
from nameko_eventlog.amqp.broker import BrokerTimeout, blames_message
from nameko_eventlog.backoff import backoff
from nameko_eventlog.delivery.changes import Changes
from nameko_eventlog.delivery.entry import OutboxEntry
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.in_flight import FIRST_BACKOFF, LAST_BACKOFF, InFlight
from nameko_eventlog.delivery.interrupt import interrupt
from nameko_eventlog.delivery.outbox import Ledger, Outbox, claimed
from nameko_eventlog.delivery.patience import Patience
from nameko_eventlog.delivery.target import MakeTarget
from nameko_eventlog.delivery.unroutable import Unroutable
from nameko_eventlog.delivery.waiting import HubThread, Notifier


BATCH = 100
"""Messages written before other green threads run."""

ACKS = 50
"""AMQP methods read before other green threads run."""

LOOK = 0.1
"""Seconds between checks of the outbox, because an OS thread cannot wake the relay."""

PATIENCE = 1.0
"""Seconds without a confirm after which the broker no longer counts as healthy."""

DECLARE = 10.0
"""Seconds between repeated declarations of the exchanges and bindings."""

OVERDUE = 1.0
"""Seconds after which the relay is woken if its timer was lost."""


class Relay:
    """
    Publish the messages of the outbox, first in, first out, and settle those that are confirmed.

    Args:
        outbox: The outbox.
        ledger: Counts the outcomes.
        make_target: Makes what it publishes to.
        service: The service's name, for log lines.
        identifiers: Makes the message ids.
        undeliver: Called with a message that cannot be delivered, and the reason.
        confirm_timeout: Seconds that the broker has to confirm.
        unroutable: What to do when no queue receives the event logs: ``ignore``, ``warn`` or
            ``hold``.
        most_aside: The most refused messages that wait aside; then no new ones are published.
        most_aside_bytes: The same in bytes of bodies.
        hub_thread: The OS thread that the relay runs in.
    """

    notice: Callable[[], None]
    """
    Tell the relay that the outbox has a message.

    Another OS thread cannot wake the relay, which checks the outbox every `LOOK` seconds.
    """

    def __init__(
        self,
        outbox: Outbox,
        ledger: Ledger,
        make_target: MakeTarget,
        service: str,
        identifiers: UUID7Generator,
        undeliver: Callable[[OutboxEntry, str], None],
        confirm_timeout: float,
        unroutable: str,
        most_aside: int,
        most_aside_bytes: int,
        hub_thread: HubThread,
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._identifiers = identifiers
        self._undeliver = undeliver
        self._hub_thread = hub_thread
        self._notifier = Notifier(hub_thread)
        self.notice = self._notifier.notify
        self._in_flight = InFlight(most_aside, most_aside_bytes)
        self._confirmed: list[OutboxEntry] = []  # and not yet settled
        self._thread: GreenThread | None = None
        self._stopping = False
        self._abandoned = False
        self._finished = Event()
        self._failures = 0  # sessions that ended with nothing confirmed, in a row
        self._changes = Changes(
            service, lambda: self._target.address, lambda: self._outbox.waiting
        )
        self.connections = 0  # how many were opened
        self._confirmed_at = 0.0  # when a confirm last arrived, or the connection was opened
        self._healthy_at = 0.0
        self._refused_at = 0.0
        self._declared_at = 0.0
        self._patience = Patience(confirm_timeout, self._changes)
        self._unroutable = Unroutable(unroutable, self._changes)
        self._target = make_target(self._answered, self._unroutable.returned)

    # -- called by BrokerDelivery

    def start(self) -> None:
        """
        Begin publishing.
        """
        if self._thread is None:
            interrupt.acquire(self)
            self._healthy_at = monotonic()  # until the first connection is made
            self._thread = eventlet.spawn(self._run)

    def revive(self) -> None:
        """
        Restart the green thread if a signal handler that raised has ended it, or lost its timer.
        """
        thread = self._thread
        if thread is None or not self._hub_thread.is_here:
            return
        if self._finished.ready() or self._abandoned:
            return
        if thread.dead:
            self._thread = eventlet.spawn(self._run)
        else:
            self._notifier.wake_overdue(OVERDUE)

    @property
    def is_running(self) -> bool:
        """
        Whether the relay publishes when the caller yields.
        """
        return self._thread is not None and not self._abandoned

    @property
    def is_healthy(self) -> bool:
        """
        Whether the broker confirms, so that waiting for a moment makes room in the outbox.
        """
        return (
            not self._changes.is_blocked
            and not self._unroutable.is_held
            and monotonic() - self._healthy_at < PATIENCE
        )

    def stop(self, seconds: float) -> None:
        """
        Publish the rest, within *seconds*, and end.

        Called from another OS thread it publishes nothing more, because that thread cannot wait
        for the relay.
        """
        self._stopping = True
        self._notifier.notify()
        if self._thread is not None and self._hub_thread.is_here:
            self._in_flight.retry_soon()
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
        How many seconds the broker's alarms have blocked publishing.
        """
        return self._target.blocked_seconds

    @property
    def refused(self) -> int:
        """
        How many messages the broker has refused and not accepted since.
        """
        return self._in_flight.refused

    def abandon(self) -> None:
        """
        Stop publishing in a forked child: the connection belongs to the parent.
        """
        self._abandoned = True
        interrupt.release(self)
        self._target.abandon()

    # -- the green thread

    def _run(self) -> None:
        is_restarted = False
        try:
            forwarding.suspended.set(True)  # in this green thread's own context
            while not self._is_done():
                try:
                    try:
                        self._session()
                    except self._target.errors as exc:
                        self._lose(exc)
                except Exception as exc:
                    self._fail(exc)
                if not self._is_done():
                    self._pause()
        except GreenletExit:
            pass
        except BaseException:
            # a signal handler's exception is raised in whichever green thread is running;
            # the outbox must still be delivered
            is_restarted = True
            self._thread = eventlet.spawn(self._run)
            raise
        finally:
            self._target.close(orderly=False)
            if not is_restarted and not self._finished.ready():
                self._finished.send(None)

    def _is_done(self) -> bool:
        return self._abandoned or (self._stopping and not self._outbox.waiting)

    def _pause(self) -> None:
        self._failures += 1
        end = monotonic() + backoff(self._failures, FIRST_BACKOFF, LAST_BACKOFF)
        while (left := end - monotonic()) > 0 and not self._is_done():
            eventlet.sleep(min(left, LOOK))
            if self._stopping:  # try once more at once
                break

    def _session(self) -> None:
        """
        Connect, and publish until there is nothing left to do.
        """
        # however the last session ended, the outbox knows which messages were taken
        self._settle()
        kept = claimed(list(self._outbox.taken), self._outbox, self._ledger.withdrawn)
        self._in_flight.restore(kept, monotonic())
        self._target.open()
        self.connections += 1
        if self._is_done():
            return
        self._confirmed_at = self._declared_at = heartbeat_at = monotonic()
        self._patience.connected(self._confirmed_at)
        self._changes.is_blocked = False
        self._unroutable.connected()
        while not self._is_done():
            self._changes.blocked(self._target.blocked_since is not None)
            sent = not self._changes.is_blocked and self._publish()
            # half of the messages in flight: callers that waited for these continue while the
            # broker works on the other half
            limit = min(ACKS, self._in_flight.sent // 2 + 1)
            try:
                read = self._target.read(limit)
            finally:
                self._settle()
            now = monotonic()
            if now - heartbeat_at >= 1:
                self._target.check_heartbeat()
                heartbeat_at = now
                self._declare(now)
                self._check_refusals(now)
            self._check_confirms(now)
            if self._changes.is_lost and not self._outbox.waiting:
                self._changes.found()
            if read == limit or ((sent or read) and self._has_more_to_send(now)):
                eventlet.sleep(0)
            else:
                self._notifier.wait(LOOK, self._target.socket)
        self._target.close(orderly=True)

    def _has_more_to_send(self, now: float) -> bool:
        in_flight = self._in_flight
        if self._changes.is_blocked or in_flight.is_full or self._unroutable.is_held:
            return False
        waiting = self._outbox.waiting - in_flight.sent - in_flight.aside
        return (waiting > 0 and not in_flight.is_aside_full) or in_flight.may_retry(now)

    def _publish(self) -> bool:
        """
        Write the next batch; return whether there was one.
        """
        now, limit = monotonic(), BATCH
        if self._unroutable.is_held:
            if self._in_flight.sent or not self._unroutable.may_probe(now):
                return False
            # returned messages first, in their order
            self._in_flight.restore(list(self._outbox.taken), now)
            self._unroutable.probed_at = now
            self._declare(now, at_once=True)
            limit = 1
        batch = self._in_flight.next(limit, now, self._outbox.take)
        if not batch:
            return False
        try:
            with (
                eventlet.Timeout(self._patience.seconds, BrokerTimeout("writing timed out")),
                self._target.batch(),
            ):
                for message in batch:
                    if self._in_flight.is_full:
                        break
                    self._send(message)
        except BrokerTimeout:
            self._patience.double()
            raise
        self._settle()
        return True

    def _send(self, message: OutboxEntry) -> None:
        """
        Send *message*, the first of the batch.
        """
        if message.message_id is None:
            message.message_id = self._identifiers.make(message.timestamp)
        if message.was_sent:
            self._ledger.republished.increment()
        message.was_sent = self._target.confirms
        now = monotonic()
        is_probe = self._unroutable.wants_probe(now)
        tag = self._target.next_tag
        self._in_flight.send(tag, now)
        try:
            self._target.publish(message, is_probe or self._unroutable.holds)
        except self._target.transient_errors:
            raise
        except Exception as exc:
            # a signal handler may have raised it, so that one failure does not blame the message
            message.failures += 1
            blamed = message.failures > 2 or self._target.is_above_a_frame(message)
            if not (blamed and self._target.is_open):
                raise
            self._in_flight.confirm(tag)
            self._give_up(message, f"the message cannot be encoded: {exc!r}", sent=False)
            return
        if not self._target.confirms:
            self._answered(tag, False, True)
        elif is_probe:
            self._unroutable.probe = tag
            self._unroutable.probed_at = now

    def _declare(self, now: float, at_once: bool = False) -> None:
        """
        Repeat the declarations if it is time: an exchange or a binding may have been deleted.
        """
        if not self._changes.is_blocked and (at_once or now - self._declared_at >= DECLARE):
            self._declared_at = now
            self._target.declare()

    def _check_confirms(self, now: float) -> None:
        sent_at = self._in_flight.sent_at
        if self._in_flight.refused:  # retries make no room in the outbox
            self._healthy_at = self._confirmed_at
        elif sent_at is None:
            self._healthy_at = now
        else:
            self._healthy_at = max(sent_at, self._confirmed_at)
        if sent_at is None or self._changes.is_blocked:
            return
        # of the oldest message; confirms of others do not reset it
        waited = now - max(sent_at, self._target.unblocked_at)
        if self._patience.is_over(waited, now):
            timeout = BrokerTimeout(f"no confirm within {self._patience.seconds} s")
            self._patience.double()
            raise timeout

    def _check_refusals(self, now: float) -> None:
        in_flight = self._in_flight
        self._changes.aside(in_flight.is_aside_full, in_flight.refused)
        if not in_flight.refused and now - self._refused_at > LAST_BACKOFF:
            self._changes.accepting()

    # -- the broker's answers

    def _answered(self, tag: int, multiple: bool, taken: bool) -> None:
        """
        Handle a confirm or a refusal of one message, or of all up to it.
        """
        if self._unroutable.confirmed(tag, multiple):
            self._declare(monotonic(), at_once=True)
        messages = self._in_flight.confirm(tag, multiple, taken)
        if taken:
            self._confirmed += messages
        else:
            self._refuse(messages, monotonic())

    def _settle(self) -> None:
        """
        Settle all messages whose confirms were read.
        """
        messages = self._confirmed
        if not messages:
            return
        self._confirmed_at = monotonic()
        self._failures = 0
        if self._unroutable.holds:
            messages = self._keep_returned(messages)
        for message in messages:
            if message.waiter is not None:  # before settling: better twice than never
                message.waiter.confirm()
        self._outbox.settle_all(messages, self._ledger.confirmed)
        self._confirmed = []
        self._changes.found()
        self._patience.confirmed()

    def _keep_returned(self, messages: list[OutboxEntry]) -> list[OutboxEntry]:
        """
        Keep the messages that no queue has received, to send them again; return the others.
        """
        received, returned = self._unroutable.split(messages)
        if returned:
            self._in_flight.send_again(returned)
            self._confirmed = received  # first: whoever interrupts this must not settle the others
            self._unroutable.forget(returned)
        return received

    def _refuse(self, messages: list[OutboxEntry], now: float) -> None:
        """
        Keep refused messages aside, and log it if one was refused before.
        """
        self._refused_at = now
        is_again = any(message.refusals for message in messages)
        for message in messages:
            self._in_flight.refuse(message, now)
        self._unroutable.forget(messages)
        if is_again:
            self._changes.refusing(self._in_flight.refused)

    def _lose(self, exc: BaseException) -> None:
        """
        Prepare for the next connection after this one was lost or could not be made.
        """
        self._target.close(orderly=False)
        blamed = blames_message(exc)
        lost = self._in_flight.lose(alone=blamed)
        if blamed and len(lost) == 1:
            lost[0].failures += 1
        for message in lost:
            if message.failures >= 2 or self._target.is_above_a_frame(message):
                self._give_up(
                    message, f"the broker rejects it: {masked_text(str(exc))}", sent=True
                )
        self._changes.lost(exc)

    def _fail(self, exc: Exception) -> None:
        """
        Prepare to restart after an error in our own code.
        """
        self._target.close(orderly=False)
        self._in_flight.lose(alone=False)
        self._changes.failed(exc)

    def _give_up(self, message: OutboxEntry, reason: str, sent: bool) -> None:
        self._undeliver(message, reason)  # before settling: better twice than never
        self._outbox.settle(message, self._ledger.undelivered)
        if message.waiter is not None:
            message.waiter.fail(reason, sent)
