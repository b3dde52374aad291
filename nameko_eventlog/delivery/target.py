"""
What the relay needs of whatever it publishes to.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from nameko_eventlog.amqp.message import Message


class Target(Protocol):
    """
    Something to publish to, with at most one connection to it; `Broker` is one.

    It is used from the relay's OS thread alone, but for ``abandon``.
    """

    errors: tuple[type[BaseException], ...]
    """What a lost connection, or one that cannot be made, raises."""

    transient_errors: tuple[type[BaseException], ...]
    """Those of publishing that say nothing against the message: it is published again."""

    next_tag: int
    """The delivery tag that the next message will be confirmed by; 1 is the first."""

    confirms: bool
    """Whether it confirms; if not, what was sent counts as confirmed."""

    blocked_since: float | None
    """Since when it takes nothing, by ``time.monotonic()``, or None."""

    unblocked_at: float
    """When it last took something again."""

    @property
    def blocked_seconds(self) -> float:
        """
        For how long it has taken nothing, now and before.
        """

    @property
    def address(self) -> str:
        """
        Where it is, without a password; for the log.
        """

    @property
    def socket(self) -> Any:
        """
        What can be read once there is something to `read`; None is asked ten times a second.
        """

    @property
    def is_open(self) -> bool:
        """
        Whether something can be published.
        """

    def open(self) -> None:
        """
        Connect.

        Raises:
            BaseException: One of `errors`.
        """

    def is_above_a_frame(self, message: Message) -> bool:
        """
        Tell whether a connection that was lost with *message* will be lost with it again.
        """

    def publish(self, message: Message, mandatory: bool) -> None:
        """
        Send *message*, and raise `next_tag` by one.

        Args:
            message: What to send.
            mandatory: Whether to tell if nobody is there to take it.

        Raises:
            BaseException: One of `transient_errors`, or, before anything of it was sent, whatever
                its encoding raises.
        """

    def batch(self) -> AbstractContextManager[None]:
        """
        Gather what is sent in the block, and send it at its end.
        """

    def read(self, limit: int) -> int:
        """
        Take in what was answered, so much at the most, without waiting, and tell how much it was.

        Raises:
            BaseException: One of `errors`.
        """

    def declare(self) -> None:
        """
        Declare again what messages are published to, without waiting for an answer.

        Raises:
            BaseException: One of `errors`.
        """

    def check_heartbeat(self) -> None:
        """
        Show a sign of life if it is time, and look for the other side's; called every second.

        Raises:
            BaseException: One of `errors`.
        """

    def close(self, orderly: bool) -> None:
        """
        Close the connection, if there is one.

        Args:
            orderly: Whether to say goodbye.
        """

    def abandon(self) -> None:
        """
        Leave the connection to the parent, in a forked child.
        """
