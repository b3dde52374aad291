"""
Receiving event logs, without importing anything from the sending side.
"""

from nameko_eventlog.amqp.received import ReceivedMessage
from nameko_eventlog.consuming.queues import QueueOptions
from nameko_eventlog.consuming.settling import Settling


__all__ = ["QueueOptions", "ReceivedMessage", "Settling"]
