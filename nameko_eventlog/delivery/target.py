"""
What the relay publishes to: the interface of `Broker`, for targets of other kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from nameko_eventlog.amqp.broker import OnConfirm, OnReturn
from nameko_eventlog.amqp.message import Message


class Target(Protocol):
    """
    Something to publish to, with at most one connection.

    `Broker` is one, and describes each member. The relay, in its OS thread, calls ``close`` any
    number of times, then ``open``, and then in turn, until something raises or the service stops:
    ``batch`` with ``publish`` for each message inside; ``read``; every second ``check_heartbeat``;
    less often ``declare``. In a forked child ``abandon`` is called, from any thread.

    - After ``open``, ``next_tag`` is 1. ``publish`` raises it by 1.
    - Only ``read`` may call the ``OnConfirm`` that the target was made with. One call may cover
      all earlier tags.
    - If ``batch`` raises, all its messages are published again: none of them needs to leave.
    - After one of ``errors``, the relay closes the target, pauses, and opens it again. ``open``
      should fail as long as publishing would.
    - Any other exception of ``publish`` blames the message, which is given up at the third time if
      ``is_open``. So does an error with an AMQP reply code that `blames_message` knows.
    """

    errors: tuple[type[BaseException], ...]
    transient_errors: tuple[type[BaseException], ...]
    next_tag: int
    confirms: bool
    blocked_since: float | None
    unblocked_at: float

    @property
    def blocked_seconds(self) -> float: ...

    @property
    def address(self) -> str: ...

    @property
    def socket(self) -> Any: ...

    @property
    def is_open(self) -> bool: ...

    def open(self) -> None: ...

    def is_above_a_frame(self, message: Message) -> bool: ...

    def publish(self, message: Message, mandatory: bool) -> None: ...

    def batch(self) -> AbstractContextManager[None]: ...

    def read(self, limit: int) -> int: ...

    def declare(self) -> None: ...

    def check_heartbeat(self) -> None: ...

    def close(self, orderly: bool) -> None: ...

    def abandon(self) -> None: ...


MakeTarget = Callable[[OnConfirm, OnReturn], Target]
"""Makes the target of a relay."""
