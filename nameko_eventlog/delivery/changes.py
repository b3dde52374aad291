"""
What the relay logs about the broker: each change once, not each attempt.

The lines have one shape: what happened, at which broker, to which service; what happens now.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

from nameko_eventlog.addresses import masked_text


_log = logging.getLogger("nameko_eventlog")


class Changes:
    """
    Remember the broker's state as it was last logged, and log when it changes.

    Args:
        service: The service's name.
        address: Returns the broker's address, without a password.
        waiting: Returns how many event logs are waiting.
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
        Log that the connection was lost, or could not be made.
        """
        if not self.is_lost:
            self.is_lost = True
            self._warn(
                "%s connection to broker %s (service %s): %s; reconnecting; event logs waiting:"
                " %d",
                "lost" if self._has_connected else "no",
                self._address(),
                self._service,
                # py-amqp's text begins with the method that was answered, (0, 0) if none was
                masked_text(str(exc)).removeprefix("(0, 0): "),
                self._waiting(),
            )

    def found(self) -> None:
        """
        Log that the connection works, if it was lost.
        """
        self._failure = ""
        self._has_connected = True
        if self.is_lost:
            self.is_lost = False
            self._warn(
                "connected to broker %s (service %s); event logs waiting: %d",
                self._address(),
                self._service,
                self._waiting(),
            )

    def blocked(self, is_blocked: bool) -> None:
        """
        Log that the broker blocks publishing because of an alarm, or that it has unblocked.
        """
        if is_blocked != self.is_blocked:
            self.is_blocked = is_blocked
            self._warn(
                "publishing %s at broker %s (service %s); event logs waiting: %d",
                "blocked by an alarm" if is_blocked else "unblocked",
                self._address(),
                self._service,
                self._waiting(),
            )

    def routed(self, is_routed: bool, is_held: bool) -> bool:
        """
        Log that no queue receives the event logs, or that one does again.

        Args:
            is_routed: Whether a queue received the last one.
            is_held: Whether event logs wait until a queue receives them.

        Returns:
            Whether this has changed.
        """
        if is_routed != self.is_unroutable:
            return False
        self.is_unroutable = not is_routed
        if is_routed:
            text = "a queue receives event logs again at broker %s (service %s)"
        elif is_held:
            text = (
                "no queue receives event logs at broker %s (service %s); they wait until a queue"
                " is bound (logged once)"
            )
        else:
            text = (
                "no queue receives event logs at broker %s (service %s); the broker confirms and"
                " drops them (logged once)"
            )
        self._warn(text, self._address(), self._service)
        return True

    def refusing(self, count: int) -> None:
        """
        Log that the broker has refused event logs for the second time.
        """
        if not self.is_refusing:
            self.is_refusing = True
            self._warn(
                "event logs refused by broker %s (service %s): a queue is full or missing; %d are"
                " retried with growing pauses, new ones are published meanwhile (logged once)",
                self._address(),
                self._service,
                count,
            )

    def accepting(self) -> None:
        """
        Log that the broker has accepted all event logs that it had refused.
        """
        if self.is_refusing:
            self.is_refusing = False
            self._warn(
                "all refused event logs accepted by broker %s (service %s)",
                self._address(),
                self._service,
            )

    def aside(self, is_full: bool, count: int) -> None:
        """
        Log that publishing has paused, because as many refused event logs wait as memory allows.
        """
        if is_full and not self._is_aside_full:
            self._warn(
                "%d event logs refused by broker %s (service %s): no more fit into memory; new"
                " ones are published when it accepts some (logged once)",
                count,
                self._address(),
                self._service,
            )
        self._is_aside_full = is_full

    def slow(self, seconds: float, patience: float, confirm_timeout: float) -> None:
        """
        Log that a confirm took longer than ``confirm_timeout``.
        """
        if not self._is_slow:
            self._is_slow = True
            self._warn(
                "a confirm took %.1f s at broker %s (service %s); the relay now waits up to %.0f"
                " s; set EVENTLOG_DISPATCHER.confirm_timeout (%s) above the time that the broker"
                " needs (logged once)",
                seconds,
                self._address(),
                self._service,
                patience,
                confirm_timeout,
            )

    def quick(self) -> None:
        """
        Note that confirms arrive in time again.
        """
        self._is_slow = False

    def failed(self, exc: Exception) -> None:
        """
        Log that the relay failed because of an error in its own code.
        """
        if repr(exc) != self._failure:
            self._failure = repr(exc)
            with contextlib.suppress(Exception):  # the service's handlers may raise
                _log.exception(
                    "relay failed at broker %s (service %s); restarting",
                    self._address(),
                    self._service,
                )

    def _warn(self, text: str, *values: object) -> None:
        with contextlib.suppress(Exception):  # the service's handlers may raise
            _log.warning(text, *values)
