"""
From a serialised body to the broker's confirm: the outbox and the relay.
"""

from nameko_eventlog.delivery.message import Message
from nameko_eventlog.delivery.route import Route
from nameko_eventlog.delivery.service import BrokerDelivery, Delivery, process_stats


__all__ = ["BrokerDelivery", "Delivery", "Message", "Route", "process_stats"]
