"""
The green thread that publishes the outbox and waits for the broker's confirms.
"""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable
from time import monotonic

import eventlet
from eventlet.event import Event
from eventlet.greenthread import GreenThread
from greenlet import GreenletExit

from logging_ext import forwarding
from nameko_eventlog.addresses import masked_text
from nameko_eventlog.delivery.broker import BrokerTimeout, blames_message
from nameko_eventlog.delivery.flight import FIRST_BACKOFF, LAST_BACKOFF, Flight
from nameko_eventlog.delivery.identifiers import UUID7Generator
from nameko_eventlog.delivery.interrupt import interrupt
from nameko_eventlog.delivery.message import Message
from nameko_eventlog.delivery.outbox import Ledger, Outbox
from nameko_eventlog.delivery.target import OnConfirm, OnReturn, Target
from nameko_eventlog.delivery.waiting import Bell, HomeThread


_log = logging.getLogger("nameko_eventlog")

BATCH = 100
"""Messages written before others get their turn."""

ACKS = 50
"""Methods read from the broker before others get their turn."""

LOOK = 0.1
"""Seconds between looks into the outbox, since an OS thread cannot wake the relay."""

PATIENCE = 1.0
"""Seconds without a confirm after which the broker does not count as well any more."""


class Relay:
    """
    Publish what is in the outbox, first in, first out, and settle what is confirmed.

    Args:
        outbox: What to publish.
        ledger: Where to count what becomes of it.
        make_broker: Makes the broker, or another target.
        identifiers: Makes the message ids.
        undeliver: Called with a message that cannot be delivered, and why.
        confirm_timeout: Seconds that the broker has for confirming.
        warn_unroutable: Whether to say when no queue takes the event logs.
        service: The service's name, for messages.
        home: The OS thread that it runs in.
    """

    notice: Callable[[], None]
    """Learn that the outbox has something; from another OS thread this takes a look's time."""

    def __init__(
        self,
        outbox: Outbox,
        ledger: Ledger,
        make_broker: Callable[[OnConfirm, OnReturn], Target],
        identifiers: UUID7Generator,
        undeliver: Callable[[Message, str], None],
        confirm_timeout: float,
        warn_unroutable: bool,
        service: str,
        home: HomeThread,
    ) -> None:
        self._outbox = outbox
        self._ledger = ledger
        self._broker = make_broker(self._answered, self._returned)
        self._identifiers = identifiers
        self._undeliver = undeliver
        self._confirm_timeout = confirm_timeout
        self._warn_unroutable = warn_unroutable
        self._service = service
        self._home = home
        self._bell = Bell(home)
        self.notice = self._bell.ring
        self._flight = Flight()
        self._random = random.Random(random.SystemRandom().random())
        self._thread: GreenThread | None = None
        self._stopping = False
        self._abandoned = False
        self._finished = Event()
        self._backoff = FIRST_BACKOFF
        # what was said last: each is said when it changes, not at every attempt
        self._is_lost = False
        self._is_blocked = False
        self._is_unroutable = False
        self._failure = ""
        self.connections = 0  # how many there have been
        self._confirmed_at = 0.0  # when something last was, or could be
        self._well_at = 0.0
        self._probe: int | None = None
        self._probed_at = 0.0
        self._probe_returned = False

    # -- for others

    def start(self) -> None:
        """
        Begin publishing.
        """
        if self._thread is None:
            interrupt.acquire(self)
            self._well_at = monotonic()  # connecting takes a moment
            self._thread = eventlet.spawn(self._run)

    @property
    def is_running(self) -> bool:
        """
        Whether a turn is of use to the relay.
        """
        return self._thread is not None and not self._abandoned

    @property
    def is_flowing(self) -> bool:
        """
        Whether the broker is well, so that waiting for a moment makes room in the outbox.
        """
        return not self._is_blocked and monotonic() - self._well_at < PATIENCE

    def stop(self, seconds: float) -> list[Message]:
        """
        Publish what is left, for *seconds* at the most, and end.

        From another OS thread than the relay's, nothing more is published: nobody there can
        wait for it.

        Returns:
            What was taken from the outbox and is not settled.
        """
        self._stopping = True
        self._bell.ring()
        if self._thread is not None and self._home.is_here:
            if not self._finished.ready():
                self._finished.wait(timeout=seconds)
            self._thread.kill()
            interrupt.release(self)
        return self._flight.clear()

    @property
    def blocked_seconds(self) -> float:
        """
        For how long an alarm of the broker's has kept it from publishing.
        """
        return self._broker.blocked_seconds

    @property
    def oldest(self) -> Message | None:
        """
        The oldest message that is not settled.
        """
        with contextlib.suppress(RuntimeError):  # it changes while an OS thread looks
            return self._flight.oldest or self._outbox.oldest
        return None

    def abandon(self) -> None:
        """
        Publish no more, in a forked child: the connection is the parent's.
        """
        self._abandoned = True
        interrupt.release(self)
        self._broker.abandon()

    # -- the green thread

    def _run(self) -> None:
        forwarding.suspended.set(True)  # in this green thread's own context
        goes_on = False
        try:
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
            # Ctrl-C is raised in whichever green thread happens to run; the service is going
            # to stop, and the outbox is still to be delivered
            goes_on = True
            self._flight.lose(alone=False)
            self._thread = eventlet.spawn(self._run)
            raise
        finally:
            self._broker.close(orderly=False)
            if not goes_on and not self._finished.ready():
                self._finished.send(None)

    def _is_done(self) -> bool:
        return self._abandoned or (self._stopping and not self._outbox.waiting)

    def _pause(self) -> None:
        seconds = self._backoff * (0.5 + self._random.random())
        self._backoff = min(self._backoff * 2, LAST_BACKOFF)
        end = monotonic() + seconds
        while (left := end - monotonic()) > 0 and not self._is_done():
            eventlet.sleep(min(left, LOOK))
            if self._stopping:  # there is little time left
                break

    def _session(self) -> None:
        """
        Connect, and publish until there is nothing left to do.
        """
        self._broker.open()
        self.connections += 1
        if self._is_done():
            return
        self._confirmed_at = heartbeat_at = monotonic()
        self._is_blocked = False
        self._probe = None
        self._probe_returned = False
        while not self._is_done():
            self._watch_alarm()
            sent = not self._is_blocked and self._publish()
            # half of what is on its way: who waited for it goes on while the broker is busy
            # with the other half
            limit = min(ACKS, self._flight.sent // 2 + 1)
            read = self._broker.read(limit)
            now = monotonic()
            if now - heartbeat_at >= 1:
                self._broker.check_heartbeat()
                heartbeat_at = now
            self._check_confirms(now)
            if self._is_lost and not self._outbox.waiting:
                self._say_found()
            if read == limit or ((sent or read) and self._has_more_to_send()):
                eventlet.sleep(0)
            else:
                self._bell.wait(LOOK, self._broker.socket)
        self._broker.close(orderly=True)

    def _has_more_to_send(self) -> bool:
        return (
            not self._is_blocked
            and not self._flight.is_full
            and self._outbox.waiting > self._flight.sent
        )

    def _publish(self) -> bool:
        """
        Write the next batch, and tell whether there was one.
        """
        batch = self._flight.next(BATCH, monotonic(), self._outbox.take)
        if not batch:
            return False
        try:
            with (
                eventlet.Timeout(self._confirm_timeout, BrokerTimeout("writing timed out")),
                self._broker.batch(),
            ):
                while batch and not self._flight.is_full:
                    self._send(batch.popleft())
        finally:
            self._flight.put_back(batch)
        return True

    def _send(self, message: Message) -> None:
        """
        Send *message*; from the first switch to others on, it is in flight or settled.
        """
        if message.message_id is None:
            message.message_id = self._identifiers.make(message.timestamp)
        if message.was_sent:
            self._ledger.republished.increment()
        message.was_sent = self._broker.confirms
        now = monotonic()
        mandatory = self._warn_unroutable and self._probe is None and now - self._probed_at >= 1
        tag = self._broker.next_tag
        self._flight.send(tag, message, now)
        try:
            self._broker.publish(message, mandatory)
        except self._broker.transient_errors:
            raise
        except Exception as exc:
            if not self._broker.is_open:
                raise
            self._flight.confirm(tag)
            self._give_up(message, f"it cannot be encoded: {exc!r}", sent=False)
            return
        if not self._broker.confirms:
            self._answered(tag, False, True)
        elif mandatory:
            self._probe = tag
            self._probed_at = now

    def _check_confirms(self, now: float) -> None:
        sent_at = self._flight.sent_at
        if self._flight.refused:  # what is sent again and again makes no room
            self._well_at = self._confirmed_at
        elif sent_at is None:
            self._well_at = now
        else:
            self._well_at = max(sent_at, self._confirmed_at)
        if sent_at is None or self._is_blocked:
            return
        # the clock of the oldest; what others are confirmed meanwhile does not wind it up
        if now - max(sent_at, self._broker.unblocked_at) > self._confirm_timeout:
            raise BrokerTimeout(f"no confirm in {self._confirm_timeout} s")

    # -- what the broker says

    def _answered(self, tag: int, multiple: bool, taken: bool) -> None:
        """
        Learn what became of a message, or of all up to it.
        """
        if self._probe is not None and (tag == self._probe or (multiple and tag > self._probe)):
            self._probe = None
            self._say_routed(not self._probe_returned)
            self._probe_returned = False
        now = monotonic()
        messages = self._flight.confirm(tag, multiple)
        if not taken:
            for message in messages:
                self._flight.refuse(message, now)
            return
        self._confirmed_at = now
        self._backoff = FIRST_BACKOFF
        self._failure = ""
        for message in messages:
            self._outbox.settle(message)
            self._ledger.confirmed.increment()
            if message.waiter is not None:
                message.waiter.confirm()
        if self._is_lost:
            self._say_found()

    def _returned(self) -> None:
        self._probe_returned = True

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
                self._flight.drop(message)
                self._give_up(
                    message, f"the broker does not take it: {masked_text(str(exc))}", sent=True
                )
        if not self._is_lost:
            self._is_lost = True
            self._say(
                "the broker at %s is lost to the event logs of %s (%s); %d waiting",
                self._broker.address,
                self._service,
                masked_text(str(exc)),
                self._outbox.waiting,
            )

    def _fail(self, exc: Exception) -> None:
        """
        Get ready to start again after an error of our own.
        """
        self._flight.lose(alone=False)
        self._broker.close(orderly=False)
        if repr(exc) != self._failure:
            self._failure = repr(exc)
            self._say("the relay of %s failed and starts again", self._service, exc_info=True)

    def _give_up(self, message: Message, reason: str, sent: bool) -> None:
        self._outbox.settle(message)
        if message.waiter is not None:
            message.waiter.fail(reason, sent)
        self._undeliver(message, reason)

    # -- what it says

    def _say(self, text: str, *values: object, exc_info: bool = False) -> None:
        with contextlib.suppress(Exception):  # the service's handlers may fail
            _log.log(
                logging.ERROR if exc_info else logging.WARNING, text, *values, exc_info=exc_info
            )

    def _watch_alarm(self) -> None:
        blocked = self._broker.blocked_since is not None
        if blocked == self._is_blocked:
            return
        self._is_blocked = blocked
        self._say(
            "the broker at %s %s the event logs of %s; %d waiting",
            self._broker.address,
            "has an alarm and blocks" if blocked else "takes again",
            self._service,
            self._outbox.waiting,
        )

    def _say_found(self) -> None:
        self._is_lost = False
        self._say(
            "the broker at %s is back for the event logs of %s; %d waiting",
            self._broker.address,
            self._service,
            self._outbox.waiting,
        )

    def _say_routed(self, routed: bool) -> None:
        if routed != self._is_unroutable:
            return
        self._is_unroutable = not routed
        self._say(
            "a queue takes the event logs of %s again"
            if routed
            else "no queue takes the event logs of %s: the broker confirms and drops them"
            " (said once)",
            self._service,
        )
