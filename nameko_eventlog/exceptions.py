"""
The exceptions that a manual dispatch raises, and that an event log handler may raise.
"""

from __future__ import annotations


class EventLogError(Exception):
    """
    The base class of this package's errors.
    """


class EventLogTypeError(EventLogError, TypeError):
    """
    An argument has the wrong type, or a value in it cannot be serialised.
    """


class EventLogValueError(EventLogError, ValueError):
    """
    An argument has the right type, but a value that cannot be dispatched.
    """


class OversizedEvent(EventLogValueError):
    """
    The body is larger than ``max_event_bytes``, or than consumers accept.
    """


class NotConfirmed(EventLogError):
    """
    The broker did not confirm a manual dispatch in time.

    Args:
        message_id: The event log's id.
        sent: Whether it was sent. If not, it was withdrawn and will not arrive. If it was, it
            stays in the outbox and may still arrive, under the same id.
        reason: Why it was not confirmed.

    .. versionadded:: 0.1.0
    """

    def __init__(self, message_id: str, sent: bool, reason: str) -> None:
        super().__init__(message_id, sent, reason)
        self.message_id = message_id
        self.sent = sent
        self.reason = reason

    def __str__(self) -> str:
        outcome = "it was sent and may still arrive" if self.sent else "it was not sent: withdrawn"
        return f"event log {self.message_id} was not confirmed: {self.reason}; {outcome}"


class Unavailable(EventLogError):
    """
    Raised by an event log handler that cannot work now, whatever it is called with.

    The event logs are not to blame: no attempt is counted, and none becomes a dead letter. They
    are held and tried again. After a minute they are returned to the broker, until the consumer's
    ``probe`` returns true.

    .. versionadded:: 0.1.0
    """
