"""
What was taken from the outbox and is not settled: sent, to be sent again, or refused.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import islice

from nameko_eventlog.delivery.message import Message


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


class Flight:
    """
    Keep what is unconfirmed by its delivery tag, and in the order in which to send it again.

    After a loss the window is small, and grows with every confirm: should one of the messages
    have been the reason, then it soon travels alone.
    """

    def __init__(self) -> None:
        self._random = random.Random(random.SystemRandom().random())
        self._sent: OrderedDict[int, tuple[Message, float]] = OrderedDict()
        self._sent_bytes = 0
        self._again: deque[Message] = deque()
        # a heap: when to try again, a number that makes it unique, and what
        self._refused: list[tuple[float, int, Message]] = []
        self._refusals = 0
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
        How many were refused, and wait to be tried again.
        """
        return len(self._refused)

    @property
    def oldest(self) -> Message | None:
        """
        The oldest that is known here.
        """
        known = [message for message, _ in islice(self._sent.values(), 1)]
        known += islice(self._again, 1)
        known += [message for _, _, message in self._refused]
        return min(known, key=lambda message: message.timestamp, default=None)

    @property
    def is_full(self) -> bool:
        """
        Whether nothing more may be sent before something is confirmed.
        """
        return bool(self._sent) and (
            self._sent_bytes >= WINDOW_BYTES or len(self._sent) >= self._window
        )

    def next(self, limit: int, now: float, take: Callable[[int], list[Message]]) -> deque[Message]:
        """
        Return what to send now: the lost, then the refused that are due, then the new.

        What waits for its time counts: a broker that refuses gets no more than a window.

        Args:
            limit: How many at the most.
            now: The monotonic time.
            take: Takes new messages from the outbox, so many at the most.
        """
        batch: deque[Message] = deque()
        room = min(limit, self._window - len(self._sent))
        while len(batch) < room and self._again:
            batch.append(self._again.popleft())
        while len(batch) < room and self._refused and self._refused[0][0] <= now:
            batch.append(heappop(self._refused)[2])
        room = min(room, self._window - len(self._sent) - len(self._refused))
        if len(batch) < room and not self._again:
            batch += take(room - len(batch))
        return batch

    def put_back(self, messages: deque[Message]) -> None:
        """
        Keep what `next` returned and was not sent, to come first next time.
        """
        self._again.extendleft(reversed(messages))

    def send(self, tag: int, message: Message, now: float) -> None:
        """
        Remember what is being sent under which delivery tag.
        """
        self._sent[tag] = (message, now)
        self._sent_bytes += len(message.body)

    def confirm(self, tag: int, multiple: bool = False) -> list[Message]:
        """
        Forget what the broker has answered for, and return it.

        Args:
            tag: The delivery tag.
            multiple: Whether it stands for all before it as well.
        """
        if multiple:
            tags = []
            for earlier in self._sent:  # in the order of their tags
                if earlier > tag:
                    break
                tags.append(earlier)
        else:
            tags = [tag] if tag in self._sent else []
        messages = [self._sent.pop(tag)[0] for tag in tags]
        for message in messages:
            self._sent_bytes -= len(message.body)
        self._window = min(WINDOW, self._window + len(messages))
        return messages

    def refuse(self, message: Message, now: float) -> None:
        """
        Keep a message that the broker has refused until it is time to try again.
        """
        seconds = min(FIRST_BACKOFF * 2**message.refusals, LAST_BACKOFF)
        message.refusals = min(message.refusals + 1, 10)
        self._refusals += 1
        due = now + seconds * (0.5 + self._random.random())
        heappush(self._refused, (due, self._refusals, message))

    def lose(self, alone: bool) -> list[Message]:
        """
        Keep what was sent and is unconfirmed to be sent again, before all else.

        Args:
            alone: Whether one of them is the reason, so that they go one by one.

        Returns:
            Those messages.
        """
        lost = [message for message, _ in self._sent.values()]
        self._sent.clear()
        self._sent_bytes = 0
        self._again.extendleft(reversed(lost))
        if lost:
            self._window = 1 if alone else max(1, self._window // 8)
        return lost

    def drop(self, message: Message) -> None:
        """
        Forget a message that `lose` returned.
        """
        self._again.remove(message)

    def clear(self) -> list[Message]:
        """
        Forget everything, and return it.
        """
        left = [message for message, _ in self._sent.values()]
        left += self._again
        left += [message for _, _, message in sorted(self._refused)]
        self._sent.clear()
        self._sent_bytes = 0
        self._again.clear()
        self._refused.clear()
        return left
