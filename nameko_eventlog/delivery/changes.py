"""
What the relay logs about the broker: each change once, not each attempt.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from nameko_eventlog.addresses import masked_text


_log = logging.getLogger("nameko_eventlog")


class Changes:
    """
    Know how the broker is, as it was last logged, and log when that changes.

    Args:
        service: The service's name.
        address: Returns the broker's address, without a password.
        waiting: Returns how many event logs wait.
    """

    def __init__(
        self, service: str, address: Callable[[], str], waiting: Callable[[], int]
    ) -> None:
        self._service = service
        self._address = address
        self._waiting = waiting
        self._has_connected = False
        self.is_lost = False
        self.is_blocked = False
        self.is_unroutable = False
        self.is_refusing = False
        self._is_aside_full = False
        self._is_slow = False
        self._failure = ""

    def lost(self, exc: BaseException) -> None:
        """
        The connection was lost, or could not be made.
        """
        if not self.is_lost:
            self.is_lost = True
            self._say(
                "%s connection to broker %s (service %s): %s; reconnecting; event logs wait"
                " until then: %d",
                "lost" if self._has_connected else "no",
                self._address(),
                self._service,
                # amqp begins with the method that was answered, (0, 0) if none was
                masked_text(str(exc)).removeprefix("(0, 0): "),
                self._waiting(),
            )

    def found(self) -> None:
        """
        There is a connection, and it works.
        """
        self._failure = ""
        self._has_connected = True
        if self.is_lost:
            self.is_lost = False
            self._say(
                "connected to broker %s (service %s); event logs waiting: %d",
                self._address(),
                self._service,
                self._waiting(),
            )

    def blocked(self, is_blocked: bool) -> None:
        """
        The broker has an alarm, or not.
        """
        if is_blocked != self.is_blocked:
            self.is_blocked = is_blocked
            self._say(
                "the broker at %s %s the event logs of %s; %d waiting",
                self._address(),
                "has an alarm and blocks" if is_blocked else "has unblocked",
                self._service,
                self._waiting(),
            )

    def routed(self, is_routed: bool, is_held: bool) -> bool:
        """
        A queue has taken an event log, or none has.

        Args:
            is_routed: Which of the two.
            is_held: Whether event logs wait until one does.

        Returns:
            Whether that is new.
        """
        if is_routed != self.is_unroutable:
            return False
        self.is_unroutable = not is_routed
        if is_routed:
            text = "a queue takes the event logs of %s again"
        elif is_held:
            text = "no queue takes the event logs of %s: they wait until one does (logged once)"
        else:
            text = (
                "no queue takes the event logs of %s: the broker confirms and drops them"
                " (logged once)"
            )
        self._say(text, self._service)
        return True

    def refusing(self, count: int) -> None:
        """
        The broker has refused some again.
        """
        if not self.is_refusing:
            self.is_refusing = True
            self._say(
                "the broker at %s refuses event logs of %s (a queue is full, or not there): %d"
                " wait aside and are published again now and then; new ones pass (logged once)",
                self._address(),
                self._service,
                count,
            )

    def taking(self) -> None:
        """
        It has taken all that it had refused.
        """
        if self.is_refusing:
            self.is_refusing = False
            self._say(
                "the broker at %s takes the event logs of %s that it refused",
                self._address(),
                self._service,
            )

    def aside(self, is_full: bool, count: int) -> None:
        """
        So many refused ones wait that no new ones are published, or not.
        """
        if is_full and not self._is_aside_full:
            self._say(
                "%d event logs of %s that the broker refuses wait: no new ones are published"
                " until it takes some (logged once)",
                count,
                self._service,
            )
        self._is_aside_full = is_full

    def slow(self, seconds: float, patience: float, confirm_timeout: float) -> None:
        """
        A confirm came later than ``confirm_timeout``.
        """
        if not self._is_slow:
            self._is_slow = True
            self._say(
                "the broker at %s takes %.1f s to confirm event logs of %s: the relay waits for"
                " up to %.0f s now; set EVENTLOG_DISPATCHER.confirm_timeout (%s) above what the"
                " broker needs (logged once)",
                self._address(),
                seconds,
                self._service,
                patience,
                confirm_timeout,
            )

    def quick(self) -> None:
        """
        Confirms come in time.
        """
        self._is_slow = False

    def failed(self, exc: Exception) -> None:
        """
        The relay has failed, by an error of its own.
        """
        if repr(exc) != self._failure:
            self._failure = repr(exc)
            with contextlib.suppress(Exception):  # the service's handlers may fail
                _log.exception("the relay of %s failed and starts again", self._service)

    def _say(self, text: str, *values: object) -> None:
        with contextlib.suppress(Exception):  # the service's handlers may fail
            _log.warning(text, *values)
