"""
What a manual dispatch raises, and what a handler of event logs may raise.
"""

from __future__ import annotations


class EventLogError(Exception):
    """
    The base class of this package's errors.
    """


class EventLogTypeError(EventLogError, TypeError):
    """
    An argument of the wrong type, or a value that no serializer knows.
    """


class EventLogValueError(EventLogError, ValueError):
    """
    An argument of the right type with a value that cannot be dispatched.
    """


class OversizedEvent(EventLogValueError):
    """
    A body above ``max_event_bytes``.
    """


class NotConfirmed(EventLogError):
    """
    The broker did not confirm a manual dispatch in time.

    Args:
        message_id: The event log's id.
        sent: Whether it was sent. If not, it has been withdrawn and will not arrive. If so,
            it stays in the outbox and may still arrive, under the same id.
        reason: Why, in words.

    .. versionadded:: 0.1.0
    """

    def __init__(self, message_id: str, sent: bool, reason: str) -> None:
        super().__init__(message_id, sent, reason)
        self.message_id = message_id
        self.sent = sent
        self.reason = reason

    def __str__(self) -> str:
        fate = "it was sent and may still arrive" if self.sent else "it was not sent: withdrawn"
        return f"event log {self.message_id} was not confirmed: {self.reason}; {fate}"


class Unavailable(EventLogError):
    """
    Raised by a handler of event logs that cannot work now, whatever it is handed.

    Nothing is wrong with the event logs: no attempt is counted, none becomes a dead letter. They
    are held and tried again; after a minute the broker has them back, until the consumer's
    ``probe`` says that there is a point in trying.

    .. versionadded:: 0.1.0
    """
