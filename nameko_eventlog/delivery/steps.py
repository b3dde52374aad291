"""
What happens as a whole or not at all, whatever a signal handler raises.

It may raise between any two of Python's steps, but not within a call that is written in C.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

from logging_ext.forwarding import Counter
from nameko_eventlog.delivery.entry import OutboxEntry


def in_one_step(*steps: Iterator[Any]) -> None:
    """
    Take all of *steps*, one after the other, within a single call; they are written in C.
    """
    deque(chain(*steps), maxlen=0)


def first(steps: Iterator[Any]) -> Iterator[Any]:
    """
    Return the first one of *steps*, not yet taken.
    """
    return islice(steps, 1)


def remove_and_count(
    taken: dict[OutboxEntry, Any],
    messages: Iterable[OutboxEntry],
    counter: Counter,
    also: Callable[[list[OutboxEntry]], Iterator[object]] | None = None,
) -> list[OutboxEntry]:
    """
    Remove *messages* and count them, in one step, and return those that were there.

    Args:
        taken: Where they are.
        messages: Some may not be there any more.
        counter: Counts them.
        also: Given those that are, returns what is to be taken for each of them in that step.
    """
    there = list(filter(taken.__contains__, messages))
    steps: list[Iterator[object]] = [map(taken.__delitem__, there), counter.ticks]
    if also is not None:
        steps.append(also(there))
    in_one_step(zip(*steps, strict=False))
    return there


def move(
    queue: deque[OutboxEntry], taken: dict[OutboxEntry, Any], limit: int, entered: Counter
) -> list[OutboxEntry]:
    """
    Move the first messages of *queue* to *taken* and count them, in one step, and return them.

    Interrupted, they are in one of the two; `Outbox.taken` has what was not returned.
    """
    limit = min(limit, len(queue))
    before = len(taken)
    popped = islice(iter(queue.popleft, None), limit)
    with suppress(IndexError):  # one was withdrawn meanwhile
        taken.update(zip(popped, entered.ticks, strict=False))
    moved = list(islice(reversed(taken), len(taken) - before))
    moved.reverse()
    return moved
