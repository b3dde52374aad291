"""
What was taken from the outbox and is not settled: sent, to be sent again, or refused.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from itertools import islice, takewhile

from nameko_eventlog.backoff import backoff
from nameko_eventlog.delivery.entry import OutboxEntry


WINDOW = 1000
"""Messages unconfirmed at the most."""

WINDOW_BYTES = 1 << 20
"""
Bytes of bodies sent and unconfirmed at the most, but for a single message.

A broker with an alarm stops reading; what is on its way then fits into the sockets' buffers,
so that the relay is not stuck in a write and hears of the alarm.
"""

FIRST_BACKOFF = 0.1
LAST_BACKOFF = 5.0
"""Seconds before trying again, doubled each time from the first to the last, with jitter."""


class InFlight:
    """
    Keep what is unconfirmed by its delivery tag, and in the order in which to send it again.

    After a loss the window is small, and grows with every confirm: should one of the messages
    have been the reason, then it soon travels alone.

    What the broker refuses waits aside, and new messages pass. Each has a pause of its own that
    grows, and all share another: after a refused retry only one is tried, and after a pause that
    grows as long as they are refused. Each retry that is taken lets one more be tried at once. So
    a queue that stays full costs one publication for each pause, which other queues of the
    exchange may get once more, and one that has room again soon gets all.

    Nothing here is the only place where a message is: `restore` makes it anew from what the
    outbox has.

    Args:
        most_aside: How many may wait aside before no new ones are taken.
        most_aside_bytes: How many bytes of bodies.
    """

    def __init__(self, most_aside: int = 100_000, most_aside_bytes: int = 64 << 20) -> None:
        self._most_aside = most_aside
        self._most_aside_bytes = most_aside_bytes
        self._sent: OrderedDict[int, tuple[OutboxEntry, float]] = OrderedDict()
        self._sent_bytes = 0
        self._next: deque[OutboxEntry] = deque()  # in this order
        # a heap: when to try again, a number that makes it unique, and what
        self._aside: list[tuple[float, int, OutboxEntry]] = []
        self._aside_bytes = 0
        self._refusals = 0
        self._retrying = 0  # of those that were refused, how many are sent, or are next
        self._retries = 1  # how many may be
        self._retry_at = 0.0
        self._failed_retries = 0  # in a row
        self._window = WINDOW

    @property
    def sent_at(self) -> float | None:
        """
        When the oldest of the unconfirmed was sent, or None if there is none.
        """
        return next(iter(self._sent.values()))[1] if self._sent else None

    @property
    def sent(self) -> int:
        """
        How many were sent and are unconfirmed.
        """
        return len(self._sent)

    @property
    def refused(self) -> int:
        """
        How many the broker has refused, and has not taken since.
        """
        return len(self._aside) + self._retrying

    @property
    def aside(self) -> int:
        """
        How many of those wait for their time.
        """
        return len(self._aside)

    @property
    def is_full(self) -> bool:
        """
        Whether nothing more may be sent before something is confirmed.
        """
        return bool(self._sent) and (
            self._sent_bytes >= WINDOW_BYTES or len(self._sent) >= self._window
        )

    @property
    def is_aside_full(self) -> bool:
        """
        Whether so many refused ones wait that no new ones are taken.
        """
        return len(self._aside) >= self._most_aside or self._aside_bytes >= self._most_aside_bytes

    def may_retry(self, now: float) -> bool:
        """
        Tell whether one of the refused is due.
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
        Return what to send now: the lost, then the refused that are due, then the new.

        It stays here until it is sent.

        Args:
            limit: How many at the most.
            now: The monotonic time.
            take: Takes new messages from the outbox, so many at the most.
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
        Remember that the first of the next is being sent, and under which delivery tag.
        """
        message = self._next[0]
        self._sent[tag] = (message, now)
        self._next.popleft()
        self._sent_bytes += len(message.body)

    def confirm(self, tag: int, multiple: bool = False, taken: bool = True) -> list[OutboxEntry]:
        """
        Forget what the broker has answered for, and return it.

        Args:
            tag: The delivery tag.
            multiple: Whether it stands for all before it as well.
            taken: Whether the broker has them, or refuses them.
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
        Keep a message that the broker has refused aside, until it is time to try again.
        """
        if message.refusals:
            self._retries = 1
            if now >= self._retry_at:  # one of many that were tried at once makes it grow
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
        Keep messages that were confirmed, but that no queue has taken, to be sent before all else.
        """
        self._retrying += sum(message.refusals > 0 for message in messages)
        self._next.extendleft(reversed(messages))

    def retry_soon(self) -> None:
        """
        Try the refused again without a pause: there is little time left.
        """
        self._retry_at = 0.0
        self._failed_retries = 0
        self._aside = [(0.0, number, message) for _, number, message in sorted(self._aside)]

    def lose(self, alone: bool) -> list[OutboxEntry]:
        """
        Forget what was sent and is unconfirmed; it is to be sent again, before all else.

        Args:
            alone: Whether one of them is the reason, so that they go one by one.

        Returns:
            Those messages.
        """
        lost = [message for message, _ in self._sent.values()]
        self._sent.clear()
        self._sent_bytes = 0
        if lost:
            self._window = 1 if alone else max(1, self._window // 8)
        return lost

    def restore(self, messages: Iterable[OutboxEntry], now: float) -> None:
        """
        Begin anew, with nothing sent.

        Args:
            messages: All that was taken from the outbox and is not settled, in this order.
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
