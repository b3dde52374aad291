"""
Atomic changes: they happen completely or not at all, even if a signal handler raises.

A signal handler may raise between any two bytecode instructions, but not within a C call.
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
    Run all *steps*, one after the other, within a single C call. The iterators must be C code.
    """
    deque(chain(*steps), maxlen=0)


def first(steps: Iterator[Any]) -> Iterator[Any]:
    """
    Return an iterator that runs only the first of *steps*.
    """
    return islice(steps, 1)


def remove_and_count(
    taken: dict[OutboxEntry, Any],
    messages: Iterable[OutboxEntry],
    counter: Counter,
    also: Callable[[list[OutboxEntry]], Iterator[object]] | None = None,
) -> list[OutboxEntry]:
    """
    Remove *messages* from *taken* and count them atomically; return those that were in it.

    Args:
        taken: The messages that were taken from the queue.
        messages: The messages to remove; some may be gone already.
        counter: Counts them.
        also: Given the messages that are present, returns an iterator with one more step for each.
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
    Move the first messages of *queue* to *taken*, count them atomically, and return them.

    After an interruption each is in one of the two, and `Outbox.taken` has those not returned.
    """
    limit = min(limit, len(queue))
    before = len(taken)
    popped = islice(iter(queue.popleft, None), limit)
    with suppress(IndexError):  # one was withdrawn meanwhile
        taken.update(zip(popped, entered.ticks, strict=False))
    moved = list(islice(reversed(taken), len(taken) - before))
    moved.reverse()
    return moved
