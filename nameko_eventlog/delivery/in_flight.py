"""
Messages taken from the outbox and not settled: sent, to be sent again, or refused.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import islice, takewhile

from nameko_eventlog.backoff import backoff
from nameko_eventlog.delivery.entry import OutboxEntry


WINDOW = 1000
"""The most unconfirmed messages."""

WINDOW_BYTES = 1 << 20
"""
The most bytes of unconfirmed bodies; a single message may be larger.

A broker with an alarm stops reading. So many bytes fit into the sockets' buffers, so that the
relay does not hang in a write and receives the notice of the alarm.
"""

FIRST_BACKOFF = 0.1
LAST_BACKOFF = 5.0
"""The first and the longest pause before trying again, in seconds: see `backoff`."""


class InFlight:
    """
    Keep unconfirmed messages by delivery tag, and in the order in which to send them again.

    After a lost connection the window is small, and it grows with every confirm. If one of the
    messages caused the loss, it is soon sent alone.

    Refused messages wait aside, while new ones are sent. Each has its own growing pause, and all
    share a second one: after a refused retry only one message is retried, after a pause that grows
    with every refusal. Each accepted retry allows one more retry at once. So a queue that stays
    full costs one publication a pause, which other queues of the exchange may receive twice, and a
    queue that has room again soon receives all of them.

    The outbox also holds every message that is here: `restore` rebuilds this object from it.

    Args:
        most_aside: The most messages that wait aside; then no new ones are taken.
        most_aside_bytes: The same in bytes of bodies.
    """

    def __init__(self, most_aside: int = 100_000, most_aside_bytes: int = 64 << 20) -> None:
        self._most_aside = most_aside
        self._most_aside_bytes = most_aside_bytes
        self._sent: OrderedDict[int, tuple[OutboxEntry, float]] = OrderedDict()
        self._sent_bytes = 0
        self._next: deque[OutboxEntry] = deque()  # to send, in this order
        # a heap of the time of the retry, a unique number, and the message
        self._aside: list[tuple[float, int, OutboxEntry]] = []
        self._aside_bytes = 0
        self._refusals = 0
        self._retrying = 0  # how many refused messages are sent, or next
        self._retries = 1  # how many may be retried at once
        self._retry_at = 0.0
        self._failed_retries = 0  # in a row
        self._window = WINDOW

    @property
    def sent_at(self) -> float | None:
        """
        When the oldest unconfirmed message was sent, or None.
        """
        return next(iter(self._sent.values()))[1] if self._sent else None

    @property
    def sent(self) -> int:
        """
        How many messages are sent and unconfirmed.
        """
        return len(self._sent)

    @property
    def refused(self) -> int:
        """
        How many messages the broker has refused and not accepted since.
        """
        return len(self._aside) + self._retrying

    @property
    def aside(self) -> int:
        """
        How many refused messages wait for their next retry.
        """
        return len(self._aside)

    @property
    def is_full(self) -> bool:
        """
        Whether a confirm must arrive before more is sent.
        """
        return bool(self._sent) and (
            self._sent_bytes >= WINDOW_BYTES or len(self._sent) >= self._window
        )

    @property
    def is_aside_full(self) -> bool:
        """
        Whether so many refused messages wait that no new ones are taken.
        """
        return len(self._aside) >= self._most_aside or self._aside_bytes >= self._most_aside_bytes

    def may_retry(self, now: float) -> bool:
        """
        Tell whether a refused message is due.
        """
        return (
            bool(self._aside)
            and self._retrying < self._retries
            and self._retry_at <= now
            and self._aside[0][0] <= now
        )

    def next(
        self, limit: int, now: float, take: Callable[[int], list[OutboxEntry]]
    ) -> list[OutboxEntry]:
        """
        Return the messages to send now: lost ones, then due refused ones, then new ones.

        They stay in this object until `send`.

        Args:
            limit: The most messages.
            now: The monotonic time.
            take: Takes new messages from the outbox, up to a number.
        """
        room = min(limit, self._window - len(self._sent))
        while len(self._next) < room and self.may_retry(now):
            message = heappop(self._aside)[2]
            self._aside_bytes -= len(message.body)
            self._retrying += 1
            self._next.append(message)
        if len(self._next) < room and not self.is_aside_full:
            self._next += take(room - len(self._next))
        return list(islice(self._next, max(0, room)))

    def send(self, tag: int, now: float) -> None:
        """
        Record that the first of the next messages is being sent under the delivery tag *tag*.
        """
        message = self._next[0]
        self._sent[tag] = (message, now)
        self._next.popleft()
        self._sent_bytes += len(message.body)

    def confirm(self, tag: int, multiple: bool = False, taken: bool = True) -> list[OutboxEntry]:
        """
        Remove and return the messages that the broker has confirmed or refused.

        Args:
            tag: The delivery tag.
            multiple: Whether the answer covers all earlier tags as well.
            taken: Whether the broker accepted or refused them.
        """
        sent = self._sent
        tags = [tag] if tag in sent else []
        if multiple:
            tags = list(takewhile(tag.__ge__, sent))  # in their order
        messages = [sent.pop(tag)[0] for tag in tags]
        self._sent_bytes -= sum([len(message.body) for message in messages])
        if self._retrying:
            self._retried(messages, taken)
        if self._window < WINDOW:
            self._window = min(WINDOW, self._window + len(messages))
        return messages

    def _retried(self, messages: list[OutboxEntry], taken: bool) -> None:
        for message in messages:
            if message.refusals:
                self._retrying -= 1
                if taken:
                    self._retries = min(WINDOW, self._retries + 1)
                    self._failed_retries = 0

    def refuse(self, message: OutboxEntry, now: float) -> None:
        """
        Keep a refused message aside until its next retry.
        """
        if message.refusals:
            self._retries = 1
            if now >= self._retry_at:  # of several retries at once, only the first one counts
                self._failed_retries += 1
                self._retry_at = now + backoff(self._failed_retries, FIRST_BACKOFF, LAST_BACKOFF)
        message.refusals += 1
        self._put_aside(message, now)

    def _put_aside(self, message: OutboxEntry, now: float) -> None:
        self._refusals += 1
        self._aside_bytes += len(message.body)
        due = now + backoff(message.refusals, FIRST_BACKOFF, LAST_BACKOFF)
        heappush(self._aside, (due, self._refusals, message))

    def send_again(self, messages: list[OutboxEntry]) -> None:
        """
        Keep messages that were confirmed but unroutable, to send them again before all others.
        """
        self._retrying += sum(message.refusals > 0 for message in messages)
        self._next.extendleft(reversed(messages))

    def retry_soon(self) -> None:
        """
        Retry refused messages without a pause: the relay is stopping.
        """
        self._retry_at = 0.0
        self._failed_retries = 0
        self._aside = [(0.0, number, message) for _, number, message in sorted(self._aside)]

    def lose(self, alone: bool) -> list[OutboxEntry]:
        """
        Forget the unconfirmed messages after a lost connection, and return them.

        Args:
            alone: Whether one of the messages caused the loss, so that they are sent one by one.
        """
        lost = [message for message, _ in self._sent.values()]
        self._sent.clear()
        self._sent_bytes = 0
        if lost:
            self._window = 1 if alone else max(1, self._window // 8)
        return lost

    def restore(self, messages: Iterable[OutboxEntry], now: float) -> None:
        """
        Start over with nothing sent.

        Args:
            messages: The messages taken from the outbox and not settled, in their order.
            now: The monotonic time.
        """
        self._sent.clear()
        self._sent_bytes = self._aside_bytes = self._retrying = 0
        self._aside = []
        self._retries = 1
        self._next = deque()
        for message in messages:
            if message.refusals:
                self._put_aside(message, now)
            else:
                self._next.append(message)
